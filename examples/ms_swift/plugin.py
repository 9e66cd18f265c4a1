"""The rewards of verl-visionr1 for ms-swift's GRPO.

    visionr1 convert coco ANNOTATIONS IMAGES rows.jsonl --to ms-swift
    swift rlhf --rlhf_type grpo --model Qwen/Qwen3-VL-2B-Instruct --dataset rows.jsonl \\
        --external_plugins examples/ms_swift/plugin.py --reward_funcs visionr1 visionr1_recall --reward_weights 1 0

`visionr1` is the reward; `visionr1_recall`, with weight 0, only logs a criterion.
"""

from swift.rewards import orms

from verl_visionr1.integrations.ms_swift import make_orm

orms["visionr1"] = make_orm(frame="qwen3-vl")
orms["visionr1_recall"] = make_orm(frame="qwen3-vl", metric="recall")
