#!/usr/bin/env bash
# The chain from pictures to samples on all GPUs of one machine, a process each; each command goes on when repeated.
#
#   experiments/several_gpus.sh IMAGES RUNS [GPUS]
#
# IMAGES is a folder of class folders, a zip or tar shards; everything is written below RUNS. Cost, settings and memory of
# a training are told beforehand by --dry-run, as below. `digit VERB ... --processes 8` is the same as
# `torchrun --nproc-per-node 8 -m -- digit VERB ...`; several machines need torchrun (experiments/slurm/train.sh).
set -euo pipefail
images=${1:?folder, zip or tar shards of pictures}
runs=${2:?folder of the results}
gpus=${3:-8}
together() { torchrun --nproc-per-node "$gpus" -m -- "$@"; }

together digit fit --images "$images" --out "$runs/tokenizer" --encoder dinov2-b-reg --clusters 8192
together digit train vqgan --images "$images" --out "$runs/vqgan" --image-size 256 --batch 256 --perceptual vgg16
together digit tokenize --images "$images" --out "$runs/codes" --tokenizer "$runs/tokenizer" --vqgan "$runs/vqgan" --views 4
digit train prior --recipe base_cond --codes "$runs/codes" --out "$runs/prior" --dry-run --gpus "$gpus" --price-per-hour 2.5
together digit train prior --recipe base_cond --codes "$runs/codes" --out "$runs/prior" --label-dropout 0.1
together digit train renderer --recipe renderer_ar --codes "$runs/codes" --out "$runs/renderer"
# A model whose weights, gradients and moments do not fit one GPU: each keeps a part of them.
together digit train prior --recipe large_cond --codes "$runs/codes" --out "$runs/large" --sharded
digit compose --prior "$runs/prior" --renderer "$runs/renderer" --vqgan "$runs/vqgan" --tokenizer "$runs/tokenizer" --out "$runs/model"
together digit sample "$runs/model" --num 50000 --out "$runs/samples" --batch 256
together digit evaluate images --samples "$runs/samples" --reference "$images" --features inception
