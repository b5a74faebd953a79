#!/bin/bash
# Several nodes that ssh reaches without a password, this one first: a Ray cluster of all of them that lives as long as the work, and
# one training on this node's GPUs. Each has this folder under the same path, with the package in .venv or $VENV, and the base.
#   GPUS=8 bash examples/cluster/nodes.sh "node2 node3" [CONFIG] [further flags]
set -euo pipefail
read -ra others <<< "$1"
gpus=${GPUS:-8} threads=${THREADS:-4} port=${PORT:-6379} venv=${VENV:-$PWD/.venv}
workers_each=$((gpus > 0 ? gpus : 1))
source "$venv/bin/activate"
settings="export OMP_NUM_THREADS=$threads MKL_NUM_THREADS=$threads PYTHONHASHSEED=0 RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token"
eval "$settings"
address=$(python -c 'import ray.util; print(ray.util.get_node_ip_address())'):$port
# A secret of this cluster alone; other nodes read it from standard input, where nobody sees it in a list of processes.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

trap 'kill $(jobs -p) 2> /dev/null; wait' EXIT
ray start --head --port="$port" --num-gpus="$gpus" --include-dashboard=false --block > ray_head.log &
until ray status --address="$address" > /dev/null 2>&1; do
    kill -0 $! 2> /dev/null || { echo "the head did not start; see ray_head.log" >&2; exit 1; }
    sleep 1
done
for node in "${others[@]}"; do
    # The node's part ends when its standard input does: with this script, or with the connection.
    join="$settings; read -r RAY_AUTH_TOKEN; export RAY_AUTH_TOKEN; cd '$PWD' && . '$venv/bin/activate' || exit
        ray start --address='$address' --num-gpus='$gpus' --block & cat; kill \$!; wait"
    { echo "$RAY_AUTH_TOKEN"; exec sleep infinity; } | ssh "$node" "$join" > "ray_$node.log" &
done

WORKERS=$(((${#others[@]} + 1) * workers_each)) ADDRESS=$address PROCESSES=$workers_each \
    bash "$(dirname "$0")/pipeline.sh" "${2:-qwen2.5-7b}" "${@:3}"
