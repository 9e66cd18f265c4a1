# shellcheck shell=bash
# What verl is told: the variables of a recipe and the launcher's options, as overrides of verl's configuration.
# For recipes/launch.sh.

LAUNCH_KNOBS='  RUN_DIR          where everything is written; run again with the same one to resume
  PROFILE          gpu, or cpu: the same recipe on a tiny model and drawn scenes, for a few steps
  GPUS, NODES      training workers on each node (on cpu: processes), and nodes
  MODEL_PATH       model to train
  PARAMS, VISION_PARAMS        its parameters, and those of its vision tower: from them visionr1 plan chooses offload,
                   micro-batches and the share of vLLM; PARAMS empty: nothing is chosen, MICRO_BATCH counts
  GPU_MEMORY, HOST_MEMORY      GB of one GPU, and of one node for what is offloaded (empty: enough)
  MIN_PIXELS, MAX_PIXELS       of an image as the model sees it; both or none
  TRAIN_FILES, VAL_FILES       parquet files, "[a.parquet,b.parquet]" for several; else those of the recipe (--data)
  ATTENTION        of training on GPUs: flash (needs flash-attn) | sdpa; empty: flash where it is installed
  TOTAL_STEPS      trainer steps
  TEST_FREQ, SAVE_FREQ         validate and save every so many steps; -1: never. Both also at the end
  TRAIN_BATCH, ROLLOUT_N       prompts per step, answers per prompt
  MINI_BATCH       prompts of an optimizer step; empty: TRAIN_BATCH, one optimizer step in each trainer step
  MICRO_BATCH      answers in one forward pass of a training worker
  MAX_PROMPT, MAX_RESPONSE     tokens
  LR, KL_COEF, TEMPERATURE     learning rate; KL to the reference model (0: none is kept); of sampling
  LOSS             token-mean: every token counts alike | sequence-mean: every answer does
  LORA, LORA_LR    rank of LoRA (0: all weights are trained) and the learning rate that replaces LR then
  FREEZE_VISION    1: the vision tower is not trained
  FILTER_GROUPS    a metric (reward, accuracy, f1_50 ...): prompts whose answers are all alike in it are replaced
  PRESET           a reward (visionr1 preset lists them), or a YAML file
  WEIGHTS          of the criteria, "{format:1,recall:1,precision:1}"; empty: those of the preset
  ROUTES           other presets for some tasks, "{counting:counting,pointing:gui-click}"
  SCHEDULE         how the thresholds move: staged | linear | cosine | piecewise | gated | constant | off; null: as the preset
  STAGES           thresholds (xi0,xi1,xi2) before and after the switch, "[[0.5,0.5,0.75],[0.75,0.75,0.9]]"; null: those of the preset
  SWITCH_AT        fraction of training at which the thresholds tighten; null: as the preset
  SEED             order of the data and sampling
  VALIDATION_DIR   folder for the answers of each validation; empty: none are kept
  ROLLOUT_DIR      folder for the answers of each training step (verl: trainer.rollout_data_dir); empty: none are kept
  LOGGERS          verl'"'"'s loggers besides "file", e.g. ",wandb"'

LAUNCH_FLAGS='
Options:
  --train FILE[,FILE]          training rows of your own: TRAIN_FILES
  --val FILE[,FILE]            validation rows of your own: VAL_FILES
  --gpus N         GPUS=N: 1, 2, 4 or 8 on each node
  --nodes N        NODES=N, on a Ray cluster that runs already (RAY_ADDRESS; docs/howto/several-nodes.md)
  --lora[=RANK]    LORA=RANK (64)
  --freeze-vision  FREEZE_VISION=1
  --filter-groups[=METRIC]     FILTER_GROUPS=METRIC (reward)
  --loss MODE      LOSS=token-mean or sequence-mean
  --kl COEF|off    KL_COEF=COEF; off: no KL loss and no reference model
  --dry-run        compose and check the whole configuration; starts nothing, writes nothing (PROFILE=cpu: its inputs)
  --print-command  print the whole `python -m verl.trainer.main_ppo` command; starts nothing, writes nothing
  --flash[=WHEEL]  install flash-attn into the own environment first: compile it (needs nvcc), or a wheel file
  --data           print the commands that make the data files
  --fresh          start over: delete what an earlier run left in RUN_DIR
  --help           this text
