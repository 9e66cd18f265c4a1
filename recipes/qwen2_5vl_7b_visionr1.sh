#!/usr/bin/env bash
# Vision-R1 (arXiv 2503.18013) with Qwen2.5-VL-7B: detection and grounding, rewards by format, recall and precision.
# The paper's better setting for this model is STEP = 1, the beginner's thresholds (.5 .5 .75) to the end (its Table
# 10); SCHEDULE=staged switches at half, as for its other model. 8 GPUs of 80 GB unless --gpus says otherwise;
# PROFILE=cpu tries it on a tiny model.
#
# From the paper: 49K rows, 1 epoch, lr 1e-6, KL .2 (the released script: .04; --kl 0.04), G = 4, 1024 / 512 tokens, at
# most 401,408 pixels, 16 prompts per step. Deviations: docs/reference/recipes.md.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

profile qwen2.5-vl both --negatives 0.1

# --------------------------------------------------------------------------------------- adjustable, by environment too
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-VL-7B-Instruct}
PARAMS=${PARAMS-8.29e9} VISION_PARAMS=${VISION_PARAMS-0.68e9}
GPUS=${GPUS:-8}
TOTAL_STEPS=${TOTAL_STEPS:-3062} # one epoch: 49,000 rows, 16 a step
TEST_FREQ=${TEST_FREQ:-200}
SAVE_FREQ=${SAVE_FREQ:-200}
TRAIN_BATCH=${TRAIN_BATCH:-16}
ROLLOUT_N=${ROLLOUT_N:-4}
MAX_PROMPT=${MAX_PROMPT:-1024}
MAX_RESPONSE=${MAX_RESPONSE:-512}
MIN_PIXELS=${MIN_PIXELS-3136} MAX_PIXELS=${MAX_PIXELS-401408} PATCH_PIXELS=28
LR=${LR:-1e-6}
KL_COEF=${KL_COEF:-0.2}
TEMPERATURE=${TEMPERATURE:-1.0}
LOSS=${LOSS:-sequence-mean}
PRESET=${PRESET:-visionr1}
SCHEDULE=${SCHEDULE:-constant} # the first stage of the preset, (.5 .5 .75), to the end

ACTOR=(actor_rollout_ref.actor.optim.weight_decay=0)

# ----------------------------------------------------------------------------------------------------------------- data
KNOBS='  DATA_DIR         where the parquet files are
  VISION_R1_DATA   JefferyZhan/Vision-R1-Data, downloaded
  COCO_DIR         COCO: annotations/, val2017/'
VISION_R1_DATA=${VISION_R1_DATA:-$DATA_DIR/Vision-R1-Data}
COCO_DIR=${COCO_DIR:-$DATA_DIR/coco}
train_data vision_r1.parquet vision_r1.py "$VISION_R1_DATA" OUT --max-instances 30 --negatives 0
val_data coco_val2017.parquet coco.py "$COCO_DIR/annotations/instances_val2017.json" "$COCO_DIR/val2017" OUT \
  --task both --split val --limit 500

launch "$@"
