#!/usr/bin/env bash
# ms-swift's GRPO with the rewards of verl-visionr1; the reward and its frame are in plugin.py.
#
#   visionr1 convert coco ANNOTATIONS IMAGES rows.jsonl --to ms-swift
#   bash examples/ms_swift/train.sh rows.jsonl Qwen/Qwen3-VL-2B-Instruct [swift's own options]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
rows=${1:?rows of training} model=${2:?a model}

exec swift rlhf --rlhf_type grpo --model "$model" --dataset "$rows" \
  --external_plugins "$here/plugin.py" --reward_funcs visionr1 visionr1_recall --reward_weights 1 0 \
  --num_generations 8 --max_completion_length 256 --log_completions true --output_dir run "${@:3}"
