"""Try a run's own criteria on a few of its rows: one that fails there would cost every row its reward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from omegaconf import DictConfig

from verl_visionr1.answers import PARSERS
from verl_visionr1.frames import FRAMES, Extent
from verl_visionr1.plugin.config import Settings, valid_settings
from verl_visionr1.plugin.data_files import DATA_KEYS, readable_files
from verl_visionr1.rewards import Preset, ResponseContext, RewardError
from verl_visionr1.rewards.base import Criterion, CriterionError
from verl_visionr1.rewards.completion import read_completion
from verl_visionr1.rewards.routing import is_delegated
from verl_visionr1.rows import RowsError, read_rows, target_of
from verl_visionr1.targets import Target, TargetError
from verl_visionr1.tools.audit.writers import FORMS, SIDE, WRITERS, Item, Language, Writer
from verl_visionr1.tools.explain.diagnosis.base import object_boxes, object_points

N_READ = 1024
"""Rows of each file that the tried ones are taken from."""
N_TRIED = 2
"""Tried rows of each kind: preset, task, with or without objects."""


def criteria_problems(config: DictConfig, *, checks_range: bool) -> list[str]:
    """Criteria of the user that raise, or return no finite number, for a right answer or an empty one.

    Args:
        checks_range: also values outside [0, 1].
    """
    settings = valid_settings(config)
    if settings is None or not any(map(_own_criteria, settings.routing.presets)):
        return []
    problems: dict[str, str] = {}  # the first of each criterion
    for key in DATA_KEYS:
        for file in readable_files(config, key):
            for number, target, preset in _tried_rows(file, settings):
                for name, problem in _try(preset, target, checks_range=checks_range):
                    problems.setdefault(name, f"{key}: {file}: row {number}, {problem}")
    return list(problems.values())


def _own_criteria(preset: Preset) -> list[Criterion]:
    return [criterion for criterion in preset.criteria if criterion.is_custom]


def _tried_rows(file: Path, settings: Settings) -> Iterator[tuple[int, Target, Preset]]:
    """The first rows of each kind that criteria of the user score."""
    routes, n_tried = settings.routing, dict[tuple[object, ...], int]()
    columns = ["reward_model", *(["data_source"] if routes.by_source or settings.delegate else []), *routes.column[:1]]
    try:
        for number, row in enumerate(islice(read_rows(file, columns=columns), N_READ)):
            source = str(row.get("data_source", ""))
            if is_delegated(settings.delegate, source):
                continue
            target = target_of(row)
            preset = routes.preset_for(target, source, row)
            kind = preset.name, target.task, bool(target.n_objects)
            n_tried[kind] = n_tried.get(kind, 0) + 1
            if n_tried[kind] <= N_TRIED and _own_criteria(preset):
                yield number, target, preset
    except (RowsError, TargetError, RewardError):
        return  # the preflight reports it


def _try(preset: Preset, target: Target, *, checks_range: bool) -> Iterator[tuple[str, str]]:
    """Yield (criterion, problem) of the user's criteria for a right and an empty answer."""
    writer = WRITERS.get(preset.answer_format)
    frame = FRAMES[writer.frame if writer else "original"]
    response = ResponseContext(frame, target.size_wh, max_tokens=2048)
    texts = {"right answer": _right_answer(target, preset, writer)} if writer else {}
    for kind, text in {**texts, "empty answer": ""}.items():
        for criterion in _own_criteria(preset):
            try:
                case = read_completion(text, target, preset, preset.schedule(0.0), response)
                value = criterion.call(case)
                problem = criterion.range_problem(value) if checks_range else ""
            except CriterionError as error:
                problem = f"{error}; such a row has reward 0"
            if problem:
                yield criterion.name, f"{kind}: {problem}; correct the function"


def _right_answer(target: Target, preset: Preset, writer: Writer) -> str:
    """The right answer in the preset's answer format, in the first form that it reads without defects."""
    items, parse = _items(target, writer), PARSERS[preset.answer_format]
    texts = [Language(writer, form).answer(items) for form in FORMS]
    return next((text for text in texts if not parse(text).defects), texts[0])


def _items(target: Target, writer: Writer) -> tuple[Item, ...]:
    """The objects of a target as the writer takes them: in its own frame, or on a scene of `SIDE` pixels."""
    if writer.kind in ("words", "count"):
        n_items = 1 if writer.kind == "words" else int(target.count or 0)
        return (((), target.answer or ""),) * n_items
    places: Sequence[Sequence[float]] = object_points(target) if writer.kind == "points" else object_boxes(target)
    labels = target.labels or ("",) * len(places)
    scale_xy = (1.0, 1.0)
    if FRAMES[writer.frame].extent is Extent.FIXED:
        scale_xy = SIDE / target.size_wh[0], SIDE / target.size_wh[1]
    scaled = [tuple([x * scale_xy[axis % 2] for axis, x in enumerate(place)]) for place in places]
    return tuple(zip(scaled, labels, strict=False))
