# shellcheck shell=bash
# The one launcher of all recipes. A recipe is
#
#   source recipes/launch.sh
#   profile FAMILY TASK ...            what it is on a CPU (recipes/inputs.sh)
#   VARIABLE=${VARIABLE:-default} ...  and the arrays DATA, MODEL, ACTOR, ROLLOUT, REWARD, TRAINER: overrides for verl
#   train_data ...; val_data ...       its data files, and the commands that make them (recipes/inputs.sh)
#   launch "$@"                        options and variables become overrides for verl (recipes/settings.sh)
#
# The launcher checks, runs `python -m verl.trainer.main_ppo` in a session of its own, shows progress, reports at the
# end, and leaves nothing behind: no process, no temporary file, no shared memory. Run again, it resumes from the last
# checkpoint.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
DATA_DIR=${DATA_DIR:-$ROOT/data}
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$ROOT/recipes/environment.sh"
# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$ROOT/recipes/settings.sh"
# shellcheck source-path=SCRIPTDIR source=inputs.sh
source "$ROOT/recipes/inputs.sh"
declare -a DATA=() MODEL=() ACTOR=() ROLLOUT=() REWARD=() TRAINER=() CONFIG=() VARIANTS=() BATCHING=()

launch_say() { printf '%s\n' "$*"; }
launch_fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

launch() {
  launch_options "$@"
  if [[ $LAUNCH_MODE == data ]]; then
    launch_print_commands
    return
  fi
  launch_defaults
  launch_environment
  case $LAUNCH_MODE in
    train) launch_run ;;
    dry-run)
      launch_make_model
      launch_draw_scenes
      launch_config
      launch_check_data
      ((NODES == 1)) || [[ -n ${RAY_ADDRESS:-} ]] || launch_say "note: RAY_ADDRESS is not set; a run with NODES=$NODES needs it"
      visionr1 dry-run --data-later "${CONFIG[@]}" "${LAUNCH_OVERRIDES[@]}"
      ;;
    print-command)
      launch_config
      launch_check_data
      launch_print_command
      ;;
  esac
}

launch_defaults() {
  : "${PLATFORM:=cuda}" "${RUN_DIR:=$ROOT/outputs/$(basename "$0" .sh)}" "${TOTAL_STEPS:?a recipe sets TOTAL_STEPS}"
  : "${GPUS:=1}" "${NODES:=1}" "${TEST_FREQ:=10}" "${SAVE_FREQ:=20}" "${TRAIN_BATCH:=512}" "${MINI_BATCH:=$TRAIN_BATCH}"
  : "${ROLLOUT_N:=8}" "${MICRO_BATCH:=8}" "${MAX_PROMPT:=1024}" "${MAX_RESPONSE:=1024}" "${LR:=1e-6}" "${KL_COEF:=0}"
  : "${TEMPERATURE:=1.0}" "${PRESET:=visionr1}" "${LOSS:=token-mean}" "${LORA:=0}" "${LORA_LR:=1e-5}"
  : "${STAGES:=null}" "${SWITCH_AT:=null}" "${SCHEDULE:=null}" "${WEIGHTS:=}" "${ROUTES:=}" "${SEED:=1}" "${LOGGERS:=}"
  : "${FREEZE_VISION:=0}" "${FILTER_GROUPS:=}" "${PARAMS:=}" "${VISION_PARAMS:=}" "${PATCH_PIXELS:=28}" "${GPU_MEMORY:=80}"
  : "${HOST_MEMORY:=}" "${MIN_PIXELS:=}" "${MAX_PIXELS:=}" "${ROLLOUT_DIR:=}" "${ATTENTION:=}"
  : "${PROJECT:=verl-visionr1}" "${EXPERIMENT:=$(basename "$RUN_DIR")}"
  [[ $KL_COEF != off ]] || KL_COEF=0
  RUN_DIR=$(realpath -m "$RUN_DIR")
  VALIDATION_DIR=${VALIDATION_DIR-$RUN_DIR/validation}
  launch_scenes
  : "${MODEL_PATH:?a recipe sets MODEL_PATH}"
  TRAIN_FILES=${TRAIN_FILES:-$(launch_list "${LAUNCH_TRAIN[@]}")} VAL_FILES=${VAL_FILES:-$(launch_list "${LAUNCH_VAL[@]}")}
  export RUN_DIR
  launch_check_options
}

