#!/bin/bash
# A laptop: worker processes of one thread each, as many as there are processors.
#   bash examples/cluster/laptop.sh [CONFIG] [further flags]
set -euo pipefail
workers=$(env -u OMP_NUM_THREADS nproc)
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 PYTHONHASHSEED=0 RAY_USAGE_STATS_ENABLED=0
WORKERS=$workers exec bash "$(dirname "$0")/pipeline.sh" "${1:-delta_multi}" "${@:2}"
