#!/bin/bash
# Zoo, deltas, generator and scores of one config, where WORKERS, ADDRESS and PROCESSES say; laptop.sh, node.sh and nodes.sh call it.
#   pipeline.sh CONFIG [further flags of every command, such as --zoo DIR]
set -euo pipefail
config=$1
shift
where=(--engine ray --workers "$WORKERS")
if [ -n "${ADDRESS:-}" ]; then where+=(--address "$ADDRESS"); fi
name=$(basename "$config" .yaml)

llgbm zoo build "$config" "${where[@]}" "$@"
llgbm compute-deltas --config "$config" "${where[@]}" "$@"
torchrun --standalone --nproc_per_node="${PROCESSES:-1}" -m llgbm train --config "$config" --experiment_name "$name" "$@"
llgbm evaluate --run "outputs/$name" "${where[@]}" "$@"
