"""The plug-in against the installed verl: what a reward worker receives, built as verl builds it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from verl_rows import ANSWER, MODEL, TARGET, judged, manager, trajectory

from verl_visionr1 import PRESETS, Target, score
from verl_visionr1.plugin.config import ConfigError, Settings, checked
from verl_visionr1.rewards import TASK_PRESETS
from verl_visionr1.rewards.context import WIRE_KEY, Context
from verl_visionr1.schedule import progress_at


@pytest.mark.verl
@pytest.mark.parametrize("preset", ["visionr1", "visionr1-paper", "visionr1-released"])
@pytest.mark.parametrize("step", [1, 5, 6, 10])
def test_manager_scores_like_the_facade(preset: str, step: int) -> None:
    result = judged(manager(preset=preset), trajectory(ANSWER, global_steps=step, extra_info={"split": "train"}))
    expected = score(ANSWER, TARGET, preset=preset, progress=progress_at(step, 10))
    assert result["reward_score"] == expected.value
    assert {key: result["reward_extra_info"][key] for key in PRESETS[preset].metrics} == expected.metrics
    assert result["reward_extra_info"]["stage"] == (0.0 if step < 6 else 1.0)


@pytest.mark.verl
def test_an_answer_says_whether_it_is_cut_off_empty_or_repeats_itself() -> None:
    def signs(text: str) -> list[float]:
        extra = judged(reward_manager, trajectory(text))["reward_extra_info"]
        return [extra[name] for name in ("clipped", "empty", "distinct_share")]

    reward_manager = manager()
    assert reward_manager.max_tokens is None
    assert "clipped" not in judged(reward_manager, trajectory(ANSWER))["reward_extra_info"]
    reward_manager.max_tokens = len(ANSWER)  # as data.max_response_length says
    assert signs(ANSWER) == [1.0, 0.0, 1.0]
    assert signs("[]") == [0.0, 1.0, 1.0]
    assert signs(f"{ANSWER[:-1]}, {ANSWER[1:]}") == [1.0, 0.0, 0.5]


@pytest.mark.verl
def test_stamped_context_wins() -> None:
    stamped = Context(0.9).to_wire()
    result = judged(manager(), trajectory(ANSWER, **{WIRE_KEY: stamped}))
    assert result["reward_score"] == score(ANSWER, TARGET, progress=0.9).value


@pytest.mark.verl
@pytest.mark.parametrize(("split", "progress"), [("train", 0.0), ("val", 1.0), ("test", 1.0)])
def test_without_callback_the_split_tells_validation(split: str, progress: float) -> None:
    result = judged(manager(), trajectory(ANSWER, extra_info={"split": split}))
    assert result["reward_score"] == score(ANSWER, TARGET, progress=progress).value


WEIGHTS = {  # what V0, one-step-off and fully async say of an answer -> the step it belongs to
    "version": ({"global_steps": 4, "min_global_steps": 3, "max_global_steps": 4}, 5),
    "the newest counts": ({"global_steps": 3, "max_global_steps": 4}, 5),
    "one number": ({"global_steps": 7}, 8),
    "null beside it": ({"max_global_steps": None, "global_steps": 7}, 8),
    "before training": ({"max_global_steps": 0}, 1),
}


def without_step(**columns: object) -> Any:
    data = trajectory(ANSWER, **columns)
    del data.non_tensor_batch["global_steps"]
    return data


@pytest.mark.verl
@pytest.mark.parametrize(("fields", "step"), WEIGHTS.values(), ids=WEIGHTS)
def test_without_a_step_the_version_of_the_weights_tells_it(fields: dict, step: int) -> None:
    reward_manager = manager()
    for split, expected in (("train", progress_at(step, 10)), ("val", progress_at(step - 1, 10))):
        data = without_step(tool_extra_fields=fields, extra_info={"split": split})
        assert judged(reward_manager, data)["reward_extra_info"]["progress"] == expected
    with_step = trajectory(ANSWER, tool_extra_fields=fields, global_steps=2)
    assert judged(reward_manager, with_step)["reward_extra_info"]["progress"] == progress_at(2, 10)


@pytest.mark.verl
@pytest.mark.parametrize("columns", [{}, {"tool_extra_fields": {}}, {"tool_extra_fields": {"max_global_steps": None}}])
def test_an_unknown_step_is_an_error_and_no_default(columns: dict) -> None:
    with pytest.raises(ConfigError, match=r"neither global_steps nor tool_extra_fields\.max_global_steps"):
        judged(manager(), without_step(**columns))
    assert judged(manager(schedule={"kind": "off"}), without_step(**columns))["reward_extra_info"]["stage"] == -1


@pytest.mark.verl
@pytest.mark.parametrize(
    ("merged_wh", "processed_wh"), [((2, 3), (56, 84)), ((23, 17), (644, 476)), ((1, 1), (28, 28))]
)
def test_processed_size_is_read_from_positions(merged_wh: tuple[int, int], processed_wh: tuple[int, int]) -> None:
    from verl_visionr1.plugin.image_size import ImageTokens, read_processed_size

    data = trajectory(ANSWER, images_wh=(merged_wh,))
    assert read_processed_size(data.batch, ImageTokens.of(MODEL)) == processed_wh


@pytest.mark.verl
def test_processed_size_twin_of_transformers(tmp_path: Path) -> None:
    """Positions made by transformers' own Qwen2.5-VL rope index, for images of many sizes, two in a row."""
    import torch
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    from verl_visionr1.plugin.image_size import ImageChoiceError, ImageTokens, read_processed_size

    config = Qwen2_5_VLConfig()
    rope = SimpleNamespace(config=config)
    if hasattr(Qwen2_5_VLModel, "get_vision_position_ids"):
        rope.get_vision_position_ids = Qwen2_5_VLModel.get_vision_position_ids.__get__(rope)
    tokens = ImageTokens.of(config.to_dict())
    rng = np.random.default_rng(0)
    for _ in range(20):
        (w, h), (w2, h2) = rng.integers(1, 40, size=(2, 2)).tolist()
        image = [config.vision_start_token_id, *[config.image_token_id] * (w * h), config.vision_end_token_id]
        second = [config.vision_start_token_id, *[config.image_token_id] * (w2 * h2), config.vision_end_token_id]
        ids = torch.tensor([[5, 6, *image, 8, *second, 9, 10]])
        types = (ids == config.image_token_id).int()
        positions, _ = Qwen2_5_VLModel.get_rope_index(
            rope,
            input_ids=ids,
            mm_token_type_ids=types,
            image_grid_thw=torch.tensor([[1, 2 * h, 2 * w], [1, 2 * h2, 2 * w2]]),
            attention_mask=torch.ones_like(ids),
        )
        four = torch.cat([torch.arange(ids.shape[1])[None, None], positions], dim=0).transpose(0, 1)
        for number, wh in enumerate([(28 * w, 28 * h), (28 * w2, 28 * h2)]):
            assert read_processed_size({"input_ids": ids, "position_ids": four}, tokens, number) == wh
        with pytest.raises(ImageChoiceError, match="the row has 2 images"):
            read_processed_size({"input_ids": ids, "position_ids": four}, tokens)
        # One image in the prompt; what stands behind it, the model wrote.
        found = read_processed_size({"input_ids": ids, "position_ids": four}, tokens, prompt_end=len(image) + 3)
        assert found == (28 * w, 28 * h)


