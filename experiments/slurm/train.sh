#!/usr/bin/env bash
# One digit command on several GPUs of several machines under SLURM; it saves when it is told to stop, and goes on.
#
#   sbatch [--nodes 4 --gpus-per-node 8 ...] experiments/slurm/train.sh train prior --recipe base_cond --codes CODES --out RUN
#   sbatch --nodes 1 experiments/slurm/train.sh tokenize --images IMAGES --out CODES --tokenizer TOKENIZER --views 4
#
# Any verb that runs in several processes will do: fit, tokenize, train, sample, evaluate images. What it would take,
# asked beforehand on any machine:  digit train prior --recipe base_cond --codes CODES --out RUN --dry-run --gpus 32
#
# Codes, pictures and --out must lie where every machine sees them. One process a GPU; the global batch must divide
# among them, and the order of the samples does not depend on how many there are, so the next start may have more or
# fewer machines.
#
# SIGTERM (preemption, scancel, and 120 s before the time limit) reaches every process: a training saves its state
# within 30 s. The job is then queued again and the same command takes up the newest whole state; so it is after a
# machine is lost, from the last save (--save-every). A job that ends by itself, well (0) or by bad input (2), is not.
# Settings: PYTHON (of an environment that every machine sees), PORT of the machines' first meeting.
# Where machines have several networks:  export NCCL_SOCKET_IFNAME=... GLOO_SOCKET_IFNAME=...  before sbatch.
#SBATCH --job-name=digit
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=digit-%j.log
#SBATCH --signal=B:TERM@120
set -uo pipefail
: "${SLURM_JOB_ID:?this script is for sbatch: see its first lines}" "${1:?which verb of digit?}"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} # of each process; decoding has threads of its own (--threads)
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100    # seconds that processes have to save
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# One task a machine: torchrun's agent, which starts a process a GPU and passes signals on.
srun --kill-on-bad-exit=1 "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-gpu}" \
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" --rdzv-endpoint="$first:${PORT:-29500}" \
    --max-restarts=0 -m -- digit "$@" &
run=$!
stopped=0
trap 'stopped=1; kill -TERM "$run"' TERM
wait "$run"
code=$?
while kill -0 "$run" 2> /dev/null; do # the signal ended `wait`, not the run
    wait "$run"
    code=$?
done
# A machine that fails takes the whole job with it, which SLURM queues again by itself (--requeue).
if [ "$stopped" = 1 ] && [ "$code" -ne 0 ]; then
    echo "stopped by a signal (code $code), back into the queue"
    scontrol requeue "$SLURM_JOB_ID" || true # being preempted it may be there already
fi
exit "$code"
