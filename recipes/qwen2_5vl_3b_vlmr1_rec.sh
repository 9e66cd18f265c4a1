#!/usr/bin/env bash
# VLM-R1 (arXiv 2504.07615), referring expressions, with Qwen2.5-VL-3B: RefCOCO/+/g train, reasoning before the answer,
# IoU and format as reward. 8 GPUs of 80 GB unless --gpus says otherwise; --lora is the paper's LoRA script (rank 64,
# alpha 128, lr 1e-5, vision frozen); PROFILE=cpu tries it on a tiny model.
#
# From the paper: N = 8, temperature .9 (the code: 1), KL .04, lr 1e-6, 16 prompts per step, 2048 tokens. Its results are
# of the first 600 steps, of 40,166. Deviations: docs/reference/recipes.md.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

profile qwen2.5-vl grounding --answer-format vlmr1-json

# --------------------------------------------------------------------------------------- adjustable, by environment too
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-VL-3B-Instruct}
PARAMS=${PARAMS-3.75e9} VISION_PARAMS=${VISION_PARAMS-0.67e9}
GPUS=${GPUS:-8}
TOTAL_STEPS=${TOTAL_STEPS:-600} # what the paper reports
TEST_FREQ=${TEST_FREQ:-100}
SAVE_FREQ=${SAVE_FREQ:-100}
TRAIN_BATCH=${TRAIN_BATCH:-16}
ROLLOUT_N=${ROLLOUT_N:-8}
MAX_PROMPT=${MAX_PROMPT:-2048}
MAX_RESPONSE=${MAX_RESPONSE:-2048}
MIN_PIXELS=${MIN_PIXELS-3136} MAX_PIXELS=${MAX_PIXELS-1003520} # at most 1,280 image tokens
LR=${LR:-1e-6}
KL_COEF=${KL_COEF:-0.04}
TEMPERATURE=${TEMPERATURE:-0.9}
LOSS=${LOSS:-sequence-mean}
PRESET=${PRESET:-vlmr1-rec}
# The preset's format looks at the answer alone; VLM-R1's at <think> and <answer> around it. Half of its weight each.
if [[ $PRESET == vlmr1-rec ]]; then
  WEIGHTS=${WEIGHTS-"{format:0.5}"}
  REWARD=("++reward.reward_kwargs.visionr1.criteria={think:{fn:think_answer,weight:0.5}}")
fi
ACTOR=(actor_rollout_ref.actor.optim.weight_decay=0)

# ----------------------------------------------------------------------------------------------------------------- data
KNOBS='  DATA_DIR         where the parquet files are
  REFCOCO_DIR      refcoco/, refcoco+/, refcocog/ as refer distributes them: refs(...).p and instances.json
  COCO_DIR         COCO: train2014/'
REFCOCO_DIR=${REFCOCO_DIR:-$DATA_DIR/refcoco}
COCO_DIR=${COCO_DIR:-$DATA_DIR/coco}
for set in "refcoco unc" "refcoco+ unc" "refcocog umd"; do
  read -r name by <<<"$set"
  refs=("$REFCOCO_DIR/$name/refs($by).p" "$REFCOCO_DIR/$name/instances.json" "$COCO_DIR/train2014")
  flags=(--answer-format vlmr1-json --data-source "visionr1/${name}_{task}")
  train_data "${name}_train.parquet" refcoco.py "${refs[@]}" OUT --split train "${flags[@]}"
  val_data "${name}_val.parquet" refcoco.py "${refs[@]}" OUT --split val --limit 300 "${flags[@]}"
done

launch "$@"
