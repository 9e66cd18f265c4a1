"""The shown rollouts, each examined as by `visionr1 explain`, as records for the page."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import get_args

from verl_visionr1.criteria import Thresholds
from verl_visionr1.rewards import Preset
from verl_visionr1.rewards.completion import apply_criteria
from verl_visionr1.rollouts.judged import Numbering
from verl_visionr1.rollouts.judging import EQUAL, Judging, Moment
from verl_visionr1.rollouts.records import Rollout
from verl_visionr1.schedule import progress_at
from verl_visionr1.targets import Target
from verl_visionr1.tools.explain.diagnosis import Exam, about, cause_of, findings_of
from verl_visionr1.tools.explain.diagnosis.base import labelled_objects
from verl_visionr1.tools.explain.diagnosis.verdicts import Kind, Verdict, verdicts_of
from verl_visionr1.tools.gallery.census import Census, Group
from verl_visionr1.tools.gallery.payload import (
    GroupRow,
    JudgedBy,
    Place,
    Prediction,
    Prompt,
    Sample,
    ThresholdsRow,
    finite,
)
from verl_visionr1.tools.gallery.pictures import Pictures
from verl_visionr1.tools.gallery.settings import Settings
from verl_visionr1.tools.gallery.texts import NOWHERE, Shown, Span, in_utf16, plain_prompt, question_of, spans_of

KINDS = get_args(Kind)
MAX_PREDICTIONS = 300
"""Most drawn predictions of a rollout, as in `visionr1 explain --draw`."""
MAX_DIAGNOSED = 50_000
"""Longer texts are not diagnosed: it would take seconds."""


@dataclass(slots=True)
class _Open:
    """A group that is being read."""

    group: Group
    prompt: int
    thresholds: int
    progress: float | None
    samples: list[Sample] = field(default_factory=list)
    n_seen: int = 0


class Entries:
    """Collects the rollouts of the shown groups, one by one."""

    def __init__(self, settings: Settings, census: Census, keys: Collection[Hashable], pictures: Pictures) -> None:
        self.settings = settings
        self.pictures = pictures
        self.files, self.sources, self.causes = Numbering(), Numbering(), Numbering()
        self.thresholds = Numbering()
        self.presets: list[Preset] = []
        self.prompts: list[Prompt] = []
        self._prompt_numbers: dict[Hashable, int] = {}
        self._open: dict[Hashable, _Open | None] = dict.fromkeys(keys)
        self._census = census

    def add(self, dump: int, rollout: Rollout, judging: Judging) -> None:
        """Add a rollout; those of other groups, and those that cannot be scored, are ignored."""
        key = (dump, rollout.group)
        if key not in self._open:
            return
        preset = judging.preset_for(rollout)
        try:
            thresholds = judging.thresholds(rollout, preset)
            response = judging.response(rollout)
            exam = Exam.of(rollout.completion, rollout.target, preset, thresholds, response, rollout.is_clipped)
            score = apply_criteria(exam.case, preset)
        except ValueError:  # counted by the census
            return
        opened = self._open[key]
        if opened is None:
            group = self._census.group(key)
            prompt = self._prompt(rollout, preset)
            opened = self._open[key] = _Open(
                group, prompt, self.thresholds[thresholds], _progress(judging.moment, group.step)
            )
        place = opened.n_seen
        opened.n_seen += 1
        if len(opened.samples) < self.settings.limit and place < len(opened.group.numbers.values):
            opened.samples.append(self._sample(rollout, exam, score.metrics, opened, place))

    def _prompt(self, rollout: Rollout, preset: Preset) -> int:
        target = rollout.target
        key = (target.to_json(), rollout.prompt, rollout.source, rollout.image, rollout.index)
        number = self._prompt_numbers.get(key)
        if number is None:
            number = self._prompt_numbers[key] = len(self.prompts)
            prompt = Prompt(
                question=question_of(rollout.prompt),
                text=plain_prompt(rollout.prompt),
                task=target.task,
                source=self.sources[rollout.source],
                preset=self._preset_number(preset),
                size_wh=(target.size_wh[0], target.size_wh[1]),
                objects=_objects(target),
                ignored=[[finite(number, 1) for number in box] for box in target.ignore_xyxy],
                truth=_truth(target),
                picture=self.pictures.number_of(rollout),
            )
            self.prompts.append(prompt)
        return number

    def _preset_number(self, preset: Preset) -> int:
        for number, known in enumerate(self.presets):
            if known is preset:
                return number
        self.presets.append(preset)
        return len(self.presets) - 1

    def _sample(self, rollout: Rollout, exam: Exam, metrics: dict[str, float], opened: _Open, place: int) -> Sample:
        numbers = opened.group.numbers
        verdicts, fates = verdicts_of(exam)
        shown = Shown.of(rollout.completion)
        spans = in_utf16(
            shown.text, [shown.place(span) for span in spans_of(exam, rollout.completion)[:MAX_PREDICTIONS]]
        )
        cause, why = self._cause(exam)
        value, saved = numbers.values[place], numbers.saved[place]
        return Sample(
            file=self.files[rollout.file],
            line=rollout.number,
            text=shown.text,
            cut=shown.cut,
            chars=len(rollout.completion),
            tokens=rollout.n_tokens or 0,
            reward=finite(numbers.rewards[place]),
            saved=None if saved is None else finite(saved),
            value=finite(value),
            advantage=finite(numbers.advantages[place]) if numbers.advantages else None,
            metrics=[finite(number) for number in metrics.values()],
            predictions=_predictions(verdicts[:MAX_PREDICTIONS], spans, rollout.target),
            objects=[KINDS.index(fate.counted_as) for fate in fates],
            answer=_answer_text(exam),
            cause=cause,
            why=why,
            quality=finite(numbers.qualities[place]),
            misled=place in numbers.misled,
            differs=saved is not None and abs(saved - value) > EQUAL,
        )

    def _cause(self, exam: Exam) -> tuple[int, str]:
        if not self.settings.has_causes or len(exam.completion) > MAX_DIAGNOSED:
            return -1, ""
        try:
            found = cause_of(exam, findings_of(exam))
        except ValueError:  # a user's criterion that fails on the repaired texts
            return -1, ""
        return self.causes[found.cause], str(found)[:1000]

    def rows(self) -> tuple[list[GroupRow], list[Sample]]:
        """All groups and their samples, in the order of the dumps."""
        rows: list[GroupRow] = []
        samples: list[Sample] = []
        for opened in self._open.values():
            if opened is None or not opened.samples:
                continue
            group, numbers = opened.group, opened.group.numbers
            row = GroupRow(
                prompt=opened.prompt,
                dump=group.dump,
                step=group.step,
                first=len(samples),
                n=len(opened.samples),
                n_all=len(numbers.values),
                mean=finite(numbers.mean),
                std=finite(numbers.std),
                is_flat=numbers.is_flat,
                is_saved=numbers.is_saved,
                against=finite(numbers.against),
                thresholds=opened.thresholds,
                progress=opened.progress,
            )
            rows.append(row)
            samples += opened.samples
        return rows, samples


def _progress(moment: Moment, step: int | None) -> float | None:
    """`--progress` of `visionr1 explain` for the moment; None for a moment given by stage."""
    if moment.total_steps is not None and step is not None:
        return finite(progress_at(step, moment.total_steps))
    return moment.progress


def judged_by(preset: Preset, argument: str) -> JudgedBy:
    """Record of a preset for the page; `argument`: its value of `--preset`."""
    return JudgedBy(
        name=preset.name,
        preset_argument=argument,
        criteria=[criterion.name for criterion in preset.criteria],
        weights=[criterion.weight for criterion in preset.criteria],
        about=[about(criterion.fn) for criterion in preset.criteria],
        divisor=preset.divisor,
        metrics=list(preset.metrics),
        has_thresholds="thresholds" in preset.looks_at,
    )


def thresholds_row(thresholds: Thresholds) -> ThresholdsRow:
    """Record of thresholds for the page."""
    return ThresholdsRow(
        match_iou=thresholds.match_iou,
        recall=(thresholds.recall_floor, thresholds.recall_full),
        iou=(thresholds.iou_floor, thresholds.iou_full),
    )


def _objects(target: Target) -> list[Place]:
    return [Place(label, [finite(number, 1) for number in place]) for place, label in labelled_objects(target)]


def _predictions(verdicts: Sequence[Verdict], spans: Sequence[Span], target: Target) -> list[Prediction]:
    """Records of predictions; places are clipped to just outside the image, since browsers cannot draw 1e300 pixels."""
    limits = [3.0 * side for side in target.size_wh] * 2
    found: list[Prediction] = []
    for i, verdict in enumerate(verdicts):
        start, end = spans[i] if i < len(spans) else NOWHERE
        place = [min(max(finite(n, 1), -limit), limit) for n, limit in zip(verdict.place, limits, strict=False)]
        found.append(
            Prediction(
                kind=KINDS.index(verdict.counted_as),
                label=verdict.label[:200],
                place=place,
                target=-1 if verdict.target is None else verdict.target,
                overlap=None if verdict.overlap is None else finite(verdict.overlap),
                repeats=-1 if verdict.repeats is None else verdict.repeats,
                start=start,
                end=end,
            )
        )
    return found


def _truth(target: Target) -> str:
    """The right answer, unless it is only boxes or points."""
    if target.count is not None:
        return str(target.count)
    return (target.answer or "")[:2000]


def _answer_text(exam: Exam) -> str:
    if exam.target.task == "counting":
        return f"{exam.answer.stated_count:g}" if exam.answer.is_parsed else ""
    return exam.answer.text[:500] if exam.target.task == "text" else ""
