# shellcheck shell=bash
# The one launcher of all recipes. A recipe sets variables and appends to the arrays below, then:
#
#   source recipes/launch.sh
#   launch "$@"
#
# What a recipe sets itself: PLATFORM (cpu | cuda), TRAIN_FILES, VAL_FILES ("[a.parquet,b.parquet]" for several).
#
# It checks, runs `python -m verl.trainer.main_ppo` in a session of its own, shows progress, reports at the end, and
# leaves nothing behind: no process, no temporary file, no shared memory. Run again, it resumes from the last checkpoint.

LAUNCH_KNOBS='  RUN_DIR          where everything is written; run again with the same one to resume
  GPUS, NODES      training workers on each node (on cpu: processes), and nodes
  MODEL_PATH       model to train
  TOTAL_STEPS      trainer steps
  TEST_FREQ, SAVE_FREQ         validate and save every so many steps; -1: never. Both also at the end
  TRAIN_BATCH, ROLLOUT_N       prompts a step, answers a prompt
  MICRO_BATCH      answers in one forward pass of a training worker
  MAX_PROMPT, MAX_RESPONSE     tokens
  LR, KL_COEF, TEMPERATURE     learning rate; KL to the reference model (0: none is kept); of sampling
  PRESET           a reward (visionr1 preset lists them), or a YAML file
  WEIGHTS          of the criteria, "{format:1,recall:1,precision:1}"; empty: those of the preset
  ROUTES           other presets for some tasks, "{counting:counting,pointing:gui-click}"
  SCHEDULE         how the thresholds move: staged | linear | cosine | piecewise | gated | constant | off; null: as the preset
  STAGES           thresholds (xi0,xi1,xi2) before and after the switch, "[[0.5,0.5,0.75],[0.75,0.75,0.9]]"; null: those of the preset
  SWITCH_AT        fraction of training at which the thresholds tighten; null: as the preset
  SEED             order of the data and sampling
  LOGGERS          verl'"'"'s loggers besides "file", e.g. ",wandb"'

launch_help() {
  printf '%s\n\nVariables (defaults at the top of the script, or in recipes/launch.sh):\n%s\n%s\n' "$1" "${2:-}${2:+$'\n'}$LAUNCH_KNOBS" '
Options:
  --fresh          start over: delete what an earlier run left in RUN_DIR
  --help           this text
Everything else goes to verl, after the settings of the script:
  bash '"$0"' actor_rollout_ref.actor.optim.lr=3e-5'
}

# ---------------------------------------------------------------------------------------------------- what verl is told

