"""The battery of the audit: its writers, scenes, probes and relations fit each other."""

from __future__ import annotations

import pytest

from verl_visionr1.answers import FORMATS
from verl_visionr1.answers.writers import FORMS, WRITERS, Language
from verl_visionr1.boxes import iou
from verl_visionr1.conversion.tokens import usual_format
from verl_visionr1.frames import frame_named, points_to_original, to_original
from verl_visionr1.targets import TASKS
from verl_visionr1.tools.audit import CHECKS
from verl_visionr1.tools.audit.battery import battery, perfect_probes
from verl_visionr1.tools.audit.checks import list_relations
from verl_visionr1.tools.audit.scenes import JUNK, SIDE, list_scenes

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
    items = {scene.name: scene.items for scene in list_scenes(task, writer.kind)}
    language = Language(writer, FORMS[3] if answer_format == "vlmr1-json" else FORMS[0])
    slack = 1.0 if answer_format == "paligemma" else 1e-6  # its last bin ends before the edge
    for probe in perfect_probes(task, language):
        answer = FORMATS[answer_format].parse(probe.completion)
        assert answer.defects == (), (probe.completion, answer)
        if writer.kind == "count":
            assert answer.count == len(items[probe.scene])
        elif writer.kind == "words":
            assert answer.text == items[probe.scene][0][1]
        else:
            boxes = to_original(answer.boxes_xyxy, frame_wh, (SIDE, SIDE))
            read = boxes or points_to_original(answer.points_xy, frame_wh, (SIDE, SIDE))
            assert len(read) == len(items[probe.scene])
            for place, (xs, _) in zip(read, items[probe.scene], strict=True):
                assert place == pytest.approx(xs, abs=slack)
            if writer.has_labels:
                assert answer.labels == tuple(label for _, label in items[probe.scene])


@pytest.mark.parametrize("task", TASKS)
def test_probes_have_names_of_their_own_and_every_relation_speaks_of_them(task: str) -> None:
    probes = battery(task, Language(WRITERS[usual_format(task)], FORMS[0]))
    assert len({(probe.scene, probe.name) for probe in probes}) == len(probes)
    assert len({probe.completion for probe in probes}) > 100
    assert max(len(probe.completion) for probe in probes) > 900_000
    together = {(a.name, b.name) for a in probes for b in probes if a.scene == b.scene}
    assert not [r for r in list_relations(task) if (r.better, r.worse) not in together]
    assert {relation.check for relation in list_relations(task)} <= set(CHECKS)


def test_junk_lies_apart_from_every_object() -> None:
    for scene in list_scenes("detection", "boxes"):
        if scene.name != "whole":
            assert all(iou(junk, box) == 0.0 for junk in JUNK for box in scene.target.boxes_xyxy)
    assert all(0 <= x <= SIDE for junk in JUNK for x in junk)
