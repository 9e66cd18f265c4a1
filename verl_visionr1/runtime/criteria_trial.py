"""Try a run's own criteria on a few of its rows: one that fails there would cost every row its reward."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig

from verl_visionr1.answers import PARSERS
from verl_visionr1.answers.writers import FORMS, SIDE, WRITERS, Language, Writer
from verl_visionr1.conversion.tokens import right_items
from verl_visionr1.frames import FRAMES, Extent
from verl_visionr1.plugin.config import valid_settings
from verl_visionr1.plugin.data_files import DATA_KEYS, readable_files, reward_rows
from verl_visionr1.rewards import Preset, ResponseContext
from verl_visionr1.rewards.base import CriterionError
from verl_visionr1.rewards.completion import read_completion
from verl_visionr1.rows import target_of
from verl_visionr1.targets import Target


def criteria_problems(config: DictConfig, *, checks_range: bool) -> list[str]:
    """Criteria of the user that raise, or return no finite number, for a right answer or an empty one.

    Args:
        checks_range: also values outside [0, 1].
    """
    settings = valid_settings(config)
    if settings is None or not any(each.is_custom for preset in settings.routing.presets for each in preset.criteria):
        return []
    problems: dict[str, str] = {}  # the first of each criterion
    for key in DATA_KEYS:
        for file in readable_files(config, key):
            for number, row in reward_rows(file, settings).samples:
                target = target_of(row)
                preset = settings.routing.preset_for(target, str(row.get("data_source", "")), row)
                for name, problem in _try(preset, target, checks_range=checks_range):
                    problems.setdefault(name, f"{key}: {file}: row {number}, {problem}")
    return list(problems.values())


def _try(preset: Preset, target: Target, *, checks_range: bool) -> Iterator[tuple[str, str]]:
    """Yield (criterion, problem) of the user's criteria for a right and an empty answer."""
    writer = WRITERS.get(preset.answer_format)
    frame = FRAMES[writer.frame if writer else "original"]
    response = ResponseContext(frame, target.size_wh, max_tokens=2048)
    texts = {"right answer": _right_answer(target, preset, writer)} if writer else {}
    for kind, text in {**texts, "empty answer": ""}.items():
        for criterion in [each for each in preset.criteria if each.is_custom]:
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
    whole_wh = (SIDE, SIDE) if FRAMES[writer.frame].extent is Extent.FIXED else target.size_wh
    items, parse = right_items(target, writer.kind, whole_wh), PARSERS[preset.answer_format]
    texts = [Language(writer, form).answer(items) for form in FORMS]
    return next((text for text in texts if not parse(text).defects), texts[0])
