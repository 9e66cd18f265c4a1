"""Run the reward in the real classes of several versions of verl; prints what it found, one line of JSON for each.

    VERL_USE_EXTERNAL_MODULES=verl_visionr1.plugin python tests/verl_contract.py FOLDER [FOLDER ...]

FOLDER holds the package `verl`: a wheel unpacked, or a checkout. Each version is imported in a process of its own that
starts as a copy of one with torch, transformers and Ray loaded, which takes longer than all the rest. A script;
`test_verl_versions.py` reads it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import ray  # noqa: F401 - as the next two: loaded once, for every verl
import torch
import torchvision  # noqa: F401
import transformers.processing_utils  # noqa: F401
from omegaconf import OmegaConf
from tensordict import TensorDict
from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from framework_answers import SIZES_WH, largest_difference, make_answers  # noqa: E402

from verl_visionr1 import Target  # noqa: E402
from verl_visionr1.integrations import verl_function  # noqa: E402
from verl_visionr1.processed import processed_size  # noqa: E402
from verl_visionr1.schedule import progress_at  # noqa: E402

TOKENIZER = AutoTokenizer.from_pretrained(ROOT / "recipes" / "tiny" / "qwen3_vl_scenes")
TOTAL_STEPS = 10
STEPS = (1, 5, 6, 10)
PLACES = {
    "this file": verl_function.__file__,
    "a copied example": str(ROOT / "examples" / "verl" / "reward.py"),
    "pkg://": "pkg://verl_visionr1.integrations.verl_function",
}


def processed(size_wh: tuple[int, int]) -> tuple[int, int]:
    return processed_size(size_wh, "qwen2.5-vl")


def load_function(place: str, **settings: Any) -> Any:
    """The function as verl loads it from its config; keys of both generations."""
    from verl.trainer.ppo.reward import get_custom_reward_fn

    custom = {"path": place, "name": "compute_score", "reward_kwargs": settings}
    sys.modules.pop("custom_module", None)  # verl 0.6 loads one file a process
    return get_custom_reward_fn(
        OmegaConf.create({"custom_reward_function": custom, "reward": {"custom_reward_function": custom}})
    )


def make_batch(rows: list[tuple[Target, str]], **columns: Any) -> Any:
    """A DataProto as the trainer hands it to a reward manager: responses padded to the right."""
    from verl import DataProto

    answers = [TOKENIZER.encode(text, add_special_tokens=False) for _, text in rows]
    longest = max(map(len, answers)) + 2
    responses = torch.tensor([ids + [0] * (longest - len(ids)) for ids in answers])
    prompts = torch.ones(len(rows), 3, dtype=torch.long)
    mask = torch.tensor([[1] * (3 + len(ids)) + [0] * (longest - len(ids)) for ids in answers])
    input_ids = torch.cat([prompts, responses], dim=1)
    batch = {"prompts": prompts, "responses": responses, "attention_mask": mask, "input_ids": input_ids}
    batch["position_ids"] = torch.arange(input_ids.shape[1]).repeat(len(rows), 1)
    every = {"data_source": "x", "extra_info": {"split": "train"}, **columns}
    non_tensor = {key: np.array([deepcopy(value) for _ in rows], dtype=object) for key, value in every.items()}
    truths = [{"style": "rule", "ground_truth": target.to_json()} for target, _ in rows]
    non_tensor["reward_model"] = np.array(truths, dtype=object)
    return DataProto(batch=TensorDict(batch, batch_size=len(rows)), non_tensor_batch=non_tensor)


def batch_scores(function: Any, rows: list[tuple[Target, str]], **columns: Any) -> list[float]:
    """verl <= 0.7.0: the manager that the trainer calls with the whole batch."""
    from verl.workers.reward_manager import get_reward_manager_cls

    manager: Any = get_reward_manager_cls("naive")(tokenizer=TOKENIZER, num_examine=0, compute_score=function)
    found = manager(make_batch(rows, **columns), return_dict=True)
    assert len(set(map(len, found["reward_extra_info"].values()))) == 1
    return found["reward_tensor"].sum(-1).tolist()


def row_scores(manager: Any, rows: list[tuple[Target, str]], **columns: Any) -> list[float]:
    """verl >= 0.7.0: the manager that a reward worker calls row by row."""
    found = [manager.loop.run_until_complete(manager.run_single(make_batch([row], **columns))) for row in rows]
    assert len({tuple(one["reward_extra_info"]) for one in found}) == 1
    return [one["reward_score"] for one in found]


def loop_manager(name: str, function: Any, **settings: Any) -> Any:
    """A manager of verl's reward loop (0.7.1 and newer), or `visionr1` by the registry of that verl."""
    from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls

    reward = {"reward_kwargs": {"visionr1": settings}, "reward_model": {"enable": False}}
    actor = {"actor": {"optim": {"total_training_steps": TOTAL_STEPS}}, "model": {"path": None}}
    config = OmegaConf.create({"reward": reward, "actor_rollout_ref": actor})
    return get_reward_manager_cls(name)(config=config, tokenizer=TOKENIZER, compute_score=function)