Everything else goes to verl, after the settings of the script:
  bash '"$0"' actor_rollout_ref.actor.optim.lr=3e-5'

# Help: the comment at the head of the recipe, its own variables (KNOBS), those of all recipes, the options.
launch_help() {
  sed -n '2,/^[^#]/ s/^# \{0,1\}//p' "$0"
  printf '\nVariables (defaults at the top of the script, or in recipes/launch.sh):\n%s\n%s\n' "${KNOBS:+$KNOBS$'\n'}$LAUNCH_KNOBS" "$LAUNCH_FLAGS"
}

# ------------------------------------------------------------------------------------------------------------- options

# Options set variables; what is no option is an override for verl, kept in LAUNCH_OVERRIDES.
launch_options() {
  local word value
  [[ " $* " != *" --help "* && " $* " != *" -h "* ]] || { launch_help; exit 0; }
  LAUNCH_OVERRIDES=() LAUNCH_MODE=train LAUNCH_FRESH='' LAUNCH_FLASH=''
  while (($#)); do
    word=$1
    shift
    case $word in
      --gpus | --nodes | --loss | --kl | --train | --val) # --gpus 4 as --gpus=4
        word+="=${1:-}"
        shift $(($# > 0))
        ;;
      --lora) [[ ! ${1:-} =~ ^[0-9]+$ ]] || { word+="=$1" && shift; } ;; # the value may be left out
      --flash) [[ ${1:-} != *.whl ]] || { word+="=$1" && shift; } ;;
      --filter-groups) [[ ! ${1:-} =~ ^[a-z][a-z0-9_]*$ ]] || { word+="=$1" && shift; } ;;
    esac
    value=${word#*=}
    case $word in
      --train=* | --val=* | --gpus=* | --nodes=* | --lora=* | --filter-groups=* | --loss=* | --kl=* | --flash=*)
        [[ -n $value && $value != --* ]] || launch_fail "${word%%=*} needs a value; see --help"
        ;;
    esac
    case $word in
      --train=*) TRAIN_FILES=$(launch_given_files "$word") ;;
      --val=*) VAL_FILES=$(launch_given_files "$word") ;;
      --gpus=*) GPUS=$value ;;
      --nodes=*) NODES=$value ;;
      --lora) LORA=64 ;;
      --lora=*) LORA=$value ;;
      --freeze-vision) FREEZE_VISION=1 ;;
      --filter-groups) FILTER_GROUPS=reward ;;
      --filter-groups=*) FILTER_GROUPS=$value ;;
      --loss=*) LOSS=$value ;;
      --kl=*) KL_COEF=$value ;;
      --fresh) LAUNCH_FRESH=yes ;;
      --flash) LAUNCH_FLASH=yes ;;
      --flash=*) LAUNCH_FLASH=$value ;;
      --dry-run | --data | --print-command) LAUNCH_MODE=${word#--} ;;
      --*) launch_fail "unknown option $word; see --help" ;;
      *) LAUNCH_OVERRIDES+=("$word") ;;
    esac
  done
}

# launch_check_values WHAT_IT_NEEDS PATTERN VARIABLE...: each is empty or of the pattern.
launch_check_values() {
  local name
  for name in "${@:3}"; do
    [[ -z ${!name:-} || ${!name} =~ ^($2)$ ]] || launch_fail "$name=${!name}: needs $1"
  done
}

