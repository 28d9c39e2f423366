#!/usr/bin/env bash
# The whole chain on CIFAR-10 and its measurements: encoder, codebook, VQGAN, codes, priors, renderers, tables, model.
#
#   experiments/cifar10.sh all DATA
#
# DATA holds cifar10-train.zip and cifar10-test.zip (class folders of pictures), efficientnet-lite0.safetensors and
# squeezenet1_1.safetensors (experiments/efficientnet_lite0.py, experiments/squeezenet.py) and, for the comparison of
# encoders, vits14-saliency.safetensors. Everything is written below runs/cifar10 (RUNS).
#
# Cost: about 25 minutes on one H200. Every part resumes when repeated, and ends at once when it is done. Parts in order:
#   base    classifier (the judge), VQGAN, encoders (self-supervised, distilled, enlarged ViT-S/14), side by side
#   codes   the tokenizers and every picture's codes
#   priors  prior, both renderers, VQ-only prior, and the chain of the ViT-S/14, side by side
#   tables  bench/results/cifar10.json, the grids beside it, docs/reproduction.md and the table of the README
#   model   the bundled model, digit/models/cifar10
# Settings: STEPS of priors and renderers, VQGAN_STEPS, DISTILL_STEPS, SSL_MINUTES, LIMIT (seconds after which a training saves itself
# and stops, to go on when repeated), PYTHON.
set -uo pipefail
cd "$(dirname "$0")/.."
part=${1:?which part: base, codes, priors, tables, model or all}
data=${2:?folder of the data}
runs=${RUNS:-runs/cifar10}
steps=${STEPS:-5000}
limit=${LIMIT:+--wall-clock-limit $LIMIT}
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=.:experiments${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$runs/logs"
digit() { "$python" -c 'from digit.run.main import main; main()' "$@"; }

# named NAME COMMAND...: run it with its own log, and say how it ended.
named() {
    local name=$1 start=$SECONDS; shift
    if "$@" > "$runs/logs/$name.log" 2>&1; then echo "$name: done in $((SECONDS - start)) s"
    else echo "$name: FAILED after $((SECONDS - start)) s"; tail -n 12 "$runs/logs/$name.log"; return 1; fi
}
together() { local failed=0 pid; for pid in "$@"; do wait "$pid" || failed=1; done; return $failed; }

classifier() {
    named classifier "$python" experiments/classifier.py --images "$data/cifar10-train.zip" --test "$data/cifar10-test.zip" \
        --out "$runs/classifier"
}

own_encoder() {  # what self-supervision on the pictures themselves gives in the same few minutes
    named own-encoder "$python" experiments/self_supervised.py --images "$data/cifar10-train.zip" --test "$data/cifar10-test.zip" \
        --out "$runs/ssl" --minutes "${SSL_MINUTES:-4}"
}

distilled() {
    named distilled "$python" experiments/distillation.py --images "$data/cifar10-train.zip" --test "$data/cifar10-test.zip" \
        --teacher-weights "$data/vits14-saliency.safetensors" --teacher-depth "${SALIENCY_DEPTH:-12}" --out "$runs/distilled" \
        --steps "${DISTILL_STEPS:-6000}" ${LIMIT:+--limit $LIMIT}
}

vqgan() {
    named vqgan digit train vqgan --images "$data/cifar10-train.zip" --held-out "$data/cifar10-test.zip" --out "$runs/vqgan" \
        --config experiments/cifar10/vqgan.toml --perceptual-weights "$data/efficientnet-lite0.safetensors" \
        --steps "${VQGAN_STEPS:-9000}" $limit
}

saliency_tokenizer() {
    [ -f "$runs/saliency/tokenizer/config.json" ] || named fit-saliency digit fit --images "$data/cifar10-train.zip" \
        --out "$runs/saliency/tokenizer" --encoder vit_small_patch14_dinov2 --encoder-weights "$data/vits14-saliency.safetensors" \
        --encoder-size 112 --encoder-arguments depth "${SALIENCY_DEPTH:-12}" --block $((9 - ${SALIENCY_DEPTH:-12})) --size 32 \
        --clusters 1024 --per-cluster 512 --batch 512
}

tokenizer() {
    [ -f "$runs/tokenizer/config.json" ] || named fit digit fit --images "$data/cifar10-train.zip" --out "$runs/tokenizer" \
        --encoder vit_tiny_patch16_224 --encoder-weights "$runs/distilled/encoder.safetensors" --encoder-size 32 --block -1 \
        --encoder-arguments patch_size 4 embed_dim 256 depth 7 num_heads 4 --clusters 1024 --per-cluster 512 --batch 512
}

base() {
    local pids=() each
    for each in classifier vqgan distilled saliency_tokenizer ${OWN_ENCODER:+own_encoder}; do $each & pids+=($!); done
    together "${pids[@]}"
}

codes() {
    tokenizer || return 1
    local pids=() each
    for each in train test; do
        named "codes-$each" digit tokenize --images "$data/cifar10-$each.zip" --out "$runs/codes-$each" --batch 512 \
            --tokenizer "$runs/tokenizer" --vqgan "$runs/vqgan" & pids+=($!)
    done
    named codes-saliency digit tokenize --images "$data/cifar10-train.zip" --batch 512 --out "$runs/saliency/codes-train" \
        --tokenizer "$runs/saliency/tokenizer" --vqgan "$runs/vqgan" & pids+=($!)
    together "${pids[@]}"
}

gpt="--config experiments/cifar10/gpt.toml"
prior="--width 320 --layers 8 --norm pre --dropout 0.1 --label-dropout 0.1"
renderer="--width 256 --layers 6 --dropout 0.1"

priors() {
    local pids=() c="$runs/codes-train" t="--held-out $runs/codes-test" saliency="$runs/saliency"
    named prior digit train prior --codes "$c" $t --out "$runs/prior" $prior $gpt --steps "$steps" $limit & pids+=($!)
    named renderer digit train renderer --codes "$c" $t --out "$runs/renderer" --vqgan "$runs/vqgan" $renderer $gpt \
        --steps "$steps" $limit & pids+=($!)
    named renderer-masked digit train renderer --masked --codes "$c" $t --out "$runs/renderer_masked" --vqgan "$runs/vqgan" \
        $renderer $gpt --steps "$steps" $limit & pids+=($!)
    vq_only & pids+=($!)
    named prior-saliency digit train prior --codes "$saliency/codes-train" --out "$saliency/prior" $prior $gpt \
        --steps "$steps" $limit & pids+=($!)
    named renderer-saliency digit train renderer --codes "$saliency/codes-train" --out "$saliency/renderer" --vqgan "$runs/vqgan" \
        $renderer $gpt --steps "$steps" $limit & pids+=($!)
    together "${pids[@]}"
}

vq_only() {  # the same run, measured when it has the prior's steps and again when it has the compute of prior and renderer
    local c="$runs/codes-train" t="--held-out $runs/codes-test" matched
    named prior-vq digit train prior --over vq_codes --codes "$c" $t --out "$runs/prior_vq" $prior $gpt --steps "$steps" $limit || return 1
    matched=$("$python" experiments/cifar10/compute.py "$runs" "$steps") || return 1
    [ -d "$runs/prior_vq_compute" ] || cp -r "$runs/prior_vq" "$runs/prior_vq_compute"
    named prior-vq-compute digit train prior --over vq_codes --codes "$c" $t --out "$runs/prior_vq_compute" $prior $gpt \
        --steps "$matched" $limit
}

tables() {
    mkdir -p bench/results
    named tables "$python" experiments/cifar10/reproduction.py --runs "$runs" --data "$data" --out bench/results/cifar10.json \
        --seconds "${TABLE_SECONDS:-100000}" || return 1
    named report "$python" experiments/cifar10/report.py --runs "$runs" --result bench/results/cifar10.json \
        --out docs/reproduction.md --readme README.md
}

model() { named model "$python" experiments/cifar10/bundle.py --runs "$runs" --result bench/results/cifar10.json --out digit/models/cifar10; }

case $part in
    base | classifier | vqgan | distilled | own_encoder | saliency_tokenizer | codes | priors | tables | model) "$part" ;;
    all) OWN_ENCODER=1 base && codes && priors && tables && model ;;
    *) echo "unknown part $part: base, codes, priors, tables, model or all" >&2; exit 2 ;;
esac
