#!/usr/bin/env bash
# Submits a training to a Ray cluster as a job, with the files of this folder: launch/ray-job.sh train.py
#
#   RAY_API_SERVER_ADDRESS=http://head:8265   where the cluster takes jobs (the default is this machine)
#   WORKERS=2:16                              how many, or the least and the most

set -euo pipefail
ray job submit --working-dir . -- \
  dist-ai launch "$1" --engine ray --workers "${WORKERS:-2}" --max-restarts 3 -- "${@:2}"
