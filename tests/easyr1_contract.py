"""Run the reward in EasyR1's own reward manager and data set's resize; prints what it found as JSON.

    PYTHONPATH=<checkout of EasyR1>:. python tests/easyr1_contract.py

EasyR1 is in no package index; `test_other_frameworks.py` runs this where `VISIONR1_EASYR1` names a checkout.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import verl
from omegaconf import OmegaConf
from PIL import Image
from transformers import AutoTokenizer
from verl.protocol import DataProto
from verl.utils.dataset import process_image
from verl.workers.reward import AutoRewardManager
from verl.workers.reward.config import RewardConfig

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from framework_answers import SIZES_WH, largest_difference, make_answers  # noqa: E402

from verl_visionr1.integrations.easyr1 import easyr1_size  # noqa: E402
from verl_visionr1.processed import PROCESSORS, size_by_processor  # noqa: E402


def compose(overrides: list[str]) -> Any:
    """The reward's part of the config, and the pixel budget, as EasyR1's `main` makes them from a command line.

    Its whole config imports vLLM of EasyR1's own time.
    """
    own = OmegaConf.load(Path(verl.__file__).parents[1] / "examples" / "config.yaml")
    plain = OmegaConf.create({"data": own.data, "worker": {"reward": OmegaConf.structured(RewardConfig)}})
    config = OmegaConf.merge(plain, OmegaConf.from_cli(overrides))
    made: Any = OmegaConf.to_object(config)
    made["worker"]["reward"].post_init()
    return made


def main() -> None:
    """Judge by the settings of `examples/easyr1/train.sh`, and print the findings as one line of JSON."""
    script = (ROOT / "examples" / "easyr1" / "train.sh").read_text()
    lines = script[script.index("exec ") :].replace("$here", str(ROOT / "examples" / "easyr1"))
    config = compose([word for word in shlex.split(lines) if word.startswith("worker.reward.")])
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "recipes" / "tiny" / "qwen3_vl_scenes")
    manager = AutoRewardManager(config["worker"]["reward"], tokenizer)
    bounds: Any = (config["data"]["min_pixels"], config["data"]["max_pixels"])

    def processed(size_wh: tuple[int, int]) -> tuple[int, int]:
        resized = process_image(Image.new("RGB", size_wh), *bounds)
        assert resized.size == easyr1_size(size_wh, *bounds)
        return size_by_processor(resized.size, PROCESSORS["qwen2.5-vl"])

    rows = make_answers("qwen2.5-vl", processed)
    ids = [tokenizer.encode(text, add_special_tokens=False) for _, text in rows]
    longest = max(map(len, ids))
    responses = torch.tensor([each + [0] * (longest - len(each)) for each in ids])
    mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in ids])
    truths = np.array([target.to_json() for target, _ in rows], dtype=object)
    data = DataProto.from_dict({"responses": responses, "response_mask": mask}, {"ground_truth": truths})
    tensor, metrics = manager.compute_reward(data)
    given = tensor.sum(-1).tolist()
    told: Any = (rows, "qwen2.5-vl", processed)
    found = {
        "perfect": given[: len(SIZES_WH)],
        "largest": largest_difference(given, *told, progress=0.0),
        "recall": largest_difference(metrics["recall"], *told, metric="recall", progress=0.0),
        "n_tokens": metrics["n_tokens"] == [float(len(each)) for each in ids],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
