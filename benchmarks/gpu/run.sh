#!/usr/bin/env bash
# Training steps on one GPU, measured: runs without network, in stages that can be run one by one and again.
#
#   bash benchmarks/gpu/run.sh [a|b|all|table] --out DIR [options]
#
#   a       the tiny recipe, with vLLM on the device
#   b       GRPO steps of Qwen2.5-VL of 3B and 7B with random weights through their recipes, on drawn scenes of
#           640x480 and 1024x768 with answers of a fixed length; each once with this project's reward manager and once
#           with verl's own and a reward that costs nothing
#   table   only the table of what has run
#
#   --device cuda|cpu   cpu: models of the same architecture with a million parameters, to try the script (default cuda)
#   --models 3b,7b      of stage b
#   --managers visionr1,naive    of stage b
#   --steps N           of stage b; the first is not counted (4; on cpu 2)
#   --limit SECONDS     of a stage: it is ended then, and what it has measured counts (570)
#   --dry-run           the recipes compose and check their configuration; nothing is started. HOST_MEMORY and GPU_MEMORY
#                       (GB) then stand for the machine's
#
# A stage that has run is not run again; rm -r DIR/stages/NAME forgets it. DIR/results.json and results.md are written
# anew after every stage.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=$(cd "$HERE/../.." && pwd -P)

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}
say() { printf '%s\n' "$*"; }

options() {
  WHAT=all DEVICE=cuda MODELS=3b,7b MANAGERS=visionr1,naive STEPS='' LIMIT=570 OUT='' DRY_RUN=''
  while (($#)); do
    case $1 in
      a | b | all | table) WHAT=$1 ;;
      --dry-run) DRY_RUN=--dry-run ;;
      --help | -h) sed -n '2,23s/^# \{0,1\}//p' "$HERE/run.sh"; exit 0 ;;
      --device | --models | --managers | --steps | --limit | --out)
        [[ $# -gt 1 ]] || fail "$1 needs a value; see --help"
        case $1 in
          --device) DEVICE=$2 ;; --models) MODELS=$2 ;; --managers) MANAGERS=$2 ;;
          --steps) STEPS=$2 ;; --limit) LIMIT=$2 ;; --out) OUT=$2 ;;
        esac
        shift
        ;;
      *) fail "$1: neither a stage nor an option; see --help" ;;
    esac
    shift
  done
  [[ -n $OUT ]] || fail "--out DIR: where models, runs and results go; stage b with 7b needs 20 GB there"
  [[ $DEVICE == cpu || $DEVICE == cuda ]] || fail "--device $DEVICE: needs cpu or cuda"
  [[ $MODELS =~ ^(3b|7b)(,(3b|7b))*$ ]] || fail "--models $MODELS: needs 3b, 7b or 3b,7b"
  [[ $MANAGERS =~ ^(visionr1|naive)(,(visionr1|naive))*$ ]] || fail "--managers $MANAGERS: needs visionr1, naive or both"
  STEPS=${STEPS:-$([[ $DEVICE == cpu ]] && echo 2 || echo 4)}
  [[ $STEPS =~ ^[1-9][0-9]*$ && $LIMIT =~ ^[1-9][0-9]*$ ]] || fail "--steps $STEPS --limit $LIMIT: whole numbers above 0"
  mkdir -p "$OUT"
  OUT=$(cd "$OUT" && pwd -P)
}

device() { # checks the device; sets the environment and the overrides that it needs: COMMON and SETTINGS
  export VISIONR1_SKIP_SETUP=1 PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1
  command -v visionr1 >/dev/null || fail "no visionr1 on PATH: activate the environment (install.sh made it), or see README.md here"
  GPU=''
  SETTINGS=(GPUS=1 SAVE_FREQ=-1 TEST_FREQ=-1)
  COMMON=(trainer.val_before_train=False trainer.resume_mode=disable actor_rollout_ref.rollout.tensor_model_parallel_size=1)
  if [[ $DEVICE == cpu ]]; then
    SCALE=tiny
    SETTINGS+=(PROFILE=cpu)
    return
  fi
  SCALE=full
  SETTINGS+=(PROFILE=gpu "HOST_MEMORY=${HOST_MEMORY:-$(awk '/^MemAvailable/ { print int($2 / 1e6) }' /proc/meminfo)}")
  [[ -z $DRY_RUN ]] || return 0
  command -v nvidia-smi >/dev/null || fail "--device cuda: no nvidia-smi here; --device cpu tries the script without a GPU"
  SETTINGS+=("GPU_MEMORY=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | awk 'NR == 1 { print int($1 * 1.048576 / 1000) }')")
  GPU=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
  # vLLM and torch.compile build small pieces with it.
  command -v gcc >/dev/null || COMMON+=(actor_rollout_ref.rollout.enforce_eager=True actor_rollout_ref.actor.use_torch_compile=False)
}

# --------------------------------------------------------------------------------------------------------------- inputs

scenes() { # NAME COUNT WIDTH HEIGHT TASK: rows over drawn scenes, once
  local folder=$OUT/data/$1 split
  [[ -z $DRY_RUN && ! -f $folder/train.parquet ]] || return 0
  rm -rf "$folder"
  python "$ROOT/data_preprocess/scenes.py" "$folder/scenes" --train "$2" --val 8 --size "$3" "$4"
  for split in val train; do
    python "$ROOT/data_preprocess/coco.py" "$folder/scenes/annotations/instances_$split.json" "$folder/scenes/$split" \
      "$folder/$split.parquet" --split "$split" --task "$5" --data-source 'visionr1/scenes_{task}'
  done
}

