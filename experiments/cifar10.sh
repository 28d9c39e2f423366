#!/usr/bin/env bash
# The whole chain on CIFAR-10 and its measurements: encoder, codebook, VQGAN, codes, priors, renderers, tables, model.
#
#   experiments/cifar10.sh all DATA        DATA holds cifar10-train.zip, cifar10-test.zip, efficientnet-lite0.safetensors,
#                                          squeezenet1_1.safetensors and, for the encoder comparison, vits14-saliency.safetensors
#
# Cost: about 25 minutes on one H200. Every part resumes when repeated and ends at once when done. Parts, in order:
# smoke, base (classifier, self-supervised encoder, VQGAN, side by side), codes, priors, tables, model.
# Settings: RUNS (default runs/cifar10), STEPS (updates of priors and renderers), LIMIT (seconds after which a training
# saves and stops, to go on when repeated), SSL_MINUTES, VQGAN_STEPS.
set -uo pipefail
cd "$(dirname "$0")/.."
part=${1:?part: smoke, base, codes, priors, tables, model or all}
data=${2:?folder of the data}
runs=${RUNS:-runs/cifar10}
steps=${STEPS:-6000}
limit=${LIMIT:+--wall-clock-limit $LIMIT}
python=${PYTHON:-python3}
export PYTHONPATH=.:experiments${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$runs/logs"
digit() { "$python" -c 'from digit.run.main import main; main()' "$@"; }

# named NAME COMMAND...: run it with its own log, and say how it ended.
named() {
    local name=$1 start=$SECONDS; shift
    if "$@" > "$runs/logs/$name.log" 2>&1; then echo "$name: done in $((SECONDS - start)) s"
    else echo "$name: FAILED after $((SECONDS - start)) s"; tail -n 15 "$runs/logs/$name.log"; return 1; fi
}

vqgan_shape="--image-size 32 --width 96 --multipliers 1 2 2 --codes 4096 --code-dim 16 --normalized-codes --attention --shortcut input"
gpt="--optimizer.lr 1e-3 --warmup 500 --schedule cosine --weight-decay 0.05 --no-decay-all --ema 0.999 --compile --batch 512"

classifier() { named classifier "$python" experiments/classifier.py --images "$data/cifar10-train.zip" --test "$data/cifar10-test.zip" --out "$runs/classifier"; }

encoder() {
    named encoder "$python" experiments/self_supervised.py --images "$data/cifar10-train.zip" --test "$data/cifar10-test.zip" \
        --out "$runs/ssl" --minutes "${SSL_MINUTES:-4}"
}
