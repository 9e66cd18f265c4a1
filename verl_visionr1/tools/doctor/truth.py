"""Check the ground truth of each row: boxes, labels, prompt, and token budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from verl_visionr1.conversion.tokens import FAMILIES, boxes_answer_tokens, image_tokens, prompt_tokens, text_tokens
from verl_visionr1.settings import needs_one_of
from verl_visionr1.targets import Target, normalize_label
from verl_visionr1.tools.doctor.problems import Problem, Severity
from verl_visionr1.tools.doctor.samples import MAX_SIDE, Sample

ASKS_FOR_NONE = ("none", "no such", "[]", "there is no", "not in the image", "answer 0", "output 0")
"""Words of a prompt that explain how to answer without objects."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Token limits of a run.

    Attributes:
        response: `data.max_response_length`.
        prompt: `data.max_prompt_length`, image included; None: not checked.
        family: model family whose image tokens are counted.

    Raises:
        ValueError: an unknown family.
    """

    response: int = 1024
    prompt: int | None = None
    family: str = "qwen2.5-vl"

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family {self.family!r}: {needs_one_of(self.family, FAMILIES)}")


def problem_of(sample: Sample, kind: str, reason: str, severity: Severity = Severity.ERROR) -> Problem:
    """Make a problem of one row."""
    return Problem(sample.file, sample.number, reason, kind, severity, sample.unit)


def delegated_note(sample: Sample) -> Problem:
    """Make the note that the ground truth of a row is not checked."""
    reason = f"verl's own reward scores data source {sample.data_source!r} (--delegate)"
    return problem_of(sample, "scored by verl", f"{reason}: its ground truth is not checked", Severity.NOTE)


def truth_problems(sample: Sample, budget: Budget) -> Iterator[Problem]:
    """Yield problems of one row's ground truth."""
    is_ours = sample.target is not None or bool(sample.truth_error)
    yield from _box_problems(sample) if is_ours else _foreign_box_problems(sample)
    if sample.target is not None:
        if max(sample.target.size_wh) >= MAX_SIDE:
            yield problem_of(
                sample, "another size", "size_wh is not a valid image size; correct it, or convert it again"
            )
        yield from _empty_problems(sample, sample.target)
        yield from _label_problems(sample, sample.target)
        yield from _budget_problems(sample, sample.target, budget)


def _box_problems(sample: Sample) -> Iterator[Problem]:
    """Yield invalid boxes."""
    for key, boxes in sample.boxes.items():
        seen = set()
        labels = sample.target.labels if sample.target is not None else ()
        is_ignored = key == "ignore_xyxy"
        for i, box in enumerate(boxes):
            where = f"{key}[{i}] = {[*box]}"
            if not all(map(math.isfinite, box)):
                yield problem_of(sample, "box malformed", f"{where}: needs four finite numbers; correct or remove it")
            elif box[0] > box[2] or box[1] > box[3]:
                yield problem_of(sample, "inverted box", f"{where}: x1 > x2 or y1 > y2; is it x, y, width, height?")
            elif box[0] == box[2] or box[1] == box[3]:
                yield problem_of(sample, "zero-area box", f"{where}: has no area; drop it")
            elif sample.size_wh is not None and _is_outside(box, sample.size_wh):
                reason = f"{where}: extends outside the image of {sample.size_wh}"
                yield problem_of(sample, "box outside its image", f"{reason}; clip the box or correct the coordinates")
            key_of_box = (box, labels[i] if i < len(labels) else "")
            if key_of_box in seen and not is_ignored:
                reason = f"{where}: is listed twice, so that one always counts as missed; drop one"
                yield problem_of(sample, "duplicate box", reason, Severity.WARNING)
            seen.add(key_of_box)


def _foreign_box_problems(sample: Sample) -> Iterator[Problem]:
    """Yield impossible numbers; `conventions` guesses the meaning of the others."""
    for key, boxes in sample.boxes.items():
        for box in boxes:
            if not all(abs(value) < MAX_SIDE for value in box):
                reason = f"{key} = {[*box]}: four numbers that are not coordinates; correct or remove it"
                yield problem_of(sample, "box malformed", reason, Severity.WARNING)


def _is_outside(box: tuple[float, ...], size_wh: tuple[int, int]) -> bool:
    return min(box[0], box[1]) < -1 or box[2] > size_wh[0] + 1 or box[3] > size_wh[1] + 1


def _empty_problems(sample: Sample, target: Target) -> Iterator[Problem]:
    if target.task == "text" or target.n_objects or target.count:
        return
    prompt = (sample.prompt or "").lower()
    if not any(words in prompt for words in ASKS_FOR_NONE):
        end = (sample.prompt or "")[-80:]
        reason = f"the ground truth is empty, but the prompt does not say how to answer that: {end!r}"
        advice = "convert again with --negatives (the prompts then explain it), or drop the row"
        yield problem_of(sample, "empty truth", f"{reason}; {advice}", Severity.WARNING)


def _label_problems(sample: Sample, target: Target) -> Iterator[Problem]:
    """Yield labels that are not in the prompt: a model cannot know them, and loses reward if labels are compared."""
    prompt = normalize_label(sample.prompt or "")
    if target.task in ("counting", "text") or not prompt:
        return
    for label in dict.fromkeys(target.labels):
        if normalize_label(label) not in prompt:
            reason = f"label {label!r} is not in the prompt {(sample.prompt or '')[:80]!r}"
            advice = "name it in the prompt, or rename the label"
            yield problem_of(sample, "label not in the prompt", f"{reason}; {advice}", Severity.WARNING)


def _budget_problems(sample: Sample, target: Target, budget: Budget) -> Iterator[Problem]:
    if target.answer is not None or target.task == "counting":
        needed = text_tokens(target.answer if target.answer is not None else str(target.count))
    else:
        needed = boxes_answer_tokens(target.boxes_xyxy or [(*xy, *xy) for xy in target.points_xy], target.labels)
    if needed > budget.response:
        reason = f"the right answer takes about {needed} tokens ({target.n_objects} objects), the response allows"
        advice = "raise data.max_response_length, or convert with a lower --max-instances"
        yield problem_of(sample, "answer too long", f"{reason} {budget.response}; {advice}", Severity.WARNING)
    if budget.prompt is not None and sample.size_wh is not None:
        image = image_tokens(sample.size_wh, budget.family) * len(sample.images)
        n_tokens = prompt_tokens(sample.prompt or "") + image
        if n_tokens > budget.prompt:
            reason = (
                f"the prompt takes about {n_tokens} tokens ({image} of {budget.family} for the image), the run allows"
            )
            advice = "raise data.max_prompt_length, or lower max_pixels in data.mm_processor_kwargs"
            yield problem_of(sample, "prompt too long", f"{reason} {budget.prompt}; {advice}")
