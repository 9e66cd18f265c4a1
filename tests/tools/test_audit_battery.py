"""The battery of the audit: its writers, scenes, probes and relations fit each other."""

from __future__ import annotations

import pytest

from verl_visionr1.answers import FORMATS
from verl_visionr1.boxes import iou
from verl_visionr1.frames import frame_named, points_to_original, to_original
from verl_visionr1.targets import TASKS
from verl_visionr1.tools.audit import CHECKS
from verl_visionr1.tools.audit.battery import battery, perfect_probes
from verl_visionr1.tools.audit.callables import usual_format
from verl_visionr1.tools.audit.checks import list_relations
from verl_visionr1.tools.audit.scenes import JUNK, SIDE, SIZES, list_scenes
from verl_visionr1.tools.audit.writers import FORMS, WRITERS, Language


def language_of(task: str, answer_format: str) -> Language:
    form = FORMS[3] if answer_format == "vlmr1-json" else FORMS[0]
    return Language(WRITERS[answer_format], form)


KINDS = {
    **dict.fromkeys(("detection", "grounding"), ("boxes",)),
    **{"counting": ("boxes", "points", "count"), "pointing": ("points",), "text": ("words",)},
}
WRITTEN = [(task, name) for name in WRITERS for task in TASKS if name in FORMATS and WRITERS[name].kind in KINDS[task]]


@pytest.mark.parametrize(("task", "answer_format"), WRITTEN)
def test_what_is_written_reads_back(task: str, answer_format: str) -> None:
    """On every scene."""
    writer = WRITERS[answer_format]
    frame_wh = frame_named(writer.frame).size_wh((SIDE, SIDE))
    scenes = {scene.name: scene for scene in list_scenes(task, writer.kind)}
    for probe in perfect_probes(task, language_of(task, answer_format)):
        items = scenes[probe.scene].items
        answer = FORMATS[answer_format].parse(probe.completion)
        assert answer.defects == (), (probe.completion, answer)
        if writer.kind == "boxes":
            spoken = to_original(answer.boxes_xyxy, frame_wh, (SIDE, SIDE))
        else:
            spoken = points_to_original(answer.points_xy, frame_wh, (SIDE, SIDE))
        if writer.kind == "count":
            assert answer.count == len(items)
        elif writer.kind == "words":
            assert answer.text == items[0][1]
        else:
            slack = 1.0 if answer_format == "paligemma" else 1e-6  # its last bin ends before the edge
            assert len(spoken) == len(items)
            for place, (xs, _) in zip(spoken, items, strict=True):
                assert place == pytest.approx(xs, abs=slack)
        if writer.kind in ("boxes", "points") and writer.has_labels:
            assert answer.labels == tuple(label for _, label in items)


@pytest.mark.parametrize("task", TASKS)
def test_every_relation_speaks_of_probes_that_exist(task: str) -> None:
    probes = battery(task, Language(WRITERS[usual_format(task)], FORMS[0]))
    together = {(a.name, b.name) for a in probes for b in probes if a.scene == b.scene}
    missing = [r for r in list_relations(task) if (r.better, r.worse) not in together]
    assert not missing
    assert {relation.check for relation in list_relations(task)} <= set(CHECKS)


@pytest.mark.parametrize("task", TASKS)
def test_probes_have_names_of_their_own(task: str) -> None:
    probes = battery(task, Language(WRITERS[usual_format(task)], FORMS[0]))
    assert len({(probe.scene, probe.name) for probe in probes}) == len(probes)
    texts = {probe.completion for probe in probes}
    assert len(texts) > 100
    assert max(map(len, texts)) > 900_000


def test_sizes_are_those_of_the_grid() -> None:
    """Every frame of whole numbers writes them exactly, and none smaller."""
    scenes = {scene.name: scene.target.boxes_xyxy for scene in list_scenes("grounding", "boxes")}
    assert {name: (x2 - x1, y2 - y1) for name in SIZES for x1, y1, x2, y2 in scenes[name]} == {
        "step": (1, 1),
        "thin": (1, 625),
        "tiny": (4, 4),
        "whole": (SIDE, SIDE),
    }


def test_junk_lies_apart_from_every_object() -> None:
    for scene in list_scenes("detection", "boxes"):
        if scene.name == "whole":
            continue
        assert all(iou(junk, box) == 0.0 for junk in JUNK for box in scene.target.boxes_xyxy)
        assert all(0 <= x <= SIDE for junk in JUNK for x in junk)
