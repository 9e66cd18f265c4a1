"""One answer judged by way of each framework's reward function."""

from __future__ import annotations

from types import SimpleNamespace

from framework_answers import make_target

from verl_visionr1 import Target
from verl_visionr1.integrations import easyr1, ms_swift, trl, verl_function
from verl_visionr1.processed import PROCESSORS

TARGET = make_target((640, 480))
TRUTH = TARGET.to_json()
LOOSE = '[{"bbox_2d": [250, 250, 500, 660], "label": "cat"}, {"bbox_2d": [500, 0, 1000, 420], "label": "dog"}]'
QWEN25 = PROCESSORS["qwen2.5-vl"]
BUDGET = {"min_pixels": 262144, "max_pixels": 4194304}


def state(global_step: int, max_steps: int = 10) -> SimpleNamespace:
    return SimpleNamespace(global_step=global_step, max_steps=max_steps)


def by_verl(target: Target, text: str, **settings: object) -> float:
    return verl_function.compute_score("x", text, target.to_json(), {"split": "train"}, **settings)["score"]


def by_easyr1(target: Target, text: str, **settings: object) -> float:
    row = {"response": text, "response_length": 9, "ground_truth": target.to_json()}
    return easyr1.compute_score([row], **settings)[0]["overall"]


def by_trl(target: Target, text: str, **settings: object) -> float:
    completion = [{"role": "assistant", "content": text}]
    reward = trl.make_reward(**settings)
    return reward(prompts=[[]], completions=[completion], ground_truth=[target.to_json()])[0]


def by_swift(target: Target, text: str, **settings: object) -> float:
    return ms_swift.VisionReward(dict(settings))([text], solution=[target.to_json()], data_source=["x"])[0]
