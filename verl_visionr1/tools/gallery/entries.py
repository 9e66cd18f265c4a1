"""The shown rollouts, each examined as by `visionr1 explain`, as rows of the page's payload.

Numbers named `kind`, `source`, `preset` and so on are indices of the payload's lists of that name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Hashable
from typing import Any, get_args

from verl_visionr1.rewards import Preset
from verl_visionr1.rewards.completion import apply_criteria
from verl_visionr1.rollouts.judged import Numbering
from verl_visionr1.rollouts.judging import EQUAL, Judging, Moment
from verl_visionr1.rollouts.records import Rollout
from verl_visionr1.schedule import progress_at
from verl_visionr1.targets import Target
from verl_visionr1.tools.explain.causes import exam_of, first_cause
from verl_visionr1.tools.explain.diagnosis import Exam, about
from verl_visionr1.tools.explain.diagnosis.base import labelled_objects
from verl_visionr1.tools.explain.diagnosis.verdicts import Kind, Verdict, verdicts_of
from verl_visionr1.tools.gallery.census import Census, GroupNumbers, Settings
from verl_visionr1.tools.gallery.pictures import Pictures
from verl_visionr1.tools.gallery.texts import plain_prompt, question_of, shortened

Row = dict[str, Any]
KINDS = get_args(Kind)
MAX_PREDICTIONS = 300
"""Most drawn predictions of a rollout, as in `visionr1 explain --draw`."""


class Entries:
    """Collects the rollouts of the shown groups, one by one."""

    def __init__(self, settings: Settings, census: Census, keys: Collection[Hashable], pictures: Pictures) -> None:
        self._settings, self._census, self._pictures = settings, census, pictures
        self._files, self._sources, self._causes, self._thresholds = (Numbering() for _ in range(4))
        self._presets: dict[int, tuple[int, Preset]] = {}
        self._prompts: list[Row] = []
        self._prompt_numbers: dict[Hashable, int] = {}
        self._groups: dict[Hashable, tuple[GroupNumbers, Row, list[Row]] | None] = dict.fromkeys(keys)

    def add(self, dump: int, rollout: Rollout, judging: Judging) -> None:
        """Add a rollout; those of other groups, and those that cannot be scored, are ignored."""
        key = (dump, rollout.group)
        if key not in self._groups:
            return
        preset = judging.preset_for(rollout)
        try:
            exam = exam_of(rollout, judging)
            metrics = apply_criteria(exam.case, preset).metrics
        except ValueError:  # counted by the census
            return
        opened = self._groups[key]
        if opened is None:
            numbers = self._census.group(key)
            opened = self._groups[key] = (numbers, self._group(dump, rollout, judging, numbers), [])
        numbers, _, samples = opened
        if len(samples) < min(self._settings.limit, len(numbers.values)):
            samples.append(self._sample(rollout, exam, metrics, numbers, len(samples)))

    def rows(self) -> Row:
        """The lists of the payload; groups and samples in the order of the dumps."""
        opened = [it for it in self._groups.values() if it is not None]
        groups: list[Row] = []
        samples: list[Row] = []
        for _, row, own in opened:
            groups.append({**row, "first": len(samples), "n": len(own)})
            samples += own
        return {
            "files": list(self._files),
            "sources": list(self._sources),
            "causes": list(self._causes),
            "presets": [_preset(it) for _, it in self._presets.values()],
            "thresholds": [dataclasses.asdict(it) for it in self._thresholds],
            "prompts": self._prompts,
            "groups": groups,
            "samples": samples,
        }

    def _group(self, dump: int, rollout: Rollout, judging: Judging, numbers: GroupNumbers) -> Row:
        """The rollouts of a prompt at a step: `n` shown samples from `first` on, of `n_all`."""
        preset = judging.preset_for(rollout)
        return {
            "prompt": self._prompt(rollout, preset),
            "dump": dump,
            "step": rollout.step,
            "n_all": len(numbers.values),
            "mean": finite(numbers.mean),
            "std": finite(numbers.std),
            "is_flat": numbers.is_flat,
            "is_saved": numbers.is_saved,
            "against": finite(numbers.against),
            "thresholds": self._thresholds[judging.thresholds(rollout, preset)],
            "progress": _progress(judging.moment, rollout.step),
        }

    def _prompt(self, rollout: Rollout, preset: Preset) -> int:
        """Number of the question, image and right answer; `picture` -1: none."""
        target = rollout.target
        key = (target.to_json(), rollout.prompt, rollout.source, rollout.image, rollout.index)
        if key not in self._prompt_numbers:
            self._prompt_numbers[key] = len(self._prompts)
            prompt = {
                "question": question_of(rollout.prompt),
                "text": plain_prompt(rollout.prompt),
                "task": target.task,
                "source": self._sources[rollout.source],
                "preset": self._presets.setdefault(id(preset), (len(self._presets), preset))[0],
                "size_wh": list(target.size_wh),
                "objects": [(label, [finite(n, 1) for n in place]) for place, label in labelled_objects(target)],
                "ignored": [[finite(number, 1) for number in box] for box in target.ignore_xyxy],
                "truth": str(target.count) if target.count is not None else (target.answer or "")[:2000],
                "picture": self._pictures.number_of(rollout),
            }
            self._prompts.append(prompt)
        return self._prompt_numbers[key]

    def _sample(
        self, rollout: Rollout, exam: Exam, metrics: dict[str, float], numbers: GroupNumbers, place: int
    ) -> Row:
        """One rollout.

        `reward` is the one used for advantages, `saved` the run's, `value` the recomputed one. `cause`, `why`: kind
        (-1: not computed) and text of the first line of `visionr1 explain`.
        """
        verdicts, fates = verdicts_of(exam)
        cause, why = self._cause(exam)
        value, saved = numbers.values[place], numbers.saved[place]
        return {
            "file": self._files[rollout.file],
            "line": rollout.number,
            "text": shortened(rollout.completion),
            "chars": len(rollout.completion),
            "tokens": rollout.n_tokens or 0,
            "reward": finite(numbers.rewards[place]),
            "saved": None if saved is None else finite(saved),
            "value": finite(value),
            "advantage": finite(numbers.advantages[place]) if numbers.advantages else None,
            "metrics": [finite(number) for number in metrics.values()],
            "predictions": [_prediction(it, rollout.target) for it in verdicts[:MAX_PREDICTIONS]],
            "objects": [KINDS.index(fate.counted_as) for fate in fates],
            "answer": _answer_text(exam),
            "cause": cause,
            "why": why,
            "quality": finite(numbers.qualities[place]),
            "misled": place in numbers.misled,
            "differs": saved is not None and abs(saved - value) > EQUAL,
        }

    def _cause(self, exam: Exam) -> tuple[int, str]:
        found = first_cause(exam) if self._settings.has_causes else None
        if found is None:
            return -1, ""
        return self._causes[found.cause], str(found)[:1000]


def _progress(moment: Moment, step: int | None) -> float | None:
    """`--progress` of `visionr1 explain` for the moment; None for a moment given by stage."""
    if moment.total_steps is not None and step is not None:
        return finite(progress_at(step, moment.total_steps))
    return moment.progress


def _preset(preset: Preset) -> Row:
    return {
        "name": preset.name,
        "criteria": [criterion.name for criterion in preset.criteria],
        "weights": [criterion.weight for criterion in preset.criteria],
        "about": [about(criterion.fn) for criterion in preset.criteria],
        "divisor": preset.divisor,
        "metrics": list(preset.metrics),
        "has_thresholds": "thresholds" in preset.looks_at,
    }


def _prediction(it: Verdict, target: Target) -> tuple[Any, ...]:
    """Kind, label, place, object, overlap and repeated prediction (-1: none).

    Places are clipped to just outside the image, since browsers cannot draw 1e300 pixels.
    """
    limits = [3.0 * side for side in target.size_wh] * 2
    place = [min(max(finite(n, 1), -limit), limit) for n, limit in zip(it.place, limits, strict=False)]
    compared = -1 if it.target is None else it.target
    overlap = None if it.overlap is None else finite(it.overlap)
    repeats = -1 if it.repeats is None else it.repeats
    return KINDS.index(it.counted_as), it.label[:200], place, compared, overlap, repeats


def _answer_text(exam: Exam) -> str:
    if exam.target.task == "counting":
        return f"{exam.answer.stated_count:g}" if exam.answer.is_parsed else ""
    return exam.answer.text[:500] if exam.target.task == "text" else ""


def finite(value: float, digits: int = 5) -> float:
    """A rounded, JSON-able number.

    >>> finite(0.12345678), finite(float("nan")), finite(float("-inf"))
    (0.12346, 0.0, -1000000000.0)
    """
    return 0.0 if math.isnan(value) else round(min(max(value, -1e9), 1e9), digits)
