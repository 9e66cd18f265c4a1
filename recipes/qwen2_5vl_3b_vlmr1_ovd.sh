#!/usr/bin/env bash
# VLM-R1 (arXiv 2504.07615), open-vocabulary detection, with Qwen2.5-VL-3B: descriptions of D3, reasoning before the
# answer, odLength (AP x min(1, n_T / n_P)) and format as reward, no KL. 8 GPUs of 80 GB unless --gpus says otherwise;
# PROFILE=cpu tries it on a tiny model.
#
# From the paper: N = 8, temperature .9, KL 0, lr 1e-6. It has no script for this task: batch, tokens and pixels are
# those of its referring expressions. Deviations: docs/reference/recipes.md.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

profile qwen2.5-vl detection --answer-format vlmr1-json --negatives 0.1

# --------------------------------------------------------------------------------------- adjustable, by environment too
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-VL-3B-Instruct}
PARAMS=${PARAMS-3.75e9} VISION_PARAMS=${VISION_PARAMS-0.67e9}
GPUS=${GPUS:-8}
TOTAL_STEPS=${TOTAL_STEPS:-600} # ours: the paper does not say
TEST_FREQ=${TEST_FREQ:-100}
SAVE_FREQ=${SAVE_FREQ:-100}
TRAIN_BATCH=${TRAIN_BATCH:-16}
ROLLOUT_N=${ROLLOUT_N:-8}
MAX_PROMPT=${MAX_PROMPT:-2048}
MAX_RESPONSE=${MAX_RESPONSE:-2048}
MIN_PIXELS=${MIN_PIXELS-3136} MAX_PIXELS=${MAX_PIXELS-1003520} # at most 1,280 image tokens
LR=${LR:-1e-6}
KL_COEF=${KL_COEF:-0}
TEMPERATURE=${TEMPERATURE:-0.9}
LOSS=${LOSS:-sequence-mean}
PRESET=${PRESET:-vlmr1-ovd}
# The preset's format looks at the answer alone; VLM-R1's at <think> and <answer> around it. Half of its weight each.
if [[ $PRESET == vlmr1-ovd ]]; then
  WEIGHTS=${WEIGHTS-"{format:0.5}"}
  REWARD=("++reward.reward_kwargs.visionr1.criteria={think:{fn:think_answer,weight:0.5}}")
fi
ACTOR=(actor_rollout_ref.actor.optim.weight_decay=0)

# ----------------------------------------------------------------------------------------------------------------- data
KNOBS='  DATA_DIR         where the parquet files are
  D3_DIR           D3: d3_pkl/, d3_images/
  COCO_DIR         COCO: annotations/, val2017/'
D3_DIR=${D3_DIR:-$DATA_DIR/d3}
COCO_DIR=${COCO_DIR:-$DATA_DIR/coco}
# Lists of up to four descriptions of an image's group: what is there, and what is not.
train_data d3_train.parquet d3.py "$D3_DIR/d3_pkl" "$D3_DIR/d3_images" OUT \
  --task detection --max-categories 4 --answer-format vlmr1-json
val_data coco_val2017_vlmr1.parquet coco.py "$COCO_DIR/annotations/instances_val2017.json" "$COCO_DIR/val2017" OUT \
  --task detection --split val --limit 500 --max-instances 10 --answer-format vlmr1-json

launch "$@"