# Wrong values are refused in one line, before anything is composed.
launch_check_options() {
  local whole='[1-9][0-9]*' exponent='([eE][-+]?[0-9]+)?'
  local number="([0-9]+\.?[0-9]*|\.[0-9]+)$exponent" positive="(0*[1-9][0-9]*\.?[0-9]*|0*\.0*[1-9][0-9]*)$exponent"
  launch_check_values "a whole number above 0" "$whole" GPUS NODES TOTAL_STEPS TRAIN_BATCH MINI_BATCH MICRO_BATCH ROLLOUT_N \
    MAX_PROMPT MAX_RESPONSE MIN_PIXELS MAX_PIXELS PATCH_PIXELS TRAIN_SCENES VAL_SCENES OBJECTS_MIN OBJECTS_MAX
  launch_check_values "a whole number above 0, or -1 for never" "$whole|-1" TEST_FREQ SAVE_FREQ
  launch_check_values "a whole number" "[0-9]+" SEED
  launch_check_values "a number above 0" "$positive" LR LORA_LR TEMPERATURE PARAMS VISION_PARAMS GPU_MEMORY HOST_MEMORY
  [[ $PLATFORM == cpu || $GPUS =~ ^(1|2|4|8)$ ]] || launch_fail "GPUS=$GPUS: needs 1, 2, 4 or 8 on each node"
  [[ $LORA =~ ^[0-9]+$ ]] || launch_fail "LORA=$LORA: needs a rank, or 0 for none"
  launch_check_values "a number, or off" "$number" KL_COEF
  [[ $FREEZE_VISION =~ ^[01]$ ]] || launch_fail "FREEZE_VISION=$FREEZE_VISION: needs 0 or 1"
  [[ $ATTENTION =~ ^(|flash|sdpa)$ ]] || launch_fail "ATTENTION=$ATTENTION: needs flash or sdpa"
  [[ -z $LAUNCH_FLASH || $PLATFORM != cpu ]] || launch_fail "--flash: flash-attn is for GPUs, this run is on a CPU"
  [[ $LOSS == token-mean || $LOSS == sequence-mean ]] || launch_fail "LOSS=$LOSS: needs token-mean or sequence-mean"
  [[ ${MIN_PIXELS:+set} == "${MAX_PIXELS:+set}" ]] ||
    launch_fail "MIN_PIXELS=$MIN_PIXELS, MAX_PIXELS=$MAX_PIXELS: needs both or none; some image processors ignore one alone"
}

# ---------------------------------------------------------------------------------------------------- what verl is told

# Fills CONFIG with the overrides of a run. Arrays of the recipe come after the launcher's own and win.
launch_config() {
  launch_attention
  launch_variants
  launch_batching
  DATA=(
    data.train_files="$TRAIN_FILES"
    data.val_files="$VAL_FILES"
    data.train_batch_size="$TRAIN_BATCH"
    data.max_prompt_length="$MAX_PROMPT"
    data.max_response_length="$MAX_RESPONSE"
    data.image_key=images
    data.truncation=error
    data.seed="$SEED"
    ${MAX_PIXELS:+"++data.mm_processor_kwargs={min_pixels:$MIN_PIXELS,max_pixels:$MAX_PIXELS}"}
    "${DATA[@]}"
  )
  MODEL=(
    actor_rollout_ref.model.path="$MODEL_PATH"
    "${MODEL[@]}"
  )
  ACTOR=(
    actor_rollout_ref.actor.optim.lr="$LR"
    actor_rollout_ref.actor.ppo_mini_batch_size="$MINI_BATCH"
    actor_rollout_ref.actor.entropy_coeff=0
    "${ACTOR[@]}"
  )
  ROLLOUT=(
    actor_rollout_ref.rollout.name=vllm
    actor_rollout_ref.rollout.n="$ROLLOUT_N"
    actor_rollout_ref.rollout.temperature="$TEMPERATURE"
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
    trainer.total_training_steps="$TOTAL_STEPS"
    trainer.total_epochs=100000 # the steps end a run, not the epochs
    trainer.val_before_train=True
    trainer.test_freq="$TEST_FREQ"
    trainer.save_freq="$SAVE_FREQ"
    trainer.default_local_dir="$RUN_DIR/checkpoints"
    trainer.max_actor_ckpt_to_keep=2
    trainer.resume_mode=auto
    ${VALIDATION_DIR:+trainer.validation_data_dir="$VALIDATION_DIR"}
    ${ROLLOUT_DIR:+trainer.rollout_data_dir="$ROLLOUT_DIR"}
    trainer.project_name="$PROJECT"
    trainer.experiment_name="$EXPERIMENT"
    "trainer.logger=[console,file$LOGGERS]"
    "${TRAINER[@]}"
  )
  launch_platform
  CONFIG+=("${DATA[@]}" "${MODEL[@]}" "${ACTOR[@]}" "${ROLLOUT[@]}" "${BATCHING[@]}" "${VARIANTS[@]}" "${REWARD[@]}" "${TRAINER[@]}")
  CONFIG+=("hydra.run.dir=$RUN_DIR/hydra")
}