@pytest.mark.verl
def test_bad_ground_truth_scores_the_floor_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    good = judged(manager(), trajectory(ANSWER))
    for bad in ("{", '{"task": "detection"}', "7", 7):
        result = judged(manager(), trajectory(ANSWER, bad))
        assert result["reward_score"] == 0.0
        assert result["reward_extra_info"]["unscored"] == 1.0
        assert result["reward_extra_info"].keys() == good["reward_extra_info"].keys()
    assert "row 3 cannot be scored" in caplog.text


MIXED = {
    "detection": (TARGET, ANSWER),
    "counting": (Target(task="counting", size_wh=(640, 480), count=3), "There are 3."),
    "pointing": (
        Target(task="pointing", size_wh=(640, 480), boxes_xyxy=[[0, 0, 9, 9]]),
        '[{"point_2d": [4, 4], "label": "x"}]',
    ),
    "text": (Target(task="text", answer="B"), "<answer>B</answer>"),
}


@pytest.mark.verl
@pytest.mark.parametrize("routes", [{}, {"task": {"counting": "counting"}}], ids=["by default", "by rule"])
def test_mixed_tasks_have_the_same_keys_and_their_own_rewards(routes: dict) -> None:
    reward_manager = manager(routes=routes)
    keys = set()
    for task, (target, text) in MIXED.items():
        result = judged(reward_manager, trajectory(text, target))
        keys.add(tuple(result["reward_extra_info"]))
        name = "visionr1" if task == "detection" else TASK_PRESETS[task]
        expected = score(text, target, preset=name, progress=0.0, n_tokens=len(text))
        assert result["reward_score"] == expected.value > 0.5
        assert result["reward_extra_info"]["acc"] == expected.metrics["accuracy"] == 1.0
        assert result["reward_extra_info"]["unscored"] == 0.0
    assert len(keys) == 1


