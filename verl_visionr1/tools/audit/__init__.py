"""Can a reward be gamed? An adversarial battery for presets, YAML files and other people's callables.

The battery writes answers of known quality about synthetic scenes, calls the reward, and compares.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from verl_visionr1.answers.writers import FORMS, WRITERS, Form, Language
from verl_visionr1.conversion.tokens import usual_format
from verl_visionr1.rewards import PRESETS
from verl_visionr1.settings import needs_one_of
from verl_visionr1.targets import TASKS
from verl_visionr1.tools.audit.battery import Probe, battery, perfect_probes
from verl_visionr1.tools.audit.callables import GROUND_TRUTHS, AuditError, Subject, load
from verl_visionr1.tools.audit.checks import CHECKS, Finding, Limits, Run, findings
from verl_visionr1.tools.audit.isolation import Here, Isolated, Outcome, Runner

__all__ = ["CHECKS", "GROUND_TRUTHS", "AuditError", "Finding", "Limits", "Report", "Subject", "TaskReport", "audit"]

SLOW_AGAIN_MS = 500.0
"""A call that took this long is not run again in the opposite order."""
FIRST_CALL_MS = 2000.0
"""A call of up to this long is timed again, since it may have loaded a library."""


@dataclass(frozen=True, slots=True)
class TaskReport:
    """Results of one task's battery.

    Attributes:
        kind: kind of the subject: "preset", "criterion", "verl", "trl", ...
        lowest, highest: the rewards that were given; NaN if there was none.
        slowest: the probe that took longest, and its milliseconds.
    """

    task: str
    kind: str
    answer_format: str
    form: str
    scenes: tuple[str, ...]
    findings: tuple[Finding, ...]
    n_probes: int
    lowest: float
    highest: float
    slowest: tuple[str, float]


@dataclass(frozen=True, slots=True)
class Report:
    """Results of an audit: the checks that failed in some task, and the results by task."""

    subject: str
    failed: tuple[str, ...]
    tasks: tuple[TaskReport, ...]


def audit(
    subject: Subject,
    tasks: Sequence[str] = (),
    *,
    scenes: Sequence[str] = (),
    limits: Limits | None = None,
    deadline_s: float = 5.0,
    isolated: bool | None = None,
    is_quick: bool = False,
) -> Report:
    """Run the battery.

    Args:
        subject: what is audited.
        tasks: names of `targets.TASKS`; empty: those of the preset, or detection for a callable.
        scenes: names of the scenes to keep; empty: all.
        limits: time and range; the range of a preset that is a mean is [0, 1] by default.
        deadline_s: a call that takes longer counts as hanging (if isolated).
        isolated: run it in a separate process; None: for everything but this package's presets.
        is_quick: leave out the long probes (10,000 boxes, a megabyte of text, towers of powers).

    Raises:
        AuditError, RewardError, FunctionError: the subject cannot be loaded, or a task or scene does not exist.
    """
    _require_known("task", tasks, TASKS)
    if isolated is None:
        isolated = subject.place not in PRESETS
    runner = Isolated(subject, deadline_s) if isolated else Here(load(subject))
    with contextlib.closing(runner):
        facts, limits = runner.facts, limits or Limits()
        if facts.tasks:
            _require_known(f"{subject.place}: task", tasks, facts.tasks)
        if facts.is_mean and limits.bounds is None:
            limits = replace(limits, bounds=(0.0, 1.0), full=1.0)
        tasks = tasks or facts.tasks or ("detection",)
        reports = tuple(_audit_task(runner, subject, task, scenes, limits, is_quick) for task in tasks)
    failed = {finding.check for task in reports for finding in task.findings if finding.verdict == "fail"}
    return Report(subject.place, tuple(check for check in CHECKS if check in failed), reports)


def _require_known(what: str, names: Sequence[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise AuditError(f"{what} = {name!r}: {needs_one_of(name, known)}")


def _audit_task(
    runner: Runner, subject: Subject, task: str, scenes: Sequence[str], limits: Limits, is_quick: bool
) -> TaskReport:
    answer_format = subject.answer_format or runner.facts.answer_format or usual_format(task)
    language = Language(WRITERS[answer_format], FORMS[0])
    known = dict.fromkeys(probe.scene for probe in perfect_probes(task, language))
    _require_known("scene", scenes, known)
    kept = set(scenes or known)
    form = _best_form(runner, task, language, kept)
    runs = _run_all(runner, battery(task, replace(language, form=form), scenes=kept, is_quick=is_quick), limits)
    values = [run.value for run in runs if run.value is not None]
    slowest = max(runs, key=lambda run: run.outcome.ms)
    return TaskReport(
        task=task,
        kind=runner.facts.kind,
        answer_format=answer_format,
        form=form.name,
        scenes=tuple(dict.fromkeys(run.probe.scene for run in runs)),
        findings=tuple(findings(task, runs, limits)),
        n_probes=len(runs),
        lowest=min(values, default=float("nan")),
        highest=max(values, default=float("nan")),
        slowest=(slowest.where, slowest.outcome.ms),
    )


def _best_form(runner: Runner, task: str, language: Language, scenes: set[str]) -> Form:
    """The form in which perfect answers earn most; the first of `FORMS` among equals."""
    best, most = FORMS[0], float("-inf")
    for form in FORMS:
        total = 0.0
        for probe in perfect_probes(task, replace(language, form=form)):
            outcome = runner(probe.completion, probe.target) if probe.scene in scenes else None
            if outcome is not None and outcome.is_lost:
                return best
            total += (outcome and outcome.value) or 0.0
        if total > most + 1e-9:
            best, most = form, total
    return best


def _run_all(runner: Runner, probes: list[Probe], limits: Limits) -> list[Run]:
    """Run every probe, and most of them again in the opposite order."""
    first = {probe: _timed(runner, probe, limits.of(probe)) for probe in probes}
    again: dict[Probe, Outcome] = {}
    for probe, outcome in reversed(first.items()):
        if outcome.is_made and not (outcome.is_lost or probe.is_long or probe.is_endless or outcome.ms > SLOW_AGAIN_MS):
            second = runner(probe.completion, probe.target)
            if second.is_made:
                again[probe] = second
    return [Run(probe, outcome, again.get(probe)) for probe, outcome in first.items() if outcome.is_made]


def _timed(runner: Runner, probe: Probe, limit_ms: float) -> Outcome:
    """Run one call; if it took too long, repeat it and keep the least time."""
    outcome = runner(probe.completion, probe.target)
    for n_repeats in range(4):
        patience_ms = 20 * limit_ms if n_repeats else max(20 * limit_ms, FIRST_CALL_MS)
        if outcome.ms <= limit_ms or outcome.error or outcome.ms > patience_ms:
            break
        outcome = replace(outcome, ms=min(outcome.ms, runner(probe.completion, probe.target).ms))
    return outcome
