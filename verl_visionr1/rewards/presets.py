"""All presets by name, and functions that find a preset by name or YAML file.

A preset for text needs no template for the reasoning: add `think_answer` or `think_answer_glm` to require one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from verl_visionr1.criteria import CRITERIA, OFF, Thresholds, well_formed
from verl_visionr1.rewards.base import Criterion, Preset, RewardError, require_one_of
from verl_visionr1.rewards.composition import NO_BASE, PresetSettings, read_settings
from verl_visionr1.rewards.released import visionr1, vlmr1_boxes, vlmr1_text
from verl_visionr1.schedule import Schedule, constant


def _criteria(format_weight: float = 1.0, **weighted: tuple[str, float]) -> tuple[Criterion, ...]:
    """The format, then the criteria: name = (function in `CRITERIA`, weight)."""
    named = [Criterion(name, CRITERIA[fn], weight) for name, (fn, weight) in weighted.items()]
    return (Criterion("format", well_formed, format_weight), *named)


def _boxes() -> Iterator[Preset]:
    """Detection and grounding: every object of a category list, or of one phrase, which is a category list of one."""
    three = _criteria(recall=("recall", 1.0), precision=("precision", 1.0))
    size_aware = _criteria(recall=("recall_size_aware", 1.0), precision=("precision_size_aware", 1.0))
    yield Preset("visionr1", three, source="arXiv 2503.18013, repaired")
    yield Preset("visionr1-paper", three, matching="class_agnostic", source="arXiv 2503.18013, Eq. 4-8")
    source = "arXiv 2503.18013, thresholds capped by what rounding can reach"
    yield Preset("visionr1-size-aware", size_aware, source=source)
    # The paper's choice is rewarded, the others are reported.
    reported = {name: (name, 0.0) for name in ("ap", "ap50", "weighted_sum")}
    yield Preset(
        "vlmr1-ovd",
        _criteria(1.0, od_length=("od_length", 1.0), **reported),
        schedule=constant(OFF),
        source="arXiv 2504.07615, Eq. 7-8, repaired",
    )
    yield Preset(
        "v-triune",
        _criteria(0.1, v_triune=("v_triune", 1.0)),
        schedule=Schedule(((0.0, _matched_at(0.85)), (0.10, _matched_at(0.95)), (0.25, _matched_at(0.99)))),
        source="arXiv 2505.18129, dynamic IoU reward, repaired",
    )
    for name, metric, fn, source in (
        ("big-vision", "big_vision", "big_vision", "arXiv 2302.08242, detection reward, repaired"),
        ("vlmr1-rec", "iou", "soft_iou", "arXiv 2504.07615, referring expressions, repaired"),
        ("rec-iou2", "iou2", "iou2_over_max", "arXiv 2504.07954 (Perception-R1), grounding"),
        ("rec-giou", "giou", "soft_giou", "GIoU (Rezatofighi et al. 2019) as in NeMo-RL's bbox_giou, mapped to [0, 1]"),
        ("rec-hit", "hit", "hit_over_max", "accuracy at IoU .5, the measure of RefCOCO"),
    ):
        matching = "giou" if metric == "giou" else "class_aware"
        criteria = _criteria(1.0, **{metric: (fn, 1.0)})
        yield Preset(name, criteria, schedule=constant(OFF), matching=matching, source=source)


def _matched_at(match_iou: float) -> Thresholds:
    return Thresholds(match_iou=match_iou, recall_floor=0.0, recall_full=1.0, iou_floor=match_iou, iou_full=1.0)


def _counting() -> Iterator[Preset]:
    """Counting, as a number or as the length of a list; the format is easy and counts half."""
    exact, near, reported = ("count_exact", 1.0), ("count_fuzzy", 1.0), ("count_exact", 0.0)
    both = _criteria(0.5, exact=exact, near=near)
    fuzzy, mra = (_criteria(0.5, **{name: (f"count_{name}", 1.0)}, exact=reported) for name in ("fuzzy", "mra"))
    for name, criteria, answer_format, source in (
        ("counting", both, "count", "own: exact, and near to it"),
        ("counting-fuzzy", fuzzy, "count", "CrowdVLM-R1's, made continuous"),
        ("counting-mra", mra, "count", "OneThinker: MRA"),
        ("counting-list", both, "qwen-json", "own: the length of a list of boxes"),
    ):
        yield Preset(
            name,
            criteria,
            tasks=("counting",),
            answer_format=answer_format,
            matching="none",
            accuracy="exact",
            source=source,
        )


def _pointing() -> Iterator[Preset]:
    """One point per object, or a click on a screen; the format counts a fifth, as in GUI-R1 and Vero."""
    rex_omni = "Rex-Omni (arXiv 2510.12798): point in {}, made one to one"
    gui_g2 = "GUI-G2 (arXiv 2507.15846): Gaussian point reward, for several objects"
    in_mask = ("point_in_mask", 0.0)
    for name, criteria, accuracy, source in (
        ("pointing", {"in_box": ("point_in_box", 0.8)}, "in_box", rex_omni.format("box")),
        ("point-in-mask", {"in_mask": ("point_in_mask", 0.8)}, "in_mask", rex_omni.format("mask")),
        ("point-distance", {"distance": ("point_distance", 0.8), "in_mask": in_mask}, "in_mask", gui_g2),
        ("gui-click", {"click": ("click", 0.8)}, "click", "ScreenSpot's rule, weights as GUI-R1"),
    ):
        yield Preset(
            name,
            _criteria(0.2, **criteria),
            tasks=("pointing",),
            schedule=constant(OFF),
            answer_format="point" if name == "gui-click" else "qwen-points",
            matching="none",
            accuracy=accuracy,
            source=source,
        )


def _text() -> Iterator[Preset]:
    """Answers in words. The format (closed tags, or no tags) is easy and counts a tenth."""
    for name, fn, source in (
        ("text-exact", "exact", "own: equality of normal forms"),
        ("multiple-choice", "choice", "own: the option that is named"),
        ("yes-no", "yes_no", "own: the word"),
        ("number", "number", "own: relative tolerance, as ChartQA"),
        ("edit-similarity", "edit_similarity", "1 - edit distance, as Perception-R1 (OCR)"),
        ("math", "math", "math-verify, bounded in time"),
    ):
        yield Preset(
            name,
            _criteria(0.1, correct=(fn, 0.9)),
            tasks=("text",),
            answer_format="text",
            matching="none",
            accuracy="correct",
            source=source,
        )


_OWN = (*_boxes(), *_counting(), *_pointing(), *_text())
_RELEASED = (*visionr1.PRESETS, *vlmr1_boxes.PRESETS, *vlmr1_text.PRESETS)
PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in (*_OWN, *_RELEASED)})
"""Every preset by name."""
TASK_PRESETS: Mapping[str, str] = MappingProxyType(
    {
        "detection": "visionr1",
        "grounding": "visionr1",
        "counting": "counting",
        "pointing": "pointing",
        "text": "text-exact",
    }
)
"""Task -> its default preset."""
MAX_BASES = 8
"""Longest chain of YAML files by `base`."""


def find_preset(spec: str, known: Mapping[str, Preset] = PRESETS, *, key: str = "") -> Preset:
    """Find a preset by name, or build it from a YAML file with `PresetSettings`. `key` begins the messages of errors.

    Raises:
        RewardError: no such preset or file, or wrong settings.
    """
    try:
        return _find(spec, known, MAX_BASES, key or "preset")
    except RewardError as error:
        if not key or str(error).startswith(f"{key} = "):
            raise
        raise RewardError(f"{key}: {error}") from None


def _find(spec: str, known: Mapping[str, Preset], bases_left: int, key: str) -> Preset:
    if not isinstance(spec, str) or not spec.endswith((".yaml", ".yml")):  # pyright: ignore[reportUnnecessaryIsInstance]
        require_one_of(key, spec, known)
        return known[spec]
    if not bases_left:
        raise RewardError(f"base = {spec!r}: a chain of more than {MAX_BASES} files; check for circular bases")
    settings = read_settings(spec)
    base = _find(_base_name(settings), known, bases_left - 1, f"{spec}: base")
    try:
        return _build_over(settings, base)
    except ValueError as error:
        raise RewardError(f"{spec}: {error}") from None


def build_preset(settings: PresetSettings, known: Mapping[str, Preset] = PRESETS) -> Preset:
    """Build the preset of the settings on their base (default: "visionr1")."""
    return _build_over(settings, find_preset(_base_name(settings), known, key="base"))


def _base_name(settings: PresetSettings) -> str:
    return "visionr1" if settings.base in (None, NO_BASE) else settings.base


def _build_over(settings: PresetSettings, base: Preset) -> Preset:
    if settings.schedule is not None and settings.schedule.kind == "gated":
        raise RewardError("schedule.kind = 'gated': a gate belongs to the run, not to a preset; set it beside preset")
    return settings.build(base)
