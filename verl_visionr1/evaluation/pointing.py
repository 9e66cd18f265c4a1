"""Pointing: which objects were hit, and whether the first point was right.

A point hits an object if it lies in its mask, else in its box, else (an object known by a point) within 2.5 % of the
image's diagonal; the rules are those of the reward (`criteria.regions`). Points and objects are paired one to one.
"""

from __future__ import annotations

from verl_visionr1.criteria.pointing import RADIUS
from verl_visionr1.criteria.regions import build_regions, count_pairs, drop_ignored, find_hits, predicted_points
from verl_visionr1.evaluation.grounding import NO_PART, Part
from verl_visionr1.evaluation.reading import Read


def pointing_parts(read: Read) -> dict[str, Part]:
    """ "precision" and "recall" over all points and objects, "all right" and "first point" over rows.

    * precision: points that have an object of their own, over all claimed points; recall: over all objects.
    * all right: every object has a point and every point an object; nothing there: nothing predicted, readably.
    * first point: the first point of the answer lies on any object (ScreenSpot's rule); rows with an object.

    The labels of points play a part where a row asked for several. A format of boxes points at nothing.
    """
    target = read.target
    regions = build_regions(target, read.case.grid_wh, RADIUS, by_mask=True)
    predicted = predicted_points(read.answer, target, use_labels=True, box_centres=False)
    first = {p for p, rank in enumerate(predicted.ranks) if rank == 0}
    hit = {p for p, _ in find_hits(predicted, regions)}
    counted = drop_ignored(predicted, target, regions) if target.ignore_xyxy else predicted
    n_found, n_target = float(count_pairs(counted, regions)), float(target.n_objects)
    n_predicted = float(counted.n_predicted)
    return {
        "precision": (n_found, n_predicted),
        "recall": (n_found, n_target),
        "all right": (float(n_found == n_predicted == n_target), 1.0),
        "first point": (float(bool(first & hit)), 1.0) if n_target else NO_PART,
    }