def error_of(call: Any) -> str:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - its class is what is asked for
        return type(error).__name__
    return ""


def check_function(found: dict[str, Any], scores_of: Any) -> None:
    """The function by every place, in both kinds of frame, at five image sizes."""
    off = {"kind": "off"}
    for place, path in PLACES.items():
        try:
            function = load_function(path, frame="qwen3-vl", schedule=off)
        except (FileNotFoundError, AssertionError):
            continue  # this verl takes no pkg://
        rows = make_answers("qwen3-vl", processed)
        found["function"][place] = largest_difference(scores_of(function, rows), rows, "qwen3-vl", processed)
    rows = make_answers("qwen2.5-vl", processed)
    scores = scores_of(load_function(PLACES["this file"], frame="qwen2.5-vl", schedule=off), rows)
    found["function"]["processed pixels"] = largest_difference(scores, rows, "qwen2.5-vl", processed)
    found["perfect"] = scores[: len(SIZES_WH)]


def check_steps(scores_of: Any, missing: Any) -> dict[str, Any]:
    """Largest difference from `score` at the steps that decide, and the error where the step is not told."""
    rows = make_answers("qwen3-vl", processed)
    differences = []
    for step in STEPS:  # after step N - 1 its weights write the answers of step N
        told = {"tool_extra_fields": {"global_steps": step - 1}}
        progress = progress_at(step, TOTAL_STEPS)
        differences.append(largest_difference(scores_of(rows, **told), rows, "qwen3-vl", processed, progress=progress))
    return {"largest": max(differences), "missing": error_of(missing)}


def examine() -> dict[str, Any]:
    """What the verl on the path does with the reward."""
    import verl

    found: dict[str, Any] = {"version": verl.__version__, "function": {}, "steps": {}, "manager": None}
    moving = load_function(PLACES["this file"], frame="qwen3-vl", total_steps=TOTAL_STEPS)
    one = make_answers("qwen3-vl", processed)[:1]
    try:
        from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls

        naive = loop_manager("naive", None)
    except (ImportError, TypeError):  # before 0.7.0; 0.7.0
        check_function(found, batch_scores)
        found["steps"]["function"] = {"missing": error_of(lambda: batch_scores(moving, one))}
        return found
    asyncio.set_event_loop(naive.loop)
    check_function(found, lambda function, rows: row_scores(loop_manager("naive", function), rows))
    with_steps = loop_manager("naive", moving)
    found["steps"]["function"] = check_steps(
        lambda rows, **told: row_scores(with_steps, rows, **told), lambda: row_scores(with_steps, one)
    )
    found["manager"] = get_reward_manager_cls("visionr1").__name__
    plugin = loop_manager("visionr1", None, frame="qwen3-vl")
    found["steps"]["manager"] = check_steps(
        lambda rows, **told: row_scores(plugin, rows, **told), lambda: row_scores(plugin, one)
    )
    from verl_visionr1.runtime.check import findings

    found["check"] = [[one.what, one.found] for one in findings() if not one.is_fine]
    return found


def main() -> None:
    """Examine each folder in a copy of this process."""
    for folder in sys.argv[1:]:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            continue
        try:
            sys.path.insert(0, folder)
            print(json.dumps(examine()), flush=True)
        except BaseException:  # noqa: BLE001 - a copy must end here, whatever it is
            print(f"{folder}: {traceback.format_exc()}", file=sys.stderr, flush=True)
        finally:
            os._exit(0)


if __name__ == "__main__":
    main()