# Fills CONFIG with the overrides of a run. Arrays of the recipe come after the launcher's own and win.
launch_config() {
  local kl=()
  DATA=(
    data.train_files="$TRAIN_FILES"
    data.val_files="$VAL_FILES"
    data.train_batch_size="$TRAIN_BATCH"
    data.max_prompt_length="$MAX_PROMPT"
    data.max_response_length="$MAX_RESPONSE"
    data.image_key=images
    data.truncation=error
    data.seed="$SEED"
    "${DATA[@]}"
  )
  MODEL=(
    actor_rollout_ref.model.path="$MODEL_PATH"
    "${MODEL[@]}"
  )
  if [[ $KL_COEF != 0 && $KL_COEF != 0.0 ]]; then
    kl=(
      actor_rollout_ref.actor.use_kl_loss=True
      actor_rollout_ref.actor.kl_loss_coef="$KL_COEF"
      actor_rollout_ref.actor.kl_loss_type=low_var_kl
    )
  else
    kl=(actor_rollout_ref.actor.use_kl_loss=False)
  fi
  ACTOR=(
    actor_rollout_ref.actor.strategy=fsdp2
    actor_rollout_ref.actor.optim.lr="$LR"
    actor_rollout_ref.actor.ppo_mini_batch_size="$TRAIN_BATCH"
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu="$MICRO_BATCH"
    actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu="$MICRO_BATCH"
    actor_rollout_ref.actor.entropy_coeff=0
    "${kl[@]}"
    "${ACTOR[@]}"
  )
  ROLLOUT=(
    actor_rollout_ref.rollout.name=vllm
    actor_rollout_ref.rollout.n="$ROLLOUT_N"
    actor_rollout_ref.rollout.temperature="$TEMPERATURE"
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu="$MICRO_BATCH"
    "${ROLLOUT[@]}"
  )
  REWARD=(
    reward.reward_kwargs.visionr1.preset="$PRESET"
    reward.reward_kwargs.visionr1.schedule.kind="$SCHEDULE"
    "reward.reward_kwargs.visionr1.schedule.stages=$STAGES"
    reward.reward_kwargs.visionr1.schedule.at="$SWITCH_AT"
    ${WEIGHTS:+"++reward.reward_kwargs.visionr1.weights=$WEIGHTS"}
    ${ROUTES:+"++reward.reward_kwargs.visionr1.routes.task=$ROUTES"}
    "${REWARD[@]}"
  )
  TRAINER=(
    algorithm.adv_estimator=grpo
    algorithm.use_kl_in_reward=False
    trainer.n_gpus_per_node="$GPUS"
    trainer.nnodes="$NODES"
    trainer.total_training_steps="$TOTAL_STEPS"
    trainer.total_epochs=100000 # the steps end a run, not the epochs
    trainer.val_before_train=True
    trainer.test_freq="$TEST_FREQ"
    trainer.save_freq="$SAVE_FREQ"
    trainer.default_local_dir="$RUN_DIR/checkpoints"
    trainer.max_actor_ckpt_to_keep=2
    trainer.resume_mode=auto
    trainer.project_name="$PROJECT"
    trainer.experiment_name="$EXPERIMENT"
    "trainer.logger=[console,file$LOGGERS]"
    "${TRAINER[@]}"
  )
  if [[ $PLATFORM == cpu ]]; then
    CONFIG=("+visionr1@_global_=[progressive,cpu]" actor_rollout_ref.rollout.max_model_len="$((MAX_PROMPT + MAX_RESPONSE))")
    export VERL_PLATFORM=cpu OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TORCH_COMPILE_DISABLE=${TORCH_COMPILE_DISABLE:-1}
  else
    CONFIG=("+visionr1@_global_=progressive")
  fi
  CONFIG+=("${DATA[@]}" "${MODEL[@]}" "${ACTOR[@]}" "${ROLLOUT[@]}" "${REWARD[@]}" "${TRAINER[@]}" "hydra.run.dir=$RUN_DIR/hydra")
}

# ------------------------------------------------------------------------------------------------------------- running

launch_say() { printf '%s\n' "$*"; }
launch_fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

launch_defaults() {
  : "${RUN_DIR:?a recipe sets RUN_DIR}" "${MODEL_PATH:?a recipe sets MODEL_PATH}" "${TRAIN_FILES:?}" "${VAL_FILES:?}" "${TOTAL_STEPS:?}"
  : "${PLATFORM:=cuda}" "${GPUS:=1}" "${NODES:=1}" "${TEST_FREQ:=10}" "${SAVE_FREQ:=20}" "${TRAIN_BATCH:=512}"
  : "${ROLLOUT_N:=8}" "${MICRO_BATCH:=8}" "${MAX_PROMPT:=1024}" "${MAX_RESPONSE:=1024}" "${LR:=1e-6}" "${KL_COEF:=0}"
  : "${TEMPERATURE:=1.0}" "${PRESET:=visionr1}"
  : "${STAGES:=null}" "${SWITCH_AT:=null}" "${SCHEDULE:=null}" "${WEIGHTS:=}" "${ROUTES:=}" "${SEED:=1}" "${LOGGERS:=}"
  : "${PROJECT:=verl-visionr1}" "${EXPERIMENT:=$(basename "$RUN_DIR")}"
  declare -ga DATA MODEL ACTOR ROLLOUT REWARD TRAINER CONFIG
  mkdir -p "$RUN_DIR" || launch_fail "RUN_DIR=$RUN_DIR cannot be made"
  RUN_DIR=$(cd "$RUN_DIR" && pwd -P)
  export RUN_DIR
}