@pytest.mark.verl
def test_a_criterion_of_ones_own_that_fails_costs_its_row_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "own.py"
    file.write_text("def mine(answer):\n    return 1 / answer.n_predicted\n")
    reward_manager = manager(criteria={"mine": {"fn": f"{file}:mine"}})
    assert judged(reward_manager, trajectory(ANSWER))["reward_extra_info"]["mine"] == 1.0
    failed = judged(reward_manager, trajectory("[]"))
    assert (failed["reward_score"], failed["reward_extra_info"]["unscored"]) == (0.0, 1.0)
    assert "division by zero" in caplog.text


def test_what_the_manager_reports_beside_criteria_is_taken() -> None:
    from verl_visionr1.plugin.config import TAKEN

    extra = judged(manager(), trajectory(ANSWER))["reward_extra_info"]
    assert extra.keys() - set(PRESETS["visionr1"].metrics) <= TAKEN
    assert not any(TAKEN & set(preset.metrics) for preset in PRESETS.values())


@pytest.mark.verl
def test_of_several_outputs_only_the_last_ones_own_tokens_are_read() -> None:
    """verl pads prompt and response of each output as a whole, so that the mask of a long prompt says too much."""
    import torch

    data = trajectory(ANSWER, response_len=len(ANSWER))
    data.batch["attention_mask"] = torch.ones_like(data.batch["attention_mask"])
    result = judged(manager(), data)
    assert result["reward_extra_info"]["n_tokens"] == len(ANSWER)
    assert result["reward_score"] == score(ANSWER, TARGET, progress=0.0).value


@pytest.mark.verl
def test_extra_info_may_be_anything() -> None:
    for extra_info in ('{"split": "val"}', None, 3):
        result = judged(manager(), trajectory(ANSWER, extra_info=extra_info))
        assert result["reward_extra_info"]["unscored"] == 0.0


@pytest.mark.verl
def test_a_gate_needs_the_callback() -> None:
    with pytest.raises(ConfigError, match=r"kind=gated: needs the progress callback"):
        manager(schedule={"kind": "gated", "gate": {"bar": 0.5}})


@pytest.mark.verl
def test_reported_values_are_floats_and_never_called_reward() -> None:
    extra = judged(manager(), trajectory(""))["reward_extra_info"]
    assert all(type(value) is float for value in extra.values())
    assert "reward" not in extra


@pytest.mark.verl
def test_images_in_messages_are_not_touched() -> None:
    """A row whose messages would raise on any use scores as one without messages."""

    class Untouchable:
        def __getattribute__(self, name: str) -> object:
            if name in ("__class__", "__reduce_ex__", "__array_struct__", "__array_interface__", "__array__"):
                return object.__getattribute__(self, name)
            raise AssertionError(f"touched {name}")

    messages = np.empty(1, dtype=object)
    messages[0] = [Untouchable()]
    data = trajectory(ANSWER)
    data.non_tensor_batch["raw_prompt"] = messages
    assert judged(manager(), data) == judged(manager(), trajectory(ANSWER))


