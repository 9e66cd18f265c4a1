"""Wrap any reward as a function (completion, target) -> float: presets, criteria, callables of verl and TRL."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias, cast

from verl_visionr1.answers.qwen import write_json
from verl_visionr1.answers.writers import WRITERS
from verl_visionr1.conversion.tokens import usual_format
from verl_visionr1.frames import frame_named
from verl_visionr1.functions import load_function
from verl_visionr1.rewards import Criterion, Preset, ResponseContext, evaluate_completion, find_preset
from verl_visionr1.rewards.base import CriterionInput, require_one_of
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.schedule import follow_model
from verl_visionr1.settings import needs_one_of
from verl_visionr1.targets import Target

Reward: TypeAlias = Callable[[str, Target], float]
"""The function that the audit calls: completion, ground truth -> reward."""
BATCHES = ("completions", "solution_strs", "reward_inputs")
ANSWERS = ("ground_truth", "gt", "solution", "answer", "reference", "label", "labels", "gold")
SIGNATURES = (
    "compute_score(data_source, solution_str, ground_truth, extra_info=None) (verl), "
    "f(completions, **columns) (TRL), f(completion, target), f(text, ground_truth), "
    f"or a criterion of {', '.join(CriterionInput.__struct_fields__)}"
)


class AuditError(ValueError):
    """The subject cannot be audited this way; one line with the reason and what to do."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of an audit as plain data, so that another process can load it.

    Attributes:
        place: a preset's name, a YAML file, `package.module:function` or `path/to/file.py:function`.
        answer_format: key in `WRITERS` that completions are written in, and that a preset then reads; None: the
            preset's own, or the task's default.
        progress: fraction of training at which a preset scores; None: no schedule.
        ground_truth: ground truth for other people's callables: a key of `GROUND_TRUTHS`.
        data_source: `data_source` for verl's callables.
        is_chat: whether TRL's callables receive messages instead of texts.
    """

    place: str
    answer_format: str | None = None
    progress: float | None = None
    ground_truth: str = "target-json"
    data_source: str = "visionr1/audit"
    is_chat: bool = False

    def __post_init__(self) -> None:
        require_one_of("ground_truth", self.ground_truth, GROUND_TRUTHS)
        if self.answer_format is not None:
            require_one_of("answer_format", self.answer_format, WRITERS)

    @property
    def is_callable(self) -> bool:
        """Whether it is a function rather than a preset."""
        return ":" in self.place and not self.place.endswith((".yaml", ".yml"))


class Facts(NamedTuple):
    """A loaded subject as plain data: what kind of function, a preset's tasks and format, whether it is in [0, 1]."""

    kind: str
    tasks: tuple[str, ...] = ()
    answer_format: str | None = None
    is_mean: bool = False


class Loaded(NamedTuple):
    """A callable subject."""

    reward: Reward
    facts: Facts


def load(subject: Subject) -> Loaded:
    """Make a subject callable."""
    if not subject.is_callable:
        return _load_preset(find_preset(subject.place), subject)
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)  # console scripts do not search it
    function = load_function(subject.place)
    return _load_preset(function, subject) if isinstance(function, Preset) else _load_function(function, subject)


def _load_preset(preset: Preset, subject: Subject) -> Loaded:
    answer_format = subject.answer_format or preset.answer_format
    if answer_format not in WRITERS:
        reason = f"the audit cannot write it; --format {needs_one_of(answer_format, WRITERS)}"
        raise AuditError(f"answer_format = {answer_format!r}: {reason}")
    preset = replace(preset, answer_format=answer_format)
    facts = Facts("preset", preset.tasks, answer_format, is_mean=not preset.is_sum)
    return Loaded(_evaluate_by(preset, subject, answer_format), facts)


def _evaluate_by(preset: Preset, subject: Subject, answer_format: str) -> Reward:
    response = ResponseContext(frame_named(WRITERS[answer_format].frame), max_tokens=2048)
    thresholds = follow_model(preset.schedule, response.frame.name)(subject.progress)
    return lambda text, target: evaluate_completion(text, target, preset, thresholds, response).value


def _load_function(function: Callable[..., Any], subject: Subject) -> Loaded:
    parameters = inspect.signature(function).parameters
    needed = [p.name for p in parameters.values() if p.default is p.empty and p.kind in _NAMED]
    positional = [p.name for p in parameters.values() if p.kind in _POSITIONAL]
    if set(BATCHES) & set(needed) or "solution_str" in needed:
        kind = "verl" if "solution_str" in needed else "trl" if "completions" in needed else "batch"
        return Loaded(_call_by_column(function, subject, frozenset(parameters)), Facts(kind))
    if needed == ["completion", "target"]:
        return Loaded(lambda text, target: to_number(function(text, target)), Facts("completion, target"))
    if positional and set(positional) <= set(CriterionInput.__struct_fields__):
        return Loaded(_of_criterion(function, subject), Facts("criterion", is_mean=True))
    if len(needed) == 2 and needed[1] in ANSWERS:
        ground_truth = GROUND_TRUTHS[subject.ground_truth]
        kind = Facts("text, ground truth")
        return Loaded(lambda text, target: to_number(function(text, ground_truth(target))), kind)
    raise AuditError(f"{subject.place}({', '.join(parameters)}): unknown signature; needs {SIGNATURES}")


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (*_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)