# The active Python where it has verl, else the own environment. A dry run is content with the packages that are here
# already, for a CPU or for GPUs; a command to print needs `visionr1 plan` alone.
launch_environment() {
  local extra=${PLATFORM/cuda/gpu} other=cpu
  if [[ $LAUNCH_MODE == train ]]; then
    visionr1_run_environment "$extra"
  elif [[ $LAUNCH_MODE == dry-run ]] || ! command -v visionr1 >/dev/null; then
    [[ $extra != cpu ]] || other=gpu
    ! _visionr1_is_current "$other" || extra=$other
    VISIONR1_ANY_VLLM=1 visionr1_run_environment "$extra"
  fi
  [[ -z $LAUNCH_FLASH || $LAUNCH_MODE != train ]] || visionr1_flash "${LAUNCH_FLASH#yes}"
}

# ------------------------------------------------------------------------------------------------------------- running

launch_run() {
  LAUNCH_LOG=$RUN_DIR/train.log LAUNCH_TRACE=$RUN_DIR/.launch LAUNCH_SESSION='' LAUNCH_WATCHER='' LAUNCH_TMP=''
  mkdir -p "$RUN_DIR" || launch_fail "RUN_DIR=$RUN_DIR cannot be made"
  exec 8>>"$RUN_DIR/.lock"
  flock -n 8 || launch_fail "this run is in progress; RUN_DIR=<another folder> starts a second one"
  launch_clear_stale
  if [[ -z $LAUNCH_FRESH && -f $RUN_DIR/.finished ]] && (($(<"$RUN_DIR/.finished") >= TOTAL_STEPS)); then
    launch_say "This run has finished ($(<"$RUN_DIR/.finished") steps). --fresh starts over; a larger TOTAL_STEPS goes on."
    launch_report
    return
  fi
  launch_make_model
  launch_check_model
  launch_draw_scenes
  launch_checks
  launch_lock
  launch_config
  [[ -z $LAUNCH_FRESH ]] || launch_delete_results # after every check: a typo costs no run
  launch_train
}

launch_delete_results() {
  rm -rf "$RUN_DIR"/{checkpoints,metrics,hydra,validation,rollouts,train.log,report.png,report.json,.finished}
}

