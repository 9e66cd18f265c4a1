#!/usr/bin/env bash
# verl 0.8.0 or newer with the reward as a function. Older verl: take `reward.` off the four keys, and put
# `schedule.kind=off` in the place of `total_steps=200`, for it tells a function no step.
#
#   visionr1 convert coco ANNOTATIONS IMAGES rows.parquet --hf-images
#   bash examples/verl/train.sh rows.parquet val.parquet Qwen/Qwen3-VL-8B-Instruct [verl's own overrides]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
train=${1:?rows of training} val=${2:?rows of validation} model=${3:?a model}

# frame: the coordinates that the model speaks in. total_steps: those of this run, after which thresholds are final.
exec python3 -m verl.trainer.main_ppo \
  algorithm.adv_estimator=grpo \
  data.train_files="$train" data.val_files="$val" data.image_key=images \
  actor_rollout_ref.model.path="$model" actor_rollout_ref.rollout.name=vllm actor_rollout_ref.rollout.n=8 \
  trainer.total_training_steps=200 \
  reward.custom_reward_function.path="$here/reward.py" \
  reward.custom_reward_function.name=compute_score \
  +reward.custom_reward_function.reward_kwargs.frame=qwen3-vl \
  +reward.custom_reward_function.reward_kwargs.total_steps=200 \
  "${@:4}"
