#!/usr/bin/env bash
# Trains with a Ray cluster inside a Slurm allocation: sbatch launch/slurm-ray.sh train.py
#
# `ray symmetric-run` starts Ray on every machine, the command on the first alone, and ends Ray with it. The run directory
# must be on storage that all machines share. Change the lines below to your cluster.
#
#SBATCH --job-name=dist-ai-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00

set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
workers=$((SLURM_JOB_NUM_NODES * ${SLURM_GPUS_ON_NODE:-1}))
srun ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
  dist-ai launch "$1" --engine ray --workers "$workers" --max-restarts 3 -- "${@:2}"