launch_check_model() {
  [[ $MODEL_PATH == /* || $MODEL_PATH == .* || -d $MODEL_PATH ]] || return 0 # a name of the hub
  [[ -f $MODEL_PATH/config.json ]] || launch_fail "MODEL_PATH=$MODEL_PATH: no config.json there"
  export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} # all that is needed is here
}

# What can be seen to be missing in a second; verl_visionr1/runtime/preflight.py looks deeper, also before Ray starts.
launch_checks() {
  if ((NODES > 1)) && [[ -z ${RAY_ADDRESS:-} ]]; then
    launch_fail "NODES=$NODES: needs a Ray cluster that runs already: RAY_ADDRESS=<head>:6379; docs/howto/several-nodes.md"
  fi
  launch_check_data
  launch_room /dev/shm 0.3 "weights go to vLLM through shared memory; in a container: --shm-size=2g"
  launch_room "$RUN_DIR" "${VISIONR1_MIN_FREE_GB:-$(launch_checkpoints_gb)}" "checkpoints are written there; set RUN_DIR to another disk" "$(launch_freed_gb)"
  if [[ $PLATFORM == cpu ]]; then
    local free_gb needed_gb=$((6 + 5 * GPUS)) # measured: 12 GB in use at the peak with one worker, 15 with two
    free_gb=$(awk '/^MemAvailable/ { print int($2 / 1e6) }' /proc/meminfo)
    ((free_gb >= needed_gb)) || launch_fail "$free_gb GB of memory available, this run on CPU needs $needed_gb; stop other programs"
  fi
  return 0
}

# Two checkpoints are kept while the third is written: weights in float32, and Adam's two moments of what is trained.
launch_checkpoints_gb() {
  local bytes=12
  ((LORA == 0)) || bytes=4
  [[ $PLATFORM == cpu || -z $PARAMS || $SAVE_FREQ == -1 ]] && bytes=0
  awk -v params="${PARAMS:-0}" -v bytes="$bytes" 'BEGIN { print int(2 + 3 * bytes * params / 1e9) }'
}

# Disk space in GB that --fresh will free.
launch_freed_gb() {
  [[ -n ${LAUNCH_FRESH:-} && -d $RUN_DIR/checkpoints ]] || { echo 0 && return; }
  du -sk "$RUN_DIR/checkpoints" | awk '{ print $1 / 1e6 }'
}

# launch_room FOLDER GB WHY [GB that will be freed]
launch_room() {
  local free_gb
  free_gb=$(df -Pk "$1" | awk -v freed="${4:-0}" 'NR == 2 { printf "%.1f", $4 / 1e6 + freed }')
  awk -v free="$free_gb" -v needed="$2" 'BEGIN { exit free + 0 >= needed + 0 }' &&
    launch_fail "$free_gb GB free in $1, a run needs $2: $3"
  return 0
}

# One run on CPU at a time: two would share the socket that carries the weights, and Ray's start times out on busy cores.
launch_lock() {
  [[ $PLATFORM == cpu ]] || return 0
  local lock=/tmp/visionr1-cpu-$UID.lock
  exec 9>>"$lock"
  flock -n 9 || launch_fail "another run on this machine's CPU is in progress ($(tail -n 1 "$lock"))"
  printf '%s\n' "$RUN_DIR" >"$lock"
}

launch_train() {
  local from status=0
  LAUNCH_TMP=$(mktemp -d /tmp/visionr1-XXXXXX) # short: Ray puts sockets below it, whose paths are limited
  : >"$LAUNCH_TMP/.started"
  export TMPDIR=$LAUNCH_TMP RAY_TMPDIR=$LAUNCH_TMP
  mkdir -p "$RUN_DIR/metrics"
  export VISIONR1_LAUNCH_ID=${LAUNCH_TMP##*-}
  printf '\n===== %s\n' "$(date '+%F %T')" >>"$LAUNCH_LOG"
  from=$(stat -c %s "$LAUNCH_LOG")
  launch_say "training in $RUN_DIR (log: $LAUNCH_LOG)"
  trap 'launch_stop 130' INT
  trap 'launch_stop 143' TERM HUP
  trap 'launch_clear' EXIT
  # A session of its own: Ctrl-C reaches the launcher alone, and every process of the run can be found.
  setsid python -m verl.trainer.main_ppo "${CONFIG[@]}" "${LAUNCH_OVERRIDES[@]}" >>"$LAUNCH_LOG" 2>&1 8>&- &
  LAUNCH_SESSION=$!
  printf '%s %s %s\n' "$LAUNCH_SESSION" "$VISIONR1_LAUNCH_ID" "$LAUNCH_TMP" >"$LAUNCH_TRACE"
  visionr1 watch "$RUN_DIR" --total-steps "$TOTAL_STEPS" --pid "$LAUNCH_SESSION" 8>&- 9>&- &
  LAUNCH_WATCHER=$!
  wait "$LAUNCH_SESSION" || status=$?
  wait "$LAUNCH_WATCHER" || true
  launch_clear
  ((status == 0)) || launch_explain "$from" "$status"
  printf '%s\n' "$TOTAL_STEPS" >"$RUN_DIR/.finished"
  launch_report
}

launch_report() {
  visionr1 report "$RUN_DIR" || true # it says itself why there is nothing to compare
  launch_say "checkpoints:  $RUN_DIR/checkpoints" "
metrics:      $RUN_DIR/metrics/*.jsonl
log:          $LAUNCH_LOG"
}

# The last error that the log of this start names, without Ray's prefixes and colours.
launch_explain() {
  local line
  line=$(tail -c "+$(($1 + 1))" "$LAUNCH_LOG" | sed -e 's/\x1b\[[0-9;]*m//g' -e 's/^([^)]* pid=[^)]*) *//' |
    grep -E '^(visionr1: |[A-Za-z_][A-Za-z0-9_.]*(Error|Exception|Exit|Interrupt)\b)' |
    grep -vE 'RayTaskError|^(ray\.exceptions\.)?ActorDiedError' | tail -n 3) || true
  launch_fail "training ended with exit code $2
${line:-$(tail -n 5 "$LAUNCH_LOG")}
log: $LAUNCH_LOG"
}

# ------------------------------------------------------------------------------------------------------------ clearing

launch_stop() {
  trap '' INT TERM HUP
  launch_say "" "stopping; run the same command again to resume from the last checkpoint"
  exit "$1" # the EXIT trap clears
}

# Everything of the run that is still there: its session's processes, its temporary folder, its shared memory.
launch_clear() {
  [[ -z $LAUNCH_WATCHER ]] || kill "$LAUNCH_WATCHER" 2>/dev/null || true
  [[ -z $LAUNCH_SESSION ]] || launch_end_session "$LAUNCH_SESSION"
  [[ -z $LAUNCH_TMP ]] || launch_clear_folder "$LAUNCH_TMP"
  LAUNCH_SESSION='' LAUNCH_WATCHER='' LAUNCH_TMP=''
  rm -f "$LAUNCH_TRACE"
}

# What a launcher that was killed has left: its processes are known by session and by the mark in their environment.
launch_clear_stale() {
  local session id folder pid
  [[ -f $LAUNCH_TRACE ]] && read -r session id folder <"$LAUNCH_TRACE" || return 0
  for pid in $(launch_session "$session"); do
    if tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | grep -qx "VISIONR1_LAUNCH_ID=$id"; then
      launch_say "ending what is left of an earlier start of this run"
      launch_end_session "$session"
      break
    fi
  done
  [[ $folder != /tmp/visionr1-* ]] || launch_clear_folder "$folder"
  rm -f "$LAUNCH_TRACE"
}

# Ids of the processes of a session, from /proc (ps is not everywhere).
launch_session() {
  local stat fields words
  for stat in /proc/[0-9]*/stat; do
    { read -r fields <"$stat"; } 2>/dev/null || continue
    read -r -a words <<<"${fields##*) }" # state, parent, group, session ...
    [[ ${words[0]} == Z || ${words[3]:-} != "$1" ]] || printf '%s\n' "${fields%% *}" # Z: ended, not yet waited for
  done
}

# Politely, and after five seconds for certain; returns when the last one is gone, so that its memory can be cleared.
launch_end_session() {
  local pids signal
  for signal in TERM KILL; do
    for _ in {1..20}; do
      mapfile -t pids < <(launch_session "$1")
      ((${#pids[@]})) || return 0
      kill "-$signal" "${pids[@]}" 2>/dev/null || true
      sleep 0.25
    done
  done
}

# The temporary folder of a start, and what vLLM and verl leave in /dev/shm when they are ended: segments that are younger
# than the start and that no process maps any more.
launch_clear_folder() {
  local segment
  [[ -f $1/.started ]] || return 0
  while IFS= read -r segment; do
    grep -qsF "$segment" /proc/[0-9]*/maps || rm -f "$segment"
  done < <(find /dev/shm -maxdepth 1 -type f -user "$UID" -newer "$1/.started" \( -name 'psm_*' -o -name 'verl_weights_*' \))
  rm -rf "$1" || true
}
