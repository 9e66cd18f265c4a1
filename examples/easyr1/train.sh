#!/usr/bin/env bash
# EasyR1 with the rewards of verl-visionr1. Run it in EasyR1's folder; `pip install verl-visionr1` into its environment.
#
#   visionr1 convert coco ANNOTATIONS IMAGES rows.parquet --to easyr1
#   bash .../examples/easyr1/train.sh rows.parquet val.parquet Qwen/Qwen2.5-VL-7B-Instruct
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
train=${1:?rows of training} val=${2:?rows of validation} model=${3:-Qwen/Qwen2.5-VL-7B-Instruct}

# frame: the coordinates that the model speaks in (qwen2.5-vl, qwen3-vl, ...). The pixel budget is the data's own.
exec python3 -m verl.trainer.main \
  config=examples/config.yaml \
  data.train_files="$train" data.val_files="$val" data.format_prompt=null \
  worker.actor.model.model_path="$model" \
  worker.reward.reward_function="$here/reward.py:compute_score" \
  worker.reward.reward_function_kwargs.frame=qwen2.5-vl \
  worker.reward.reward_function_kwargs.min_pixels='${data.min_pixels}' \
  worker.reward.reward_function_kwargs.max_pixels='${data.max_pixels}' \
  trainer.experiment_name=visionr1 "${@:4}"
