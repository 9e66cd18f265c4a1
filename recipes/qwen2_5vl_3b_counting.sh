#!/usr/bin/env bash
# Counting with Qwen2.5-VL-3B: PixMo-Count, TallyQA and CLEVR; the reward pays for the exact count and, less, for one
# near to it. 8 GPUs of 80 GB unless --gpus says otherwise; PROFILE=cpu tries it on a tiny model.
#
# No paper's recipe: the settings are ours, near to VLM-R1's, with short answers (a number, no reasoning).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

profile qwen2.5-vl counting

# --------------------------------------------------------------------------------------- adjustable, by environment too
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-VL-3B-Instruct}
PARAMS=${PARAMS-3.75e9} VISION_PARAMS=${VISION_PARAMS-0.67e9}
GPUS=${GPUS:-8}
TOTAL_STEPS=${TOTAL_STEPS:-500}
TEST_FREQ=${TEST_FREQ:-50}
SAVE_FREQ=${SAVE_FREQ:-100}
TRAIN_BATCH=${TRAIN_BATCH:-64}
ROLLOUT_N=${ROLLOUT_N:-8}
MAX_PROMPT=${MAX_PROMPT:-2048}
MAX_RESPONSE=${MAX_RESPONSE:-256}
MIN_PIXELS=${MIN_PIXELS-3136} MAX_PIXELS=${MAX_PIXELS-1003520} # at most 1,280 image tokens
LR=${LR:-1e-6}
KL_COEF=${KL_COEF:-0.04}
TEMPERATURE=${TEMPERATURE:-1.0}
LOSS=${LOSS:-sequence-mean}
PRESET=${PRESET:-counting}

# ----------------------------------------------------------------------------------------------------------------- data
KNOBS='  DATA_DIR         where the parquet files are
  PIXMO_DIR        allenai/pixmo-count: data/, and images/ fetched by URL
  TALLYQA_DIR      TallyQA: train.json
  VG_COCO_DIR      its images: VG_100K/, VG_100K_2/, train2014/, val2014/
  CLEVR_DIR        CLEVR_v1.0: scenes/, images/'
PIXMO_DIR=${PIXMO_DIR:-$DATA_DIR/pixmo-count}
TALLYQA_DIR=${TALLYQA_DIR:-$DATA_DIR/tallyqa}
VG_COCO_DIR=${VG_COCO_DIR:-$DATA_DIR/tallyqa/images}
CLEVR_DIR=${CLEVR_DIR:-$DATA_DIR/CLEVR_v1.0}
train_data pixmo_count_train.parquet pixmo.py "$PIXMO_DIR/data/train-*.parquet" "$PIXMO_DIR/images" OUT --on-error skip
train_data tallyqa_train.parquet tallyqa.py "$TALLYQA_DIR/train.json" "$VG_COCO_DIR" OUT --limit 30000
train_data clevr_train.parquet clevr.py "$CLEVR_DIR/scenes/CLEVR_train_scenes.json" "$CLEVR_DIR/images/train" OUT \
  --limit 10000
val_data pixmo_count_val.parquet pixmo.py "$PIXMO_DIR/data/validation-*.parquet" "$PIXMO_DIR/images" OUT \
  --split val --on-error skip
val_data clevr_val.parquet clevr.py "$CLEVR_DIR/scenes/CLEVR_val_scenes.json" "$CLEVR_DIR/images/val" OUT \
  --split val --limit 300

launch "$@"
