"""What a comparison of two validations shows, in one sentence."""

from __future__ import annotations

from typing import Literal

from verl_visionr1.tools.runs.metrics import ACCURACY, F1, REWARD
from verl_visionr1.tools.runs.validations import Change, Section

Outcome = Literal["better", "worse", "no change", "reward up, quality down", "unknown"]


def judge_outcome(section: Section) -> Outcome:
    """What happened to the quality (F1@.5, or the accuracy of tasks without boxes), held against the reward."""
    reward, quality = find_change(section, REWARD.key), find_quality(section)
    if reward is None or quality is None or not quality.mark:
        return "unknown"
    if quality.mark == "worse" and reward.mark == "better":
        return "reward up, quality down"
    return "better" if quality.mark == "better" else "worse" if quality.mark == "worse" else "no change"


def write_verdict(section: Section, *, names_source: bool = False) -> str:
    """The sentence."""
    reward, quality = find_change(section, REWARD.key), find_quality(section)
    where = f" on {section.source}" if names_source else ""
    outcome = judge_outcome(section)
    if quality is None or reward is None:
        return f"Nothing to compare{where}: neither F1@.5 nor accuracy was reported."
    if outcome == "unknown":
        return f"No verdict{where}: without intervals a change cannot be told from noise."
    told, over = format_change(quality), f"over {section.n} prompts"
    if outcome == "reward up, quality down":
        return (
            f"The reward rose while {quality.metric.name} fell{where}: {format_change(reward)}, {told} {over}. "
            "The reward may be gamed; look at the gallery."
        )
    words = {"better": "Held-out answers got better", "worse": "Held-out answers got worse"}
    verdict = f"{words.get(outcome, 'No change can be shown')}{where}: {told} {over}"
    if quality is not reward and reward.mark in ("better", "worse") and reward.mark != outcome:
        return f"{verdict}, while the reward {'rose' if reward.mark == 'better' else 'fell'}: {format_change(reward)}."
    return f"{verdict}."


def find_quality(section: Section) -> Change | None:
    """The change of what the task is measured by; the reward where a dump has nothing else."""
    found = (find_change(section, key) for key in (F1.key, ACCURACY.key, REWARD.key))
    return next((change for change in found if change is not None), None)


def find_change(section: Section, key: str) -> Change | None:
    """The change of one metric."""
    return next((change for change in section.changes if change.metric.key == key), None)


def format_change(change: Change, digits: int = 3) -> str:
    """A difference and its interval.

    >>> from verl_visionr1.tools.runs.validations import Interval
    >>> format_change(Change(F1, 0.4, 0.56, Interval(0.16, 0.12, 0.2), "better"), digits=2)
    'F1@.5 +0.16 [0.12, 0.20]'
    """
    difference = change.difference
    interval = format_interval(difference.low, difference.high, digits)
    return f"{change.metric.name} {difference.value:+.{digits}f}" + (f" {interval}" if interval else "")


def format_interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """The ends of an interval; "" where there is none."""
    return "" if low is None or high is None else f"[{low:.{digits}f}, {high:.{digits}f}]"