model() { # SIZE: random weights, once; for a dry run the same folder without weights
  [[ -z $DRY_RUN ]] || SCALE=unfilled
  local folder=$OUT/models/$1-$SCALE
  [[ -f $folder/config.json ]] || python "$HERE/models.py" "$1" "$folder" --scale "${SCALE/unfilled/full}" ${DRY_RUN:+--no-weights}
}

# --------------------------------------------------------------------------------------------------------------- stages

stage() { # NAME MODEL MANAGER RECIPE [SETTING=VALUE ...] -- [OVERRIDE ...]: one run of a recipe, measured
  local name=$1 model=$2 manager=$3 recipe=$4 folder=$OUT/stages/$1 settings=() status=0 started sampler=''
  shift 4
  while [[ $1 != -- ]]; do settings+=("$1"); shift; done
  shift
  settings+=("${SETTINGS[@]}" "RUN_DIR=$folder/run")
  if [[ -n $DRY_RUN ]]; then
    [[ $manager == visionr1 ]] || return 0 # a dry run refuses a reward that is not ours
    say "stage $name"
    env "${settings[@]}" bash "$ROOT/recipes/$recipe" "${COMMON[@]}" "$@" --dry-run
    return
  fi
  if [[ -f $folder/stage.json ]] && grep -q '"status": "ok"' "$folder/stage.json"; then
    say "stage $name: has run"
    return
  fi
  rm -rf "$folder"
  mkdir -p "$folder"
  say "stage $name: $(date +%T), at most $LIMIT s (log: $folder/run/train.log)"
  if [[ $DEVICE == cuda ]]; then
    nvidia-smi --query-gpu=memory.used,utilization.gpu --format=csv,noheader,nounits -l 1 >"$folder/gpu.csv" &
    sampler=$!
  fi
  started=$SECONDS
  timeout --kill-after=30 "$LIMIT" env "${settings[@]}" bash "$ROOT/recipes/$recipe" "${COMMON[@]}" "$@" >"$folder/launcher.log" 2>&1 || status=$?
  [[ -z $sampler ]] || kill "$sampler" 2>/dev/null || true
  case $status in 0) status=ok ;; 124 | 137) status="ended at $LIMIT s" ;; *) status="failed" ;; esac
  printf '{"name": "%s", "model": "%s", "manager": "%s", "device": "%s", "scale": "%s", "recipe": "%s", "seconds": %d, "status": "%s", "gpu": "%s"}\n' \
    "$name" "$model" "$manager" "$DEVICE" "$SCALE" "$recipe" "$((SECONDS - started))" "$status" "$GPU" >"$folder/stage.json"
  [[ $status == ok ]] || tail -n 6 "$folder/launcher.log" >&2
  table
}

stage_a() {
  local steps=24 extra=(TRAIN_BATCH=32 MICRO_BATCH=32)
  [[ $DEVICE == cuda ]] || steps=$STEPS extra=(TRAIN_BATCH=8 MICRO_BATCH=8)
  scenes tiny 256 128 128 grounding
  # shellcheck disable=SC2046 # words of overrides
  stage a-tiny tiny visionr1 tiny_visionr1_cpu.sh "MODEL_PATH=$ROOT/recipes/tiny/qwen3_vl_scenes" "TOTAL_STEPS=$steps" "${extra[@]}" \
    "TRAIN_FILES=$OUT/data/tiny/train.parquet" "VAL_FILES=$OUT/data/tiny/val.parquet" -- $(reward visionr1)
}

stage_b() {
  local size manager recipe files settings own
  scenes small 64 640 480 grounding
  scenes large 64 1024 768 grounding
  files="TRAIN_FILES=[$OUT/data/small/train.parquet,$OUT/data/large/train.parquet]"
  settings=("$files" "VAL_FILES=$OUT/data/small/val.parquet" "TOTAL_STEPS=$STEPS")
  # At most 1,024 image tokens: no image of these sizes is shrunk.
  settings+=(MIN_PIXELS=3136 MAX_PIXELS=802816 MAX_PROMPT=1152)
  if [[ $DEVICE == cpu ]]; then
    settings+=(TRAIN_BATCH=4 ROLLOUT_N=2 MICRO_BATCH=4 MAX_RESPONSE=96)
  else
    settings+=(TRAIN_BATCH=16 ROLLOUT_N=8 MAX_RESPONSE=256)
  fi
  for size in ${MODELS//,/ }; do
    model "$size"
    case $size in
      3b) recipe=qwen2_5vl_3b_vlmr1_rec.sh own=() ;;
      # All weights of 7B with their optimizer take more than one GPU and the host of 128 GB have: visionr1 plan.
      7b) recipe=qwen2_5vl_7b_visionr1.sh own=("LORA=$([[ $DEVICE == cpu ]] && echo 0 || echo 64)") ;;
    esac
    for manager in ${MANAGERS//,/ }; do
      # shellcheck disable=SC2046 # words of overrides
      stage "b-$size-$manager" "$size" "$manager" "$recipe" "MODEL_PATH=$OUT/models/$size-$SCALE" "${settings[@]}" "${own[@]}" -- \
        actor_rollout_ref.rollout.ignore_eos=True $(reward "$manager")
    done
  done
}

reward() { # MANAGER: overrides; both report the seconds of each answer (timed.py)
  printf '%s\n' reward.reward_manager.{source=importlib,"module.path=$HERE/timed.py","name=$1"}
  [[ $1 == visionr1 ]] || printf '%s\n' reward.custom_reward_function.{"path=$HERE/timed.py",name=constant_reward}
}

table() { python "$HERE/results.py" "$OUT"; }

options "$@"
if [[ $WHAT != table ]]; then
  device
  [[ $WHAT == b ]] || stage_a
  [[ $WHAT == a ]] || stage_b
fi
[[ -n $DRY_RUN ]] || table
