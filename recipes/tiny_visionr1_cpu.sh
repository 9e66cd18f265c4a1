#!/usr/bin/env bash
# Vision-R1 with a tiny Qwen3-VL on a laptop CPU: a real GRPO run of verl with Ray, FSDP2 and vLLM, on drawn scenes of
# coloured shapes. About 15 minutes on two cores, setting up included; ends with a table of held-out scenes before and
# after. Run it again to resume after an interruption, or to see the table again.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# --------------------------------------------------------------------------------------- adjustable, by environment too
RUN_DIR=${RUN_DIR:-$ROOT/outputs/tiny_visionr1_cpu}
PLATFORM=cpu
GPUS=${GPUS:-1} # training workers: processes
MODEL_PATH=${MODEL_PATH:-$ROOT/recipes/tiny/qwen3_vl_scenes}
TRAIN_SCENES=${TRAIN_SCENES:-2000}
VAL_SCENES=${VAL_SCENES:-200}
TASK=${TASK:-grounding} # grounding | detection | both | counting | all
TOTAL_STEPS=${TOTAL_STEPS:-24}
TEST_FREQ=${TEST_FREQ:-12}
SAVE_FREQ=${SAVE_FREQ:-6}
TRAIN_BATCH=${TRAIN_BATCH:-32}
ROLLOUT_N=${ROLLOUT_N:-8}
MICRO_BATCH=${MICRO_BATCH:-32}
MAX_PROMPT=${MAX_PROMPT:-160}
MAX_RESPONSE=${MAX_RESPONSE:-80}
LR=${LR:-1e-4}
KL_COEF=${KL_COEF:-0}
TEMPERATURE=${TEMPERATURE:-0.8}
case $TASK in
counting) PRESET=${PRESET:-counting-list} ;; # it answers with a list, whose length is the count
all) ROUTES=${ROUTES:-"{counting:counting-list}"} ;;
esac
# A model this small localises roughly: with the paper's thresholds (.5 .5 .75, then .75 .75 .9) most of its answers score
# alike, and a prompt whose answers all score alike teaches nothing.
if [[ -z ${PRESET:-} ]]; then
  case ${SCHEDULE:-staged} in staged | linear | cosine | piecewise | gated) STAGES=${STAGES:-[[0.3,0.3,0.6],[0.5,0.5,0.75]]} ;; esac
fi
# While most boxes miss, a second guess raises recall and costs no precision on average: with equal weights the model
# learns to guess more.
[[ -n ${PRESET:-} ]] || WEIGHTS=${WEIGHTS-"{format:0.25,recall:0.25,precision:1}"}

# ------------------------------------------------------------------------- beyond the launcher's own (recipes/launch.sh)
DATA=(data.val_batch_size=256)
MODEL=()
ACTOR=()
ROLLOUT=(
  actor_rollout_ref.rollout.max_num_seqs=256
  actor_rollout_ref.rollout.agent.num_workers=2 # processing the images is most of a step's work: one worker a core
)
REWARD=(reward.reward_kwargs.visionr1.frame=qwen3-vl)
TRAINER=()

# ----------------------------------------------------------------------------------------------------------------------
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$ROOT/recipes/environment.sh"
# shellcheck source-path=SCRIPTDIR source=launch.sh
source "$ROOT/recipes/launch.sh"

for word in "$@"; do
  [[ $word == --help || $word == -h ]] || continue
  launch_help "$(sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}")" \
    '  TRAIN_SCENES, VAL_SCENES     scenes to draw
  TASK             grounding (one phrase) | detection (all objects of a category list) | both | counting (how many of
                   one phrase, answered by a list) | all (a mixed run, each task with its own reward)'
  exit 0
done

visionr1_environment cpu

# Scenes and rows; drawn again when asked for others.
DATA_DIR=$RUN_DIR/data
drawn="$TRAIN_SCENES $VAL_SCENES $TASK"
if [[ ! -f $DATA_DIR/.drawn || $(<"$DATA_DIR/.drawn") != "$drawn" ]]; then
  printf 'drawing %s training and %s validation scenes\n' "$TRAIN_SCENES" "$VAL_SCENES"
  rm -rf "$DATA_DIR"
  mkdir -p "$DATA_DIR"
  python "$ROOT/data_preprocess/scenes.py" "$DATA_DIR/scenes" --train "$TRAIN_SCENES" --val "$VAL_SCENES"
  for split in train val; do
    # Some rows ask for what is not there; the model was taught with the same share of them, and the same wording.
    python "$ROOT/data_preprocess/coco.py" "$DATA_DIR/scenes/annotations/instances_$split.json" "$DATA_DIR/scenes/$split" \
      "$DATA_DIR/$split.parquet" --split "$split" --task "$TASK" --count-format qwen-json --negatives 0.1 --data-source 'visionr1/scenes_{task}'
  done
  printf '%s\n' "$drawn" >"$DATA_DIR/.drawn"
fi
TRAIN_FILES=$DATA_DIR/train.parquet
VAL_FILES=$DATA_DIR/val.parquet

if [[ $MODEL_PATH == "$ROOT/recipes/tiny/qwen3_vl_scenes" && ! -f $MODEL_PATH/config.json ]]; then
  printf 'making the tiny model (minutes): %s\n' "$MODEL_PATH"
  python "$ROOT/recipes/tiny/make_models.py" warm-start "$MODEL_PATH"
fi

launch "$@"
