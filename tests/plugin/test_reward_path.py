"""Runs that would be wrong in silence: who judges a row, whether anybody can, and of which image it speaks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from verl_rows import ANSWER, TARGET, CharTokenizer, config_of, infos_of, judged, manager, trajectory, write_rows

from verl_visionr1 import PRESETS, score
from verl_visionr1.alarms import AlarmRules, AlarmState, Batch, advance
from verl_visionr1.plugin.config import ConfigError
from verl_visionr1.plugin.delegation import reward_model_problem
from verl_visionr1.plugin.scoring_guard import MIN_PROMPTS, MIN_ROWS, NothingScoredError, ScoringGuard
from verl_visionr1.plugin.training_state import StepRows

KEY = "reward.reward_kwargs.visionr1"


REWARD_MODELS = {
    "beside the manager": ({"enable": True}, "visionr1", None, "never visionr1"),
    "as a class": ({"enable": True}, "VisionR1RewardManager", None, "never visionr1"),
    "asked by nobody": ({"enable": True}, "visionr1", "own.py", "not used"),
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
    result = judged(own, trajectory("42", "42", data_source="maths", extra_info={}))
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
    settings = {"criteria": {"mine": {"fn": f"{file}:mine"}}} if case == "criterion" else {}
    reward_manager = manager(**settings)
    reason = "nothing" if case == "criterion" else "got `int`"
    for number in range(MIN_ROWS - 1):
        truth = str(number) if case == "geo3k" else TARGET.to_json().replace("cat", f"cat{number}")
        assert judged(reward_manager, trajectory(ANSWER, truth))["reward_extra_info"]["unscored"] == 1.0
    with pytest.raises(NothingScoredError, match=reason):
        judged(reward_manager, trajectory(ANSWER, "99" if case == "geo3k" else TARGET))


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
    from verl_visionr1.plugin.training_metrics import batch_of

    assert batch_of(1, 0, ["b_0_0", "a_0_0"], [*infos_of(1.0, 1), *infos_of(0.0, 1)], []).unscored == 0.5


@pytest.mark.verl
def test_rows_of_other_sources_are_judged_by_verl() -> None:
    from verl.utils.reward_score import default_compute_score

    from verl_visionr1.rewards.routing import DELEGATED

    reward_manager = manager(default_compute_score, delegate=["openai/*"])
    own = judged(reward_manager, trajectory(ANSWER))
    right, wrong = (judged(reward_manager, trajectory(f"#### {n}", "42", data_source="openai/gsm8k")) for n in (42, 41))
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

    result = judged(manager(mine, delegate=["maths"]), trajectory("7", "7", data_source="maths"))
    assert (result["reward_score"], result["reward_extra_info"]["acc"]) == (0.25, 1.0)
    assert "note" not in result["reward_extra_info"]


@pytest.mark.verl
def test_a_source_that_verl_does_not_know_is_unscored_and_named_before(tmp_path: Path) -> None:
    from verl.utils.reward_score import default_compute_score

    from verl_visionr1.plugin.config import settings_of
    from verl_visionr1.plugin.preflight import data_problems

    result = judged(manager(default_compute_score, delegate=["own/*"]), trajectory("7", "7", data_source="own/maths"))
    assert (result["reward_score"], result["reward_extra_info"]["unscored"]) == (0.0, 1.0)
    file = write_rows(tmp_path / "a.parquet", [("own/maths", "7", "?"), ("openai/gsm8k", "7", "?")])
    config = config_of(delegate=["own/*", "openai/*"])
    config.data = {"train_files": str(file), "val_files": None, "image_key": "images", "prompt_key": "prompt"}
    (problem,) = data_problems(config, settings_of(config))
    assert "'own/maths'" in problem
    assert problem.startswith(f"{KEY}.delegate: ")
    config.reward.custom_reward_function = {"path": "own.py"}
    assert data_problems(config, settings_of(config)) == []
    config.reward.reward_kwargs.visionr1.delegate = ["openai/*"]
    (problem,) = data_problems(config, settings_of(config))
    assert "row 0" in problem


@pytest.mark.verl
def test_means_are_not_diluted_by_rows_of_verl() -> None:
    from verl_visionr1.plugin.training_metrics import batch_means
    from verl_visionr1.rewards.routing import DELEGATED

    own = {"value": 1.0, "recall": 1.0, "parsed": 1.0, "acc": 1.0, "route": 0.0}
    other = {"value": 0.0, "recall": 0.0, "parsed": 0.0, "acc": 0.0, "route": DELEGATED}
    means = batch_means(["a_0_0", "b_0_0"], [own, other], [PRESETS["visionr1"]])
    assert [means[f"visionr1/{name}/mean"] for name in ("recall", "parsed", "value")] == [1.0, 1.0, 0.5]