launch() {
  launch_defaults
  LAUNCH_OVERRIDES=() LAUNCH_LOG=$RUN_DIR/train.log LAUNCH_TRACE=$RUN_DIR/.launch LAUNCH_SESSION='' LAUNCH_WATCHER='' LAUNCH_TMP=''
  local word fresh=''
  for word in "$@"; do
    case $word in
      --fresh) fresh=yes ;;
      --*) launch_fail "unknown option $word; see --help" ;;
      *) LAUNCH_OVERRIDES+=("$word") ;;
    esac
  done
  exec 8>>"$RUN_DIR/.lock"
  flock -n 8 || launch_fail "this run is in progress; RUN_DIR=<another folder> starts a second one"
  launch_clear_stale
  [[ -z $fresh ]] || rm -rf "$RUN_DIR"/{checkpoints,metrics,hydra,train.log,report.png,.finished}
  if [[ -f $RUN_DIR/.finished ]] && (($(<"$RUN_DIR/.finished") >= TOTAL_STEPS)); then
    launch_say "This run has finished ($(<"$RUN_DIR/.finished") steps). --fresh starts over; a larger TOTAL_STEPS goes on."
    launch_report
    return
  fi
  launch_checks
  launch_lock
  launch_config
  launch_train
}

# What can be seen to be missing in a second; verl_visionr1/plugin/preflight.py looks deeper, also before Ray starts.
launch_checks() {
  local file
  for file in ${TRAIN_FILES//[\[\],]/ } ${VAL_FILES//[\[\],]/ }; do
    [[ -f $file ]] || launch_fail "data file $file does not exist; data_preprocess/ has the scripts that make such files"
  done
  if [[ $MODEL_PATH == /* || $MODEL_PATH == .* || -d $MODEL_PATH ]]; then
    [[ -f $MODEL_PATH/config.json ]] || launch_fail "MODEL_PATH=$MODEL_PATH: no config.json there"
    export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} # all that is needed is here
  fi
  launch_room /dev/shm 0.3 "weights go to vLLM through shared memory; in a container: --shm-size=2g"
  launch_room "$RUN_DIR" "${VISIONR1_MIN_FREE_GB:-2}" "checkpoints are written there; set RUN_DIR to another disk"
  if [[ $PLATFORM == cpu ]]; then
    local free_gb needed_gb=$((6 + 5 * GPUS)) # measured: 12 GB in use at the peak with one worker, 15 with two
    free_gb=$(awk '/^MemAvailable/ { print int($2 / 1e6) }' /proc/meminfo)
    ((free_gb >= needed_gb)) || launch_fail "$free_gb GB of memory available, this run on CPU needs $needed_gb; stop other programs"
  fi
  return 0
}

launch_room() {
  local free_gb
  free_gb=$(df -Pk "$1" | awk 'NR == 2 { printf "%.1f", $4 / 1e6 }')
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
  export VERL_FILE_LOGGER_PATH
  mkdir -p "$RUN_DIR/metrics"
  VERL_FILE_LOGGER_PATH=$RUN_DIR/metrics/$(date +%Y%m%d-%H%M%S).jsonl
  export PYTHONUNBUFFERED=1 HYDRA_FULL_ERROR=1 TOKENIZERS_PARALLELISM=${TOKENIZERS_PARALLELISM:-false}
  export RAY_USAGE_STATS_ENABLED=${RAY_USAGE_STATS_ENABLED:-0} VLLM_NO_USAGE_STATS=${VLLM_NO_USAGE_STATS:-1}
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
    fields=$({ cat "$stat"; } 2>/dev/null) || continue
    read -r -a words <<<"${fields##*) }" # state, parent, group, session ...
    [[ ${words[3]:-} != "$1" ]] || printf '%s\n' "${fields%% *}"
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
