#!/usr/bin/env bash
# Trains on several machines of a Slurm cluster, one task a GPU, started by srun: sbatch launch/slurm-srun.sh train.py
#
# `dist-ai launch --engine slurm` calls srun in the allocation, tells an error once, keeps a log of each rank and starts again
# after a failure. (`srun python train.py` would do too: the script finds out from Slurm's variables who it is.) The run
# directory must be on storage that all machines share. Change the lines below to your cluster. Slurm sends SIGTERM two minutes before the time is
# up: all ranks write a checkpoint and end with 143, and the job is put into the queue again, where it goes on.
#
#SBATCH --job-name=dist-ai
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -uo pipefail
dist-ai launch "$1" --engine slurm --workers "$SLURM_NTASKS" --max-restarts 3 -- "${@:2}" &
launcher=$!
trap 'kill -TERM $launcher' TERM
code=0
while kill -0 "$launcher" 2>/dev/null; do # a signal ends `wait`, and not the launcher
  wait "$launcher"
  code=$?
done
[[ $code != 143 ]] || scontrol requeue "$SLURM_JOB_ID"
exit "$code"
