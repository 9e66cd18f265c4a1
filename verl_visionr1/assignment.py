"""One-to-one pairs of predicted and target boxes with the largest total IoU: exact, order-free, bounded in time.

Legend: p counts predictions, t targets in canonical order (sorted by box, then label: `IndexedBoxes`). An edge is a
pair that overlaps. An edge is *dominant* if its IoU exceeds the sum of the second-best IoU of its prediction and the
second-best of its target: it belongs to every best assignment. Dominant edges are taken first, in rounds; scipy gets
the rest, which is small or full of ties, with rows and columns in canonical order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from operator import itemgetter
from typing import TypeAlias, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from verl_visionr1.boxes import Array, Box, Boxes, area, array_iou, as_array

Row: TypeAlias = tuple[float, float, float, float, float, int]
"""A target box with its area and its index in canonical order."""
Edge: TypeAlias = tuple[int, int, float]
"""Prediction p, target t (index in canonical order), and their IoU > 0."""
Group: TypeAlias = tuple[Sequence[int], Sequence[Row]]
"""Predictions and the only targets that they may be paired with."""

SMALL_PAIRS = 1000
"""Candidate pairs up to which plain Python is faster than numpy."""
MAX_PAIRS = 2**18
"""Candidate pairs that are compared (512 x 512). Beyond it `thin` chooses the predictions."""
MAX_ASSIGNED = 2**16
"""Entries of the largest matrix that is solved exactly (256 x 256); see `assign`."""
_FEW_PAIRS = 2**13  # pairs of one group up to which scipy alone is faster
_FEW_EDGES = 100  # edges up to which tuples are cheaper than a matrix
_ROUNDS = 8  # rounds of taking dominant edges before scipy: each costs as much as the remaining edges
_PAD: Box = (1.0, 1.0, 0.0, 0.0)  # overlaps nothing, and has an area
by_target = itemgetter(1)
"""Key that sorts edges by their targets."""


class IndexedBoxes(msgspec.Struct, frozen=True, dict=True):
    """The boxes of a target in canonical order, for repeated matching.

    Attributes:
        order: index in canonical order -> index of the box in the target.
        rows: the boxes in canonical order.
        by_label: normalized label -> its rows.
        as_written: label as the target spells it -> its rows.
    """

    order: tuple[int, ...]
    rows: tuple[Row, ...]
    by_label: Mapping[str, tuple[Row, ...]]
    as_written: Mapping[str, tuple[Row, ...]]

    @classmethod
    def of(cls, boxes_xyxy: Boxes, labels: Sequence[str], normalized_labels: Sequence[str]) -> IndexedBoxes:
        """Index T boxes by T labels (or none), as written and normalized."""
        labels, normalized_labels = labels or [""] * len(boxes_xyxy), normalized_labels or [""] * len(boxes_xyxy)
        order = tuple(sorted(range(len(boxes_xyxy)), key=lambda i: (boxes_xyxy[i], normalized_labels[i])))
        rows = tuple([(*boxes_xyxy[i], area(boxes_xyxy[i]), t) for t, i in enumerate(order)])
        by_label: dict[str, list[Row]] = {}
        for t, i in enumerate(order):
            by_label.setdefault(normalized_labels[i], []).append(rows[t])
        groups = {label: tuple(found) for label, found in by_label.items()}
        as_written = {label: groups[normal] for label, normal in zip(labels, normalized_labels, strict=True)}
        return cls(order, rows, groups, as_written)

    @cached_property
    def block_by_label(self) -> tuple[Array, NDArray[np.intp]]:
        """`pad_groups` of all labels."""
        return pad_groups(tuple(self.by_label.values()))

    @cached_property
    def block(self) -> tuple[Array, NDArray[np.intp]]:
        """`pad_groups` of all boxes as one group."""
        return pad_groups((self.rows,))


def pad_groups(groups: Sequence[Sequence[Row]]) -> tuple[Array, NDArray[np.intp]]:
    """Return the boxes of G groups as an array of shape (G, longest, 4), and their indices, of shape (G, longest)."""
    longest = max(map(len, groups), default=0)
    boxes = [row[:4] for rows in groups for row in (*rows, *[(*_PAD, 1.0, -1)] * (longest - len(rows)))]
    places = [row[5] for rows in groups for row in (*rows, *[(*_PAD, 1.0, -1)] * (longest - len(rows)))]
    shape = (len(groups), longest)
    return np.reshape(as_array(boxes), (*shape, 4)), np.reshape(np.array(places, dtype=np.intp), shape)


def find_edges(boxes_xyxy: Sequence[Box], rows_of: Sequence[Sequence[Row]]) -> list[Edge]:
    """Find all edges between each box and its candidate rows, in plain Python.

    Four comparisons rule out most pairs. The IoU equals `boxes.iou` bit for bit.
    """
    edges: list[Edge] = []
    for p, rows in enumerate(rows_of):
        if not rows:
            continue
        x1, y1, x2, y2 = boxes_xyxy[p]
        for a1, b1, a2, b2, its_area, t in rows:
            if x1 < a2 and a1 < x2 and y1 < b2 and b1 < y2:
                shared = ((x2 if x2 < a2 else a2) - (x1 if x1 > a1 else a1)) * (
                    (y2 if y2 < b2 else b2) - (y1 if y1 > b1 else b1)
                )
                union = (x2 - x1) * (y2 - y1) + its_area - shared
                if shared > 0.0 and 0.0 < union < float("inf"):
                    edges.append((p, t, shared / union if shared < union else 1.0))
    return edges


def best_edges(edges: list[Edge], boxes_xyxy: Sequence[Box]) -> list[Edge]:
    """Return the edges of a best one-to-one assignment, in the order of their targets; `boxes_xyxy` are all
    predictions.
    """
    n = len(edges)
    if n < 2:
        return edges
    n_p, n_t = len({p for p, _, _ in edges}), len({t for _, t, _ in edges})
    if n_p == n == n_t:
        return sorted(edges, key=by_target)
    if n_p == 1 or n_t == 1:
        return [min(edges, key=lambda edge: (-edge[2], boxes_xyxy[edge[0]], edge[1]))]
    taken: list[Edge] = []
    for _ in range(_ROUNDS):
        dominant = _dominant(edges)
        if not dominant:
            break
        taken += dominant
        if len(dominant) == len(edges):
            edges = []
            break
        done_p, done_t = {p for p, _, _ in dominant}, {t for _, t, _ in dominant}
        edges = [edge for edge in edges if edge[0] not in done_p and edge[1] not in done_t]
    if edges:
        taken += _solve(edges, boxes_xyxy)
    taken.sort(key=by_target)
    return taken


def _dominant(edges: list[Edge]) -> list[Edge]:
    """Return the edges whose IoU exceeds the sum of the second-best IoU of their prediction and of their target."""
    first_p: dict[int, float] = {}
    first_t: dict[int, float] = {}
    second_p: dict[int, float] = {}
    second_t: dict[int, float] = {}
    for p, t, overlap in edges:
        best = first_p.get(p, 0.0)
        if overlap > best:
            first_p[p], second_p[p] = overlap, best
        elif overlap > second_p[p]:
            second_p[p] = overlap
        best = first_t.get(t, 0.0)
        if overlap > best:
            first_t[t], second_t[t] = overlap, best
        elif overlap > second_t[t]:
            second_t[t] = overlap
    # An edge that is not the single best of its prediction or target is at most the second best there.
    return [edge for edge in edges if edge[2] > second_p[edge[0]] + second_t[edge[1]]]


def _solve(edges: list[Edge], boxes_xyxy: Sequence[Box]) -> list[Edge]:
    first_t: dict[int, int] = {}
    for p, t, _ in edges:
        first_t[p] = min(t, first_t.get(p, t))
    # Predictions with equal boxes and labels are interchangeable; with different labels they have different targets.
    ps = sorted(first_t, key=lambda p: (boxes_xyxy[p], first_t[p]))
    ts = sorted({t for _, t, _ in edges})
    row_of, column_of = {p: row for row, p in enumerate(ps)}, {t: column for column, t in enumerate(ts)}
    iou_pt = np.zeros((len(ps), len(ts)))
    for p, t, overlap in edges:
        iou_pt[row_of[p], column_of[t]] = overlap
    rows, columns = assign(iou_pt)
    chosen = zip(rows, columns, iou_pt[rows, columns].tolist(), strict=True)
    return [(ps[row], ts[column], overlap) for row, column, overlap in chosen if overlap > 0.0]


def best_edges_of_groups(
    boxes_xyxy: Sequence[Box], groups: Sequence[Sequence[int]], block: tuple[Array, NDArray[np.intp]]
) -> list[Edge]:
    """`best_edges` of all pairs of each group, in numpy: for many pairs.

    `groups` has the predictions of each of G groups, none in two; `block` is `pad_groups` of the targets of these
    groups.
    """
    longest = max(map(len, groups))
    if len(groups) == 1 and longest * block[1].size <= _FEW_PAIRS:
        return _best_edges_of_one(boxes_xyxy, groups[0], block)
    ps_of = [p for ps in groups for p in (*ps, *[-1] * (longest - len(ps)))]
    p_block = _to_array([_PAD if p < 0 else boxes_xyxy[p] for p in ps_of])
    t_block, t_of = block
    iou_gpt = array_iou(np.reshape(p_block, (len(groups), longest, 4)), t_block)
    taken = _take_dominant(iou_gpt)
    edges: list[Edge] = []
    if np.count_nonzero(iou_gpt) <= _FEW_EDGES:
        left = np.flatnonzero(iou_gpt)
        places, columns = np.divmod(left, t_of.shape[1])
        ts = t_of[places // longest, columns].tolist()
        found = zip(places.tolist(), ts, iou_gpt.ravel()[left].tolist(), strict=True)
        edges = best_edges([(ps_of[row], t, overlap) for row, t, overlap in found], boxes_xyxy)
    else:
        for g, iou_pt in enumerate(iou_gpt):
            box_of = [boxes_xyxy[p] for p in groups[g]]
            rows: list[int] = np.flatnonzero(iou_pt.any(axis=1)).tolist()
            rows.sort(key=box_of.__getitem__)
            taken += [(g * longest + row, column, overlap) for row, column, overlap in _solve_rows(iou_pt, rows)]
    edges += [(ps_of[row], int(t_of[row // longest, column]), overlap) for row, column, overlap in taken]
    edges.sort(key=by_target)
    return edges


def _best_edges_of_one(
    boxes_xyxy: Sequence[Box], ps: Sequence[int], block: tuple[Array, NDArray[np.intp]]
) -> list[Edge]:
    """Solve one group by scipy, which costs less than searching for dominant edges first."""
    ps = sorted(ps, key=boxes_xyxy.__getitem__)
    iou_pt = array_iou(_to_array([boxes_xyxy[p] for p in ps]), block[0][0])
    rows, columns = assign(iou_pt)
    chosen = zip(rows, block[1][0, columns].tolist(), iou_pt[rows, columns].tolist(), strict=True)
    edges = [(ps[row], t, overlap) for row, t, overlap in chosen if overlap > 0.0]
    edges.sort(key=by_target)
    return edges


def _to_array(boxes_xyxy: Sequence[Box]) -> Array:
    """`as_array`, three times as fast for many boxes."""
    return np.reshape(np.fromiter(chain.from_iterable(boxes_xyxy), np.float64, 4 * len(boxes_xyxy)), (-1, 4))


def _take_dominant(iou_gpt: Array) -> list[tuple[int, int, float]]:
    """Take the dominant edges: row (over all groups), column and IoU; sets their rows and columns to 0 in the array."""
    n_g, n_p, n_t = iou_gpt.shape
    iou_rt = np.reshape(iou_gpt, (n_g * n_p, n_t))  # a view
    group_of: NDArray[np.intp] = np.arange(n_g * n_p, dtype=np.intp) // n_p
    taken: list[tuple[int, int, float]] = []
    for _ in range(_ROUNDS):
        best_t, first, second = _two_best(iou_rt)
        iou_tp = np.reshape(np.array(np.swapaxes(iou_gpt, 1, 2), order="C"), (n_g * n_t, n_p))  # a copy
        second_t = _two_best(iou_tp)[2]
        rows = np.flatnonzero(first > second + second_t[group_of * n_t + best_t])
        if not len(rows):
            break
        columns = best_t[rows]
        taken += zip(rows.tolist(), columns.tolist(), first[rows].tolist(), strict=True)
        iou_rt[rows] = 0.0
        iou_gpt[group_of[rows], :, columns] = 0.0
        if len(rows) * 16 < len(first) or np.count_nonzero(iou_gpt) <= _FEW_EDGES:
            break
    return taken


def _two_best(iou_rt: Array) -> tuple[NDArray[np.intp], Array, Array]:
    """Return for each row the index of the largest value, that value, and the second largest (equal in a tie)."""
    rows, where = np.arange(len(iou_rt)), iou_rt.argmax(axis=1)
    first: Array = iou_rt[rows, where]
    iou_rt[rows, where] = 0.0
    second = cast(Array, iou_rt.max(axis=1))
    iou_rt[rows, where] = first
    return where, first, second


def _solve_rows(iou_pt: Array, rows: list[int]) -> list[tuple[int, int, float]]:
    if not rows:
        return []
    columns = np.flatnonzero(iou_pt.any(axis=0))
    left: Array = iou_pt[rows][:, columns]
    some, others = assign(left)
    chosen = zip(some, columns[others].tolist(), left[some, others].tolist(), strict=True)
    return [(rows[row], column, overlap) for row, column, overlap in chosen if overlap > 0.0]


def thin(ps: Sequence[int], boxes_xyxy: Sequence[Box], n_target: int) -> list[int]:
    """Choose the predictions of a group to match, for an answer with more than `MAX_PAIRS` candidate pairs.

    These are the first in canonical order, at least one, up to `MAX_PAIRS` pairs with all `n_target` targets.
    """
    return sorted(ps, key=boxes_xyxy.__getitem__)[: max(MAX_PAIRS // n_target, 1)]


def assign(score_pt: Array) -> tuple[list[int], list[int]]:
    """Return rows and columns of the min(P, T) one-to-one pairs with the largest total score.

    Beyond `MAX_ASSIGNED` entries an exact solution may take seconds. There pairs are taken greedily from the largest
    score down (ties in row order); for scores >= 0 their total is at least half of the largest.
    """
    if score_pt.size > MAX_ASSIGNED:
        return _assign_greedily(score_pt)
    # Imported only if needed: scipy.optimize takes three times as long to load as the rest of the package.
    from scipy.optimize import linear_sum_assignment  # pyright: ignore

    found = cast(tuple[NDArray[np.intp], NDArray[np.intp]], linear_sum_assignment(score_pt, maximize=True))
    return found[0].tolist(), found[1].tolist()


def _assign_greedily(score_pt: Array) -> tuple[list[int], list[int]]:
    n_rows, n_columns = score_pt.shape
    n_left = min(n_rows, n_columns)
    free_rows, free_columns = bytearray(b"\1" * n_rows), bytearray(b"\1" * n_columns)
    rows: list[int] = []
    columns: list[int] = []
    for place in np.argsort(-score_pt, axis=None, kind="stable").tolist():
        row, column = divmod(place, n_columns)
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = 0
            rows.append(row)
            columns.append(column)
            n_left -= 1
            if not n_left:
                break
    return rows, columns
