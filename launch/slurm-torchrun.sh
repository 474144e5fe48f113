#!/usr/bin/env bash
# Trains on several machines of a Slurm cluster, with torchrun on each of them: sbatch launch/slurm-torchrun.sh train.py
#
# Change the lines below to your cluster, or give them to sbatch. Slurm sends SIGTERM two minutes before the time is up, and
# all ranks write a checkpoint; torchrun waits 30 s for them. Submitted again, the run goes on from there.
#
#SBATCH --job-name=dist-ai
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append

set -euo pipefail
# Else a machine that was lost and comes back waits for an address that nobody tells (torch 2.14).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" --max-restarts 3 \
  --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$head:29500" "$@"