@pytest.mark.verl
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame": "auto"}, "frame=auto: the frame of model type 'None'"),
        ({"preset": "nope"}, "visionr1.preset = 'nope'"),
    ],
)
def test_manager_refuses_bad_settings_at_start(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        manager(**settings)


@pytest.mark.verl
def test_unknown_total_is_an_error_unless_the_rule_is_off() -> None:
    from verl_visionr1.plugin.run_facts import total_steps_of

    config = OmegaConf.create({"actor_rollout_ref": {"actor": {"optim": {"total_training_steps": -1}}}})
    with pytest.raises(ConfigError, match="total_steps=null: "):
        total_steps_of(config, Settings())
    assert total_steps_of(config, checked({"schedule": {"kind": "off"}})) is None
    assert total_steps_of(config, Settings(total_steps=40)) == 40


@pytest.mark.verl
@pytest.mark.parametrize("n_images", [0, 4])
def test_cost_of_a_completion(benchmark: object, n_images: int) -> None:
    """`pytest tests/plugin -k cost --benchmark-enable`: what verl's worker spends on one, with its images."""
    data = trajectory(ANSWER)
    messages = np.empty(1, dtype=object)
    messages[0] = [np.zeros((480, 640, 3), dtype=np.uint8) for _ in range(n_images)]
    data.non_tensor_batch["raw_prompt"] = messages
    reward_manager = manager()
    loop = asyncio.new_event_loop()
    assert benchmark(lambda: loop.run_until_complete(reward_manager.run_single(data)))["reward_score"] == 1.0
    loop.close()


@pytest.mark.verl
def test_batch_means_and_dead_groups() -> None:
    from verl_visionr1.plugin.training_metrics import batch_means

    keys = ["a_0_0", "a_1_0", "b_0_0", "b_1_0"]
    infos = [{"value": value, "recall": 1.0, "stage": 1.0} for value in (0.0, 1.0, 0.5, 0.5)]
    means = batch_means(keys, infos)
    assert means["visionr1/value/mean"] == 0.5
    assert means["visionr1/recall/mean"] == 1.0
    assert means["visionr1/group_std/mean"] == pytest.approx(0.5**0.5 / 2), "divided by n - 1, as verl's advantages"
    assert means["visionr1/frac_reward_zero_std/mean"] == 0.5
    assert "visionr1/stage/mean" not in means


@pytest.mark.verl
def test_a_mean_is_over_the_rows_that_have_the_criterion() -> None:
    from verl_visionr1.plugin.training_metrics import batch_means

    infos = [
        {"recall": 1.0, "exact": 0.0, "acc": 1.0, "route": 0.0},
        {"recall": 0.0, "exact": 0.5, "acc": 1.0, "route": 1.0},
        {"recall": 0.0, "exact": 0.0, "acc": 1.0, "route": -1.0},
    ]
    means = batch_means(["a_0_0", "b_0_0", "c_0_0"], infos, [PRESETS["visionr1"], PRESETS["counting"]])
    assert (means["visionr1/recall/mean"], means["visionr1/exact/mean"]) == (1.0, 0.5)


def test_a_module_waited_for_may_share_its_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under pytest: one loader serves the module and what it imports."""
    import importlib.machinery
    import types

    from verl_visionr1.plugin.import_hooks import when_imported

    class Finder:
        def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
            return importlib.machinery.ModuleSpec(name, self) if name in ("made_outer", "made_inner") else None  # type: ignore[arg-type]

        def create_module(self, spec: object) -> None: ...

        def exec_module(self, module: types.ModuleType) -> None:
            if module.__name__ == "made_outer":
                __import__("made_inner")

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    for name in ("made_outer", "made_inner"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    seen: list[str] = []
    when_imported("made_outer", lambda module: seen.append(module.__name__))
    __import__("made_outer")
    assert seen == ["made_outer"]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_a_failing_plugin_is_loud() -> None:
    """verl swallows what an entry point raises; the user still has to see it."""
    code = (
        "import contextlib, importlib.metadata, sys\n"
        "sys.modules['verl_visionr1.plugin.import_hooks'] = None\n"  # makes the import fail
        "with contextlib.suppress(Exception):\n"
        "    [entry.load() for entry in importlib.metadata.entry_points(group='verl.plugins', name='visionr1')]"
    )
    done = run_python(code)
    assert done.returncode == 0
    assert "the plug-in could not be loaded" in done.stderr
    assert "Traceback" in done.stderr