def _of_criterion(function: Callable[..., Any], subject: Subject) -> Reward:
    """A reward from one criterion, as a preset for each task."""

    def reward(text: str, target: Target) -> float:
        answer_format = subject.answer_format or usual_format(target.task)
        matching = "class_aware" if target.task in BOX_TASKS else "none"
        criteria = (Criterion("criterion", function),)
        preset = Preset(subject.place, criteria, (target.task,), answer_format=answer_format, matching=matching)
        return _evaluate_by(preset, subject, answer_format)(text, target)

    return reward


def _call_by_column(function: Callable[..., Any], subject: Subject, names: frozenset[str]) -> Reward:
    """A reward from a function with columns as keyword arguments, of one row or of a batch."""
    parameters = inspect.signature(function).parameters.values()
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    is_batch = bool(set(BATCHES) & names)
    ground_truth = GROUND_TRUTHS[subject.ground_truth]
    offered = sorted(_columns("", "", _ANY_TARGET, subject, is_batch))
    unknown = [p.name for p in parameters if p.default is p.empty and p.kind in _NAMED and p.name not in offered]
    if unknown:
        raise AuditError(f"{subject.place}: needs {', '.join(unknown)}; the audit can give {', '.join(offered)}")

    def reward(text: str, target: Target) -> float:
        columns = _columns(text, ground_truth(target), target, subject, is_batch)
        given = columns if takes_any else {name: columns[name] for name in columns if name in names}
        return to_number(function(**given))

    return reward


_ANY_TARGET = Target(task="text", answer="?")


def _columns(text: str, ground_truth: str, target: Target, subject: Subject, is_batch: bool) -> dict[str, Any]:
    extra_info = {"index": 0, "split": "audit", "task": target.task, "image_size": list(target.size_wh)}
    if not is_batch:
        return {
            "data_source": subject.data_source,
            "solution_str": text,
            "ground_truth": ground_truth,
            "extra_info": extra_info,
        }
    completion: Any = [{"role": "assistant", "content": text}] if subject.is_chat else text
    prompt: Any = [{"role": "user", "content": "?"}] if subject.is_chat else "?"
    one = {
        **dict.fromkeys(("solution", "ground_truth", "ground_truths", "answer", "target"), ground_truth),
        **{"completions": completion, "solution_strs": text, "prompts": prompt, "completion_ids": list(range(9))},
        **{"task": target.task, "image_size": list(target.size_wh), "extra_infos": extra_info},
        "data_sources": subject.data_source,
        "reward_inputs": {"response": text, "response_length": len(text.split()), "ground_truth": ground_truth},
    }
    return {name: [value] for name, value in one.items()}


def to_number(result: Any) -> float:
    """Read the reward from a result: a number, a dict with "score" or "overall", or a batch of one.

    Raises:
        TypeError: no number in it.

    >>> [to_number(result) for result in (1, {"score": 0.5, "acc": 1.0}, [0.25], [{"overall": 2}])]
    [1.0, 0.5, 0.25, 2.0]
    """
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    if isinstance(result, list | tuple) and len(result) == 1:
        result = result[0]
    if isinstance(result, Mapping):
        result = cast(Mapping[str, Any], result)
        result = result.get("score", result.get("overall"))
    if result is None or isinstance(result, str | bytes | list | tuple | dict):
        raise TypeError(f"returned {result!r:.80}: needs a number, or a dict with 'score'")
    return float(cast(Any, result))


def _plain(target: Target) -> str:
    """The bare answer; lists as JSON."""
    if target.task == "counting":
        return str(target.count)
    if target.task == "text":
        return str(target.answer)
    return write_json(target.points_xy if target.task == "pointing" else target.boxes_xyxy, target.labels)


def _vlmr1(target: Target) -> str:
    """VLM-R1's `solution`: `<answer> ... </answer>`, with a fence for detection, a bare box for one referent."""
    if target.task == "grounding" and len(target.boxes_xyxy) == 1:
        return f"<answer> {json.dumps(list(target.boxes_xyxy[0]))} </answer>"
    if target.task in ("detection", "grounding"):
        return f"<answer> ```json\n{_plain(target)}\n``` </answer>" if target.boxes_xyxy else "<answer> None </answer>"
    return f"<answer> {_plain(target)} </answer>"


GROUND_TRUTHS: Mapping[str, Callable[[Target], str]] = MappingProxyType(
    {"target-json": Target.to_json, "boxes-json": _plain, "vlmr1": _vlmr1}
)
"""Forms of ground truth for a callable: this package's JSON, the plain answer, or VLM-R1's solution."""
