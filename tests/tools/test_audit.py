"""The audit: our default presets stand it, released and bad rewards do not, and each check can fail."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from verl_visionr1 import PRESETS, Target
from verl_visionr1.cli import app
from verl_visionr1.targets import TASKS
from verl_visionr1.tools.audit import CHECKS, AuditError, Limits, Report, Subject, audit
from verl_visionr1.tools.audit.battery import battery
from verl_visionr1.tools.audit.callables import GROUND_TRUTHS, load, to_number
from verl_visionr1.tools.audit.scenes import list_scenes
from verl_visionr1.tools.audit.writers import FORMS, WRITERS, Language

HERE = Path(__file__).parents[1]
BAD = str(HERE / "rewards_to_audit.py")
PATIENT = Limits(ms=250.0, long_ms=2500.0)  # a test machine may be busy; the command's own are 10 and 100 ms
DEFAULT = [name for name in PRESETS if not name.endswith(("-released", "-paper"))]
RELEASED = [name for name in PRESETS if name.endswith("-released")]


@cache
def quick_report(preset: str) -> Report:
    return audit(Subject(preset), limits=PATIENT, is_quick=True)


def broken(report: Report) -> dict[str, tuple[str, ...]]:
    """Check -> what was seen, for every check that is not ok."""
    return {f.check: f.seen for task in report.tasks for f in task.findings if f.verdict != "ok"}


# --- our presets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", DEFAULT)
def test_default_presets_cannot_be_cheated(preset: str) -> None:
    if preset == "math":  # it asks sympy
        report = audit(Subject(preset), scenes=("math",), limits=Limits(ms=math.inf), is_quick=True)
    else:
        report = quick_report(preset)
    assert report.failed == (), broken(report)
    assert all(0.0 <= task.lowest < task.highest == pytest.approx(1.0) for task in report.tasks)


@pytest.mark.parametrize("preset", ["visionr1", "counting", "pointing", "text-exact"])
def test_nor_can_long_texts_keep_them_busy(preset: str) -> None:
    report = audit(Subject(preset), PRESETS[preset].tasks[:1], limits=PATIENT)
    assert report.failed == (), broken(report)
    assert any(len(probe.completion) > 900_000 for probe in battery("text", Language(WRITERS["text"], FORMS[0])))


@pytest.mark.parametrize("answer_format", [name for name in WRITERS if WRITERS[name].kind in ("boxes", "points")])
def test_nor_in_any_format(answer_format: str) -> None:
    preset = "visionr1" if WRITERS[answer_format].kind == "boxes" else "pointing"
    report = audit(Subject(preset, answer_format), limits=PATIENT, is_quick=True)
    assert report.tasks[0].answer_format == answer_format
    assert set(report.failed) <= FORMAT_FAULTS.get(answer_format, set()), broken(report)


FORMAT_FAULTS = {
    "paligemma": {"perfect-is-full", "nothing-is-free"},  # 1024 bins are not pixels; nothing is said by no text at all
    "visionr1-released": {"negatives", "nothing-is-free", "outside-answer"},
}


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.6, 1.0])
def test_nor_at_any_stage_of_training(progress: float) -> None:
    report = audit(Subject("visionr1", progress=progress), limits=PATIENT, is_quick=True)
    assert report.failed == (), broken(report)


@pytest.mark.parametrize(("family", "least"), [("qwen2.5-vl", 0.5), ("qwen3-vl", 0.0), (None, 0.0)])
def test_a_preset_is_audited_at_the_thresholds_of_the_models_family(family: str | None, least: float) -> None:
    """At .9 of training a box at IoU .6 matches under the first stage alone."""
    target = Target(task="detection", size_wh=(100, 100), boxes_xyxy=[[0, 0, 10, 10]], labels=["cat"])
    reward = load(Subject("visionr1", progress=0.9, family=family)).reward
    value = reward('[{"bbox_2d": [0, 0, 10, 6], "label": "cat"}]', target)
    assert (value > 0.5) == (least > 0.0)


def test_the_paper_does_not_look_at_labels() -> None:
    assert audit(Subject("visionr1-paper"), limits=PATIENT, is_quick=True).failed == ("labels-cost",)


# What the README says of the released code, as checks.
KNOWN_FAULTS = {
    "visionr1-released": {
        *("perfect-is-full", "perfect-is-best", "duplicates-cost", "junk-costs", "labels-cost", "negatives"),
        *("nothing-is-free", "outside-answer"),
    },
    "vlmr1-rec-released": {"order", "permutation", "duplicates-cost", "junk-costs", "labels-cost", "negatives"},
    "vlmr1-ovd-released": {"permutation", "hedging-costs"},
    "vlmr1-yes-no-released": {"hedging-costs"},
}


HONEST = {"vlmr1-all-match-released"}
"""Equality of texts is strict, and cannot be cheated."""


@pytest.mark.parametrize("preset", RELEASED)
def test_released_presets_are_red_and_the_reasons_named(preset: str) -> None:
    report = quick_report(preset)
    assert bool(report.failed) == (preset not in HONEST), "if it stands the audit, the README's table is wrong"
    assert set(report.failed) >= KNOWN_FAULTS.get(preset, set())
    assert not set(report.failed) & {"no-exception", "no-hang", "no-eval", "deterministic"}, "less its crashes"


# --- bad rewards -----------------------------------------------------------------------------------------------------

# function, task, ground truth, checks that must fail
CHEATED: dict[str, tuple[str, str, str, set[str]]] = {
    "counts JSON objects": (
        *("counts_objects", "detection", "target-json"),
        {"duplicates-cost", "junk-costs", "labels-cost", "bad-boxes", "scattergun", "order", "no-exception"},
    ),
    "substring labels, duplicates free": (
        *("substring_labels", "detection", "boxes-json"),
        {"duplicates-cost", "junk-costs", "labels-cost", "negatives", "outside-answer", "other-turns", "hedging-costs"},
    ),
    "one criterion alone": ("only_recall", "detection", "target-json", {"duplicates-cost", "junk-costs"}),
    "lenient to small boxes": ("lenient_to_small", "detection", "target-json", {"scattergun"}),
    "the first box": ("first_box", "detection", "target-json", {"permutation", "junk-costs", "labels-cost"}),
    "numbers anywhere": ("counts_anywhere", "counting", "target-json", {"outside-answer", "hedging-costs"}),
    "a strict template": ("strict_tags", "counting", "target-json", {"blanks", "perfect-is-full"}),
    "not the same twice": ("drifts", "detection", "target-json", {"deterministic", "bounds", "perfect-is-best"}),
    "no number": ("returns_text", "detection", "target-json", {"no-exception", "perfect-is-full"}),
}


@pytest.mark.parametrize(("function", "task", "ground_truth", "checks"), CHEATED.values(), ids=CHEATED)
def test_bad_rewards_are_red(function: str, task: str, ground_truth: str, checks: set[str]) -> None:
    subject = Subject(f"{BAD}:{function}", ground_truth=ground_truth)
    report = audit(subject, [task], limits=Limits(250.0, 2500.0, (0.0, 1.0)), isolated=False, is_quick=True)
    assert set(report.failed) >= checks, broken(report)


def test_substring_labels_are_named() -> None:
    report = audit(Subject(f"{BAD}:substring_labels", ground_truth="boxes-json"), isolated=False, is_quick=True)
    assert "labels/perfect 1 is not > labels that hold the right one 1" in broken(report)["labels-cost"]


def test_code_that_evaluates_raises_and_hangs_is_survived() -> None:
    report = audit(Subject(f"{BAD}:evaluates", ground_truth="boxes-json"), deadline_s=0.5, is_quick=True)
    assert {"no-eval", "no-exception", "no-hang"} <= set(report.failed)
    seen = broken(report)
    assert "one/code: its Python was run" in seen["no-eval"]
    assert "one/NaN as a coordinate: no result after 0.5 s" in seen["no-hang"]
    assert any("NameError" in line for line in seen["no-exception"])


def test_a_hang_that_holds_the_interpreter_is_survived() -> None:
    report = audit(Subject(f"{BAD}:backtracks"), scenes=["one"], deadline_s=0.3, is_quick=True)
    assert "no-hang" in report.failed


def test_the_end_of_its_process_is_survived() -> None:
    report = audit(Subject(f"{BAD}:dies"), is_quick=True)
    assert report.failed == ("no-hang", "perfect-is-full")
    assert "its process ended" in broken(report)["no-hang"][0]


def test_slow_texts_are_named() -> None:
    report = audit(Subject(f"{BAD}:dozes"), scenes=["labels"], limits=Limits(ms=25.0), isolated=False, is_quick=True)
    assert [line.partition(":")[0] for line in broken(report)["time"]] == ["labels/unknown labels"]


def test_a_first_call_that_loads_a_library_is_not_slow() -> None:
    limits = Limits(ms=45.0, long_ms=2500.0)
    report = audit(Subject(f"{BAD}:loads_at_first"), scenes=["labels"], limits=limits, isolated=False, is_quick=True)
    assert "time" not in broken(report)


CAN_FAIL = {
    "none-accepted": "visionr1-released",
    "saturates": "rec-hit",
    "last-wins": "vlmr1-math-released",
    "label-spelling": "vlmr1-ovd-released",
}


@pytest.mark.parametrize(("check", "preset"), CAN_FAIL.items(), ids=CAN_FAIL)
def test_advice_is_given_and_is_no_failure(check: str, preset: str) -> None:
    report = quick_report(preset)
    assert check in broken(report)
    assert check not in report.failed


def test_every_check_was_seen_to_fail() -> None:
    seen = {check for *_, checks in CHEATED.values() for check in checks} | set(CAN_FAIL)
    seen |= {check for checks in KNOWN_FAULTS.values() for check in checks}
    seen |= {"no-eval", "no-hang", "time"}
    assert seen == set(CHECKS)


# --- callables of each kind ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "kind", "is_chat"),
    [("honest", "completion, target", False), ("honest_and_async", "verl", False), ("honest_chat", "trl", True)],
)
def test_an_honest_callable_is_green(function: str, kind: str, is_chat: bool) -> None:
    report = audit(Subject(f"{BAD}:{function}", is_chat=is_chat), limits=PATIENT, isolated=False, is_quick=True)
    assert report.failed == (), broken(report)
    assert [(task.task, task.kind) for task in report.tasks] == [("detection", kind)]


def test_a_criterion_is_judged_through_the_same_road() -> None:
    report = audit(Subject("pkg://verl_visionr1.criteria:precision"), isolated=False, is_quick=True)
    assert report.tasks[0].kind == "criterion"
    assert "junk-costs" not in report.failed
    assert set(report.failed) == {"order"}, "alone it forgives what is missing"


def test_a_preset_out_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: visionr1\ncriteria:\n  precision: null\n")
    report = audit(Subject(str(tmp_path / "mine.yaml")), ["detection"], isolated=False, is_quick=True)
    assert "junk-costs" in report.failed


def test_forms_are_found() -> None:
    """A reward that asks for tags is spoken to in tags."""
    report = audit(Subject(f"{BAD}:strict_tags"), ["counting"], scenes=["several"], isolated=False, is_quick=True)
    assert report.tasks[0].form == "think-answer"


def test_ground_truths() -> None:
    box = Target(task="grounding", size_wh=(9, 9), boxes_xyxy=[[1, 2, 3, 4]], labels=["cat"])
    assert GROUND_TRUTHS["vlmr1"](box) == "<answer> [1.0, 2.0, 3.0, 4.0] </answer>"
    assert json.loads(GROUND_TRUTHS["boxes-json"](box)) == [{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]
    none = Target(task="detection", size_wh=(9, 9), categories=["cat"])
    assert GROUND_TRUTHS["vlmr1"](none) == "<answer> None </answer>"
    assert GROUND_TRUTHS["vlmr1"](Target(task="text", answer="B")) == "<answer> B </answer>"
    assert GROUND_TRUTHS["boxes-json"](Target(task="counting", size_wh=(9, 9), count=7)) == "7"
    for task in TASKS:
        for scene in list_scenes(task, "boxes"):
            assert Target.from_json(GROUND_TRUTHS["target-json"](scene.target)) == scene.target
            assert isinstance(GROUND_TRUTHS["vlmr1"](scene.target), str)


@pytest.mark.parametrize("result", [None, "1", {"acc": 1.0}, [0.0, 1.0], [None], b"1"])
def test_what_is_no_number(result: Any) -> None:
    with pytest.raises(TypeError, match="needs a number"):
        to_number(result)


def test_a_threshold_that_falls_to_0_is_found_at_sizes_of_a_step() -> None:
    report = audit(Subject(f"{BAD}:lenient_to_small"), limits=PATIENT, isolated=False, is_quick=True)
    seen = [text.split()[0] for text in broken(report)["scattergun"]]
    assert set(seen) == {"step/perfect", "thin/perfect"}, "one step wide; nothing else"


# --- the command -----------------------------------------------------------------------------------------------------

run = CliRunner()


def test_the_command_is_green_for_a_good_reward() -> None:
    result = run.invoke(app, ["audit", "visionr1", "--task", "grounding", "--quick", "--limit-ms", "250"])
    assert result.exit_code == 0, result.output
    assert "visionr1: nothing found" in result.output
    assert "permutation" in result.output


def test_the_command_is_red_and_says_why() -> None:
    result = run.invoke(app, ["audit", "visionr1-released", "--task", "detection", "--quick", "--limit-ms", "250"])
    assert result.exit_code == 1
    assert "visionr1-released fails: perfect-is-full" in " ".join(result.output.split())
    assert "20 junk after" in result.output


def test_json_is_json_whatever_the_code_prints() -> None:
    arguments = [f"{BAD}:counts_objects", "--quick", "--scene", "one", "--scene", "labels", "--json"]
    result = run.invoke(app, ["audit", *arguments])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert "duplicates-cost" in report["failed"]
    (task,) = report["tasks"]
    assert (task["task"], task["kind"], task["scenes"]) == ("detection", "verl", ["one", "labels"])
    checks = {check["id"]: check for check in task["checks"]}
    assert checks["duplicates-cost"]["severity"] == "fail"
    assert checks["duplicates-cost"]["seen"][0].startswith("one/perfect 1 is not > each 10 times 1")
    assert checks["no-eval"]["verdict"] == "ok"
    assert math.isfinite(task["slowest"]["ms"])


USAGE = {
    "no such preset": (["visionr2"], "preset = 'visionr2'"),
    "no such file": (["nowhere.py:f"], "nowhere.py: no such file"),
    "no such module": (["no_such_package:f"], "cannot be imported"),
    "no such function": ([f"{BAD}:moon"], "has no function 'moon'"),
    "a signature nobody knows": ([f"{BAD}:wants_a_moon"], "unknown signature; needs compute_score"),
    "a column nobody has": ([f"{BAD}:wants_a_column"], "needs moon; the audit can give data_source"),
    "no such task": (["visionr1", "--task", "cooking"], "task = 'cooking'"),
    "a task it cannot judge": (["visionr1", "--task", "text"], "task = 'text': visionr1 is for detection, grounding"),
    "no such scene": (["visionr1", "--scene", "moon"], "scene = 'moon'"),
    "no such format": (["visionr1", "--format", "xml"], "answer_format = 'xml'"),
    "no such ground truth": (["visionr1", "--ground-truth", "xml"], "ground_truth = 'xml'"),
    "progress in percent": (["visionr1", "--progress", "30"], "progress = 30"),
    "a range of one": (["visionr1", "--range", "1"], "range = '1'"),
    "a range upside down": (["visionr1", "--range", "1,0"], "range = '1,0'"),
    "a range of nothing": (["visionr1", "--range", "1,1"], "range = '1,1'"),
    "a range of nan": (["visionr1", "--range", "nan,1"], "range = 'nan,1'"),
    "no deadline": (["visionr1", "--deadline", "-1"], "--deadline -1"),
    "no time": (["visionr1", "--limit-ms", "0"], "--limit-ms 0"),
    "no time for long texts": (["visionr1", "--long-limit-ms", "nan"], "--long-limit-ms nan"),
}


@pytest.mark.parametrize(("arguments", "message"), USAGE.values(), ids=USAGE)
def test_wrong_usage_is_told_in_one_line(arguments: list[str], message: str) -> None:
    result = run.invoke(app, ["audit", *arguments])
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert isinstance(result.exception, SystemExit)


def test_an_error_is_an_audit_error() -> None:
    with pytest.raises(AuditError, match="signature"):
        audit(Subject(f"{BAD}:wants_a_moon"), isolated=False)
