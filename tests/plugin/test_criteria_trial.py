"""A criterion of the user that fails on the run's own rows stops the run before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("verl")

from run_configs import config_of, row, write

from verl_visionr1 import PRESETS, Target
from verl_visionr1.answers.writers import WRITERS
from verl_visionr1.frames import FRAMES
from verl_visionr1.rewards import ResponseContext, evaluate_completion
from verl_visionr1.runtime.criteria_trial import _right_answer, criteria_problems

pytestmark = pytest.mark.verl

NO_OBJECT = Target(task="detection", size_wh=(100, 100), categories=["cat"]).to_json()
WRONG = {  # body of the function -> parts of the message: row, answer, class or value, line
    "raises": ("return {}['a']", ("row 0", "right answer", "KeyError: 'a'", ":4)")),
    "raises in a package": ("return np.linalg.inv(np.zeros((2, 2)))[0]", ("row 0", "LinAlgError", ":4)")),
    "raises for an empty answer": ("return float(answer.labels[0] == 'cat')", ("row 0", "empty answer", "IndexError")),
    "raises without objects": (
        "return 1 - 1 / target.n_objects",
        ("row 2", "right answer", "ZeroDivisionError", ":4)"),
    ),
    "no number": ("return None", ("row 0", "right answer", "returned None", ":3)")),
    "not finite": ("return float('nan')", ("row 0", "right answer", "returned nan", ":3)")),
}
OUTSIDE = {
    "above 1": ("return 2 * answer.n_predicted", ("row 0", "right answer", "returned 2", ":3)")),
    "below 0": ("return -0.5", ("row 0", "right answer", "returned -0.5", ":3)")),
}


def found_in(body: str, tmp_path: Path, *, checks_range: bool) -> list[str]:
    (tmp_path / "own.py").write_text(f"import numpy as np\n\ndef own(answer, target):\n    {body}\n")
    rows = [row(), row(), {**row(), "reward_model": {"style": "rule", "ground_truth": NO_OBJECT}}]
    file = write(tmp_path / "train.parquet", rows)
    own = f"reward.reward_kwargs.visionr1.criteria.own={{fn: {tmp_path}/own.py:own, weight: 0.5}}"
    return criteria_problems(config_of(f"data.train_files={file}", own), checks_range=checks_range)


@pytest.mark.parametrize(("body", "parts"), [*WRONG.values(), *OUTSIDE.values()], ids=[*WRONG, *OUTSIDE])
def test_a_criterion_that_fails_is_named_with_row_and_line(body: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    (found,) = found_in(body, tmp_path, checks_range=True)
    for part in (str(tmp_path / "train.parquet"), "criteria.own", str(tmp_path / "own.py"), *parts):
        assert part in found


@pytest.mark.parametrize("body", ["return answer.is_parsed", "return 1.0", *(body for body, _ in OUTSIDE.values())])
def test_a_run_starts_with_any_finite_value(body: str, tmp_path: Path) -> None:
    assert found_in(body, tmp_path, checks_range=False) == []


@pytest.mark.parametrize("name", [name for name in PRESETS if "released" not in name and name != "counting-list"])
def test_the_right_answer_earns_full_reward(name: str) -> None:
    preset = PRESETS[name]
    task, writer = preset.tasks[0], WRITERS[preset.answer_format]
    boxes = {"boxes_xyxy": [[100.5, 100, 200, 201]], "labels": ["cat"]}
    words = {"multiple-choice": "B", "yes-no": "yes"}.get(name, "7")
    other = {"counting": {"count": 3}, "text": {"answer": words}}
    target = Target(task=task, size_wh=(640, 480), **other.get(task, boxes))
    response = ResponseContext(FRAMES[writer.frame], target.size_wh, max_tokens=2048)
    score = evaluate_completion(_right_answer(target, preset, writer), target, preset, preset.schedule(0.0), response)
    assert score.value == pytest.approx(1.0)
