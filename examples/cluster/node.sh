#!/bin/bash
# One node with GPUs, eight by default: a worker on each, and one training on all of them.
#   GPUS=8 bash examples/cluster/node.sh [CONFIG] [further flags]
set -euo pipefail
gpus=${GPUS:-8} cores=$(env -u OMP_NUM_THREADS nproc)
threads=$((cores > gpus ? cores / gpus : 1))
export OMP_NUM_THREADS=$threads MKL_NUM_THREADS=$threads PYTHONHASHSEED=0 RAY_USAGE_STATS_ENABLED=0
WORKERS=$gpus PROCESSES=$gpus exec bash "$(dirname "$0")/pipeline.sh" "${1:-qwen2.5-7b}" "${@:2}"
