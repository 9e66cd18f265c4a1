#!/usr/bin/env bash
# A Ray cluster of two nodes on this one machine, for as long as a command runs:
#
#   bash recipes/cluster/two_nodes_cpu.sh COMMAND [ARGUMENT...]
#
# Each node offers one training worker (Ray calls it "GPU"; on CPU a process), so a run with trainer.nnodes=2 and
# trainer.n_gpus_per_node=1 has a worker, a vLLM server and a share of the rest on each. The command finds the cluster
# through RAY_ADDRESS; verl's processes get the environment of this script, as they get that of `ray start` on any
# cluster. In the end the two nodes are stopped, and nothing else is.
#
#   NODE_CPUS      logical processors of each node (what verl reserves, not what there is)     default: 16
#   NODE_STORE     bytes of shared memory for Ray's objects on each node                        default: 500000000
#   NODE_PIDS      file to write "head PID" and "second PID" to: to kill one and see            default: none
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source-path=SCRIPTDIR source=../launch.sh
source "$HERE/../launch.sh"

(($#)) || launch_fail "which command? bash recipes/cluster/two_nodes_cpu.sh COMMAND [ARGUMENT...]"
: "${NODE_CPUS:=16}" "${NODE_STORE:=500000000}" "${NODE_PIDS:=}"
command -v ray >/dev/null || visionr1_environment cpu
export VERL_PLATFORM=cpu OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TORCH_COMPILE_DISABLE=${TORCH_COMPILE_DISABLE:-1}
export RAY_USAGE_STATS_ENABLED=0 RAY_DEDUP_LOGS=0 TMPDIR # what both nodes say is shown twice
# A token of this cluster's own. Without it a head that finds ~/.ray/auth_token asks for it, and nodes do not bring it.
if [[ -z ${RAY_AUTH_MODE:-} ]]; then
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
  RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
fi

# Each node has an address of its own (all of 127.0.0.0/8 is this machine), so that they look like two machines: verl
# sorts its workers by it, and Ray writes it into the log.
HEAD_IP=127.0.0.2 SECOND_IP=127.0.0.3
NODES_TMP=$(mktemp -d /tmp/visionr1-XXXXXX) # short: Ray puts sockets below it, whose paths are limited
TMPDIR=$NODES_TMP
touch "$NODES_TMP/.started"
NODES=() COMMAND=''

start_node() {
  local name=$1
  shift
  # "--block" keeps a parent of all of the node's processes; a session of its own, so that they can be found.
  setsid ray start --block --disable-usage-stats --num-cpus="$NODE_CPUS" --num-gpus=1 \
    --object-store-memory="$NODE_STORE" --temp-dir="$NODES_TMP/$name" --min-worker-port=0 --max-worker-port=0 \
    "$@" >"$NODES_TMP/$name.log" 2>&1 &
  NODES+=("$!")
  disown # no word when it is ended
  [[ -z $NODE_PIDS ]] || printf '%s %s\n' "$name" "${NODES[-1]}" >>"$NODE_PIDS"
}

stop_nodes() {
  local session
  trap - EXIT
  [[ -z $COMMAND ]] || kill "$COMMAND" 2>/dev/null || true
  for session in "${NODES[@]}"; do launch_end_session "$session"; done
  launch_clear_folder "$NODES_TMP"
}

# Waits until a node is up, by what `ray start` says.
await_node() {
  local name=$1 session=${NODES[-1]}
  until grep -qs 'Ray runtime started' "$NODES_TMP/$name.log"; do
    kill -0 "$session" 2>/dev/null || launch_fail "the node did not start: $(tail -n 3 "$NODES_TMP/$name.log")"
    sleep 0.2
  done
}

trap stop_nodes EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.2", 0)); print(s.getsockname()[1])')
export RAY_ADDRESS=$HEAD_IP:$port
start_node head --head --port="$port" --node-ip-address="$HEAD_IP" --include-dashboard=false
await_node head
start_node second --address="$RAY_ADDRESS" --node-ip-address="$SECOND_IP"
await_node second
printf 'Ray cluster of two nodes at %s\n' "$RAY_ADDRESS"
status=0
"$@" & # in the background: a signal to this script is heard at once
COMMAND=$!
wait "$COMMAND" || status=$?
COMMAND=''
exit "$status"