# The command that a run would start, for a shell: variables, the command, an override a line.
launch_print_command() {
  local name word words=("${CONFIG[@]}" "${LAUNCH_OVERRIDES[@]}")
  printf 'mkdir -p %s &&\n' "$(launch_quoted "$RUN_DIR/metrics")" # verl's file logger makes no folder
  for name in "${LAUNCH_EXPORTED[@]}"; do
    [[ -z ${!name:-} ]] || printf '%s=%s \\\n' "$name" "$(launch_quoted "${!name}")"
  done
  printf 'python -m verl.trainer.main_ppo'
  for word in "${words[@]}"; do printf ' \\\n  %s' "$(launch_quoted "$word")"; done
  printf '\n'
}

launch_quoted() {
  if [[ $1 =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then printf '%s' "$1"; else printf '%s' "${1@Q}"; fi
}

# Begins CONFIG with what the machine needs.
launch_platform() {
  local groups=(progressive checks watchdog replace_workers gallery)
  [[ $PLATFORM != cpu ]] || groups+=(cpu)
  [[ -z ${RAY_ADDRESS:-} ]] || groups+=(cluster)
  CONFIG=("+visionr1@_global_=$(launch_list "${groups[@]}")")
  launch_export
  if [[ $PLATFORM == cpu ]]; then
    CONFIG+=(
      data.val_batch_size=256
      actor_rollout_ref.rollout.max_num_seqs=256
      actor_rollout_ref.rollout.agent.num_workers=2 # processing the images is most of a step's work: one worker a core
    )
  else # vLLM otherwise keeps room for the largest video
    CONFIG+=("++actor_rollout_ref.rollout.engine_kwargs.vllm.limit_mm_per_prompt={image:1,video:0}")
  fi
}

# What verl's processes find in their environment. Those of a Ray cluster that runs already have the environment of
# `ray start`: they are told.
launch_export() {
  local name
  LAUNCH_EXPORTED=(VERL_FILE_LOGGER_PATH PYTHONUNBUFFERED HYDRA_FULL_ERROR TOKENIZERS_PARALLELISM VLLM_NO_USAGE_STATS)
  export VERL_FILE_LOGGER_PATH PYTHONUNBUFFERED=1 HYDRA_FULL_ERROR=1 TOKENIZERS_PARALLELISM=${TOKENIZERS_PARALLELISM:-false}
  export RAY_USAGE_STATS_ENABLED=${RAY_USAGE_STATS_ENABLED:-0} VLLM_NO_USAGE_STATS=${VLLM_NO_USAGE_STATS:-1}
  VERL_FILE_LOGGER_PATH=$RUN_DIR/metrics/$(date +%Y%m%d-%H%M%S).jsonl
  if [[ $PLATFORM == cpu ]]; then
    export VERL_PLATFORM=cpu OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TORCH_COMPILE_DISABLE=${TORCH_COMPILE_DISABLE:-1}
    LAUNCH_EXPORTED+=(VERL_PLATFORM OMP_NUM_THREADS TORCH_COMPILE_DISABLE)
  fi
  LAUNCH_EXPORTED+=(HF_HUB_OFFLINE)
  [[ -n ${RAY_ADDRESS:-} ]] || return 0
  for name in "${LAUNCH_EXPORTED[@]}"; do
    [[ -z ${!name:-} ]] || CONFIG+=("++ray_kwargs.ray_init.runtime_env.env_vars.$name='${!name}'")
  done
}

# Fills VARIANTS with what the options stand for.
launch_variants() {
  VARIANTS=()
  case $LOSS in
    token-mean) VARIANTS+=(actor_rollout_ref.actor.loss_agg_mode=token-mean) ;;
    sequence-mean) VARIANTS+=(actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean) ;;
  esac
  if launch_has_kl; then
    VARIANTS+=(
      actor_rollout_ref.actor.use_kl_loss=True
      actor_rollout_ref.actor.kl_loss_coef="$KL_COEF"
      actor_rollout_ref.actor.kl_loss_type=low_var_kl
    )
  else
    VARIANTS+=(actor_rollout_ref.actor.use_kl_loss=False)
  fi
  if ((LORA)); then
    # vLLM holds the base weights from the start and is sent the adapter alone. The vision tower has none: vLLM adapts
    # language layers only.
    VARIANTS+=(
      actor_rollout_ref.model.lora_rank="$LORA"
      actor_rollout_ref.model.lora_alpha="$((2 * LORA))"
      actor_rollout_ref.model.target_modules=all-linear
      "actor_rollout_ref.model.exclude_modules='.*visual.*'"
      actor_rollout_ref.rollout.load_format=safetensors
      actor_rollout_ref.rollout.layered_summon=True
    )
    LR=$LORA_LR
  fi
  if ((FREEZE_VISION)); then
    # verl 0.9.1 declares the first key, and its FSDP engine does not read it; the second makes it true.
    VARIANTS+=(
      actor_rollout_ref.actor.freeze_vision_tower=True
      actor_rollout_ref.model.external_lib=verl_visionr1.runtime.frozen_vision
    )
  fi
  if [[ -n $FILTER_GROUPS ]]; then
    # verl's V1 trainer refills prompt by prompt, and says so if another size is set.
    VARIANTS+=(algorithm.filter_groups.enable=True algorithm.filter_groups.metric="$FILTER_GROUPS" data.gen_batch_size=1)
  fi
}

launch_has_kl() { awk -v coef="$KL_COEF" 'BEGIN { exit coef + 0 == 0 }'; }

# True where the run would install flash-attn, which a dry run and a printed command do not.
launch_installs_flash() { [[ -n $LAUNCH_FLASH && $LAUNCH_MODE != train && ${VISIONR1_SKIP_SETUP:-0} != 1 ]]; }

# Chooses the attention of training passes; vLLM has its own. verl's default needs flash-attn, which PyPI has as source only.
launch_attention() {
  [[ $PLATFORM != cpu ]] || return 0 # the configuration group cpu sets it
  if [[ -z $ATTENTION ]]; then
    ATTENTION=flash
    visionr1_has_flash || launch_installs_flash || ATTENTION=sdpa
    [[ $ATTENTION == flash ]] || printf '%s\n' "attention: flash-attn is not installed; training uses torch's sdpa and pads (slower: visionr1 plan). To install it: --flash, or --flash=WHEEL" >&2
  elif [[ $ATTENTION == flash && $LAUNCH_MODE == train ]]; then
    visionr1_has_flash || launch_fail "ATTENTION=flash: flash-attn is not installed for $(command -v python); add --flash or --flash=WHEEL"
  fi
}

# Fills BATCHING: workers and how they use memory, chosen by `visionr1 plan`, which explains it; without a size of the
# model, one micro-batch for all.
launch_batching() {
  if [[ $PLATFORM == cpu || -z $PARAMS ]]; then
    BATCHING=(
      trainer.n_gpus_per_node="$GPUS"
      trainer.nnodes="$NODES"
      actor_rollout_ref.actor.strategy=fsdp2
      actor_rollout_ref.rollout.max_model_len="$((MAX_PROMPT + MAX_RESPONSE))"
      actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu="$MICRO_BATCH"
      actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu="$MICRO_BATCH"
      actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu="$MICRO_BATCH"
    )
    [[ $ATTENTION != sdpa || $PLATFORM == cpu ]] || BATCHING+=( # as `visionr1 plan` does
      actor_rollout_ref.model.use_remove_padding=False
      ++actor_rollout_ref.model.override_config.attn_implementation=sdpa
    )
    return
  fi
  local plan override options=(--params "$PARAMS" --gpus "$GPUS" --nodes "$NODES" --gpu-memory "$GPU_MEMORY" --max-prompt "$MAX_PROMPT")
  options+=(--max-response "$MAX_RESPONSE" --rollout-n "$ROLLOUT_N" --train-batch "$TRAIN_BATCH" --overrides)
  options+=(--attention "$ATTENTION")
  [[ -z $VISION_PARAMS ]] || options+=(--vision-params "$VISION_PARAMS")
  [[ -z $HOST_MEMORY ]] || options+=(--host-memory "$HOST_MEMORY")
  [[ -z $MAX_PIXELS ]] || options+=(--image-tokens "$((MAX_PIXELS / (PATCH_PIXELS * PATCH_PIXELS)))")
  ((LORA == 0)) || options+=(--lora "$LORA")
  ((FREEZE_VISION == 0)) || options+=(--freeze-vision)
  ! launch_has_kl || options+=(--kl)
  plan=$(visionr1 plan "${options[@]}") || exit 1
  BATCHING=()
  while read -r override; do # but for what the options set themselves
    [[ " ${VARIANTS[*]} " == *" ${override%%=*}="* ]] || BATCHING+=("$override")
  done <<<"$plan"
}
