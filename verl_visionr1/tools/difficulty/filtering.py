"""Measure the difficulty of training data on saved rollouts, and write a selection of its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from verl_visionr1.files import RowsError, atomic_write
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.rollouts.finding import Finder
from verl_visionr1.rollouts.judged import SAME, TableBuilder
from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.records import Columns, Counts, Rollout, no_row
from verl_visionr1.rollouts.training_rows import NOTHING, Numbers, TrainingRows
from verl_visionr1.row_writer import RowGroups, extended_metadata, has_embedded, small_batches
from verl_visionr1.tools.difficulty.selection import Rules, select

COLUMNS = Columns(index=("extra_info.index",), image=("images", "image"))
"""Columns of dumps; a user's own tables may name the row and the image."""
FATES = ("found", "ambiguous", "other_question", "not_in_data")
"""What becomes of a rollout: it belongs to one row (or to identical ones), it fits several, its ground truth is in the
data with another question, image or index, or it is in no row."""
EDGES = np.arange(11) / 10
SUSPICIOUS = 0.1
"""Least share of rollouts without a row that gives a note."""
NEVER, FEWEST = 0.95, 10
"""Least share and least number of rows that never pass, for a note."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Some rows of the data.

    Attributes:
        before, after: number of rows, and how many of them were chosen.
        rated: how many have a pass rate.
        rate: mean pass rate of those; None if there are none.
    """

    before: int
    after: int
    rated: int
    rate: float | None


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """Rows with a pass rate in [low, high); with `low == high` rows of exactly 0 or 1, which no other bin has."""

    low: float
    high: float
    before: int
    after: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Measurement and selection.

    Attributes:
        out: the file that was written; None if nothing was written.
        measured, bar: task -> metric, and its least value.
        rollouts: numbers of rollouts by outcome: `FATES`, skipped, earlier turns.
        rows: numbers of rows: total, rated (with a pass rate), not_in_dump, few_samples, ambiguous (all rollouts fit
            other rows, too), chosen.
        histogram, sources, counts: rows before and after; counts are right answers of counting rows.
        notes: limits that could not be kept, suspicious facts, and what to do.
    """

    out: str | None
    preset: str
    frame: str
    measured: dict[str, str]
    bar: float
    rollouts: dict[str, int]
    rows: dict[str, int]
    overall: Part
    histogram: list[Bin]
    sources: dict[str, Part]
    counts: dict[int, Part]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Measured:
    """How the n rows of the data fare.

    Attributes:
        samples, passed: number of a row's answers, and of those that pass.
        is_unclear: whether some rollout fits the row and another one.
        fates: number of rollouts by `FATES`.
        metrics: task -> metric.
        unclear_example: two rows that one rollout fits; empty if there are none.
    """

    samples: Numbers
    passed: Numbers
    is_unclear: NDArray[np.bool_]
    fates: Counter[str]
    metrics: dict[str, str]
    unclear_example: list[int]

    def rates(self, min_samples: int) -> NDArray[np.float64]:
        """Pass rates in [0, 1]; NaN for rows with fewer samples."""
        found = np.full(len(self.samples), np.nan)
        np.divide(self.passed, self.samples, out=found, where=self.samples >= max(min_samples, 1))
        return found


def measure(rollouts: Iterable[Rollout], data: TrainingRows, judging: Judging, rules: Rules) -> Measured:
    """Score rollouts and count for each row of the data how many pass. Their order does not matter.

    Raises:
        FrameError, SizeError, RewardError: the frame or a criterion does not fit the rows.
    """
    finder, builder = Finder(data, rules.match), TableBuilder()
    fates, of_found, unclear = Counter[str](), list[int](), set[tuple[int, ...]]()
    is_unclear = np.zeros(data.n_prompts, dtype=np.bool_)
    for rollout in rollouts:
        prompts = finder.prompts_of(rollout)
        if prompts is None:
            fates["not_in_data"] += 1
        elif not prompts:
            fates["other_question"] += 1
        elif len(prompts) == 1:
            fates["found"] += 1
            of_found.append(prompts[0])
            preset = judging.preset_for(rollout)
            builder.add(rollout, preset, judging.score(rollout, preset))
        else:
            fates["ambiguous"] += 1
            is_unclear[list(prompts)] = True
            unclear.add(prompts)
    table, found = builder.table(), np.asarray(of_found, dtype=np.int64)
    has_passed = table.quality(rules.metric) >= rules.bar - SAME
    return Measured(
        samples=np.bincount(found, minlength=data.n_prompts)[data.prompts],
        passed=np.bincount(found[has_passed], minlength=data.n_prompts)[data.prompts],
        is_unclear=is_unclear[data.prompts],
        fates=fates,
        metrics={task: rules.metric if task in BOX_TASKS else "accuracy" for task in sorted(table.tasks)},
        unclear_example=[int((data.prompts == prompt).argmax()) for prompt in min(unclear, default=())[:2]],
    )


def filter_by_difficulty(
    rollouts: Iterable[Rollout],
    data: TrainingRows,
    judging: Judging,
    rules: Rules,
    *,
    out: Path | None = None,
    skipped: Counts | None = None,
) -> Report:
    """Measure the rows of the data by rollouts, and write a selection of them.

    Args:
        rollouts: a stream, read with `COLUMNS`; their order does not matter.
        data: the training data: see `read_training_rows`.
        out: where to write; None reports only.

    Raises:
        RowsError: no rollout, no row with enough of them, no row chosen, or a file that cannot be written.
        FrameError, SizeError, RewardError: the frame or a criterion does not fit the rows.
    """
    skipped = Counts() if skipped is None else skipped
    found = measure(rollouts, data, judging, rules)
    rates = found.rates(rules.min_samples)
    chosen = select(rates, data.sources, data.counts, rules)
    is_rated, is_sampled = ~np.isnan(rates), found.samples > 0
    masks = {"rated": is_rated, "not_in_dump": ~is_sampled & ~found.is_unclear, "few_samples": is_sampled & ~is_rated}
    masks["ambiguous"] = ~is_sampled & found.is_unclear
    rows = {"total": len(data), **{name: int(mask.sum()) for name, mask in masks.items()}, "chosen": len(chosen)}
    _require_rows(found.fates, rows, skipped, rules, _names(data))
    is_chosen = np.zeros(len(data), dtype=np.bool_)
    is_chosen[chosen] = True
    answers = np.unique(data.counts[data.counts != NOTHING]).tolist()
    report = Report(
        out=None if out is None else str(out),
        preset=judging.preset.name,
        frame=judging.frame.name,
        measured=found.metrics,
        bar=rules.bar,
        rollouts={fate: found.fates[fate] for fate in FATES}
        | {"skipped": skipped.n_skipped, "earlier_turns": skipped.n_earlier},
        rows=rows,
        overall=_part(np.ones(len(data), dtype=np.bool_), rates, is_chosen),
        histogram=_histogram(rates, is_chosen),
        sources={name: _part(data.sources == i, rates, is_chosen) for i, name in enumerate(data.source_names)},
        counts={answer: _part(data.counts == answer, rates, is_chosen) for answer in answers},
        notes=[*_notes(data, found, rates[chosen])],
    )
    if out is not None:
        _write(out, data, chosen, _facts(report, data, rules))
    return report


def _require_rows(fates: Counter[str], rows: Mapping[str, int], skipped: Counts, rules: Rules, names: str) -> None:
    """Raise RowsError with the reason if no row has a pass rate, or none is selected."""
    if not fates:
        raise RowsError(no_row(skipped))
    if not fates["found"]:
        raise RowsError(
            f"none of {fates.total()} rollouts matches a row of {names}: {fates['not_in_data']} have a ground truth "
            f"not in it, {fates['other_question']} another question or image (see --match), {fates['ambiguous']} match "
            "several rows; give the parquet that was trained on (--data)"
        )
    if not rows["rated"]:
        raise RowsError(f"no row has {rules.min_samples} rollouts or more; lower --min-samples, or sample more answers")
    if not rows["chosen"]:
        raise RowsError(
            f"no row selected: {rows['rated']} of {rows['total']} rows have a pass rate, none in "
            f"{rules.min_rate:g}..{rules.max_rate:g}, and {rows['total'] - rows['rated']} are unseen; "
            "change --min-rate, --max-rate or --unseen"
        )


def _names(data: TrainingRows) -> str:
    return ", ".join(file.name for file in data.files)


def _part(rows: NDArray[np.bool_], rates: NDArray[np.float64], is_chosen: NDArray[np.bool_]) -> Part:
    known = rates[rows & ~np.isnan(rates)]
    rate = float(known.mean()) if len(known) else None
    return Part(before=int(rows.sum()), after=int((rows & is_chosen).sum()), rated=len(known), rate=rate)


def _histogram(rates: NDArray[np.float64], is_chosen: NDArray[np.bool_]) -> list[Bin]:
    last = len(EDGES)
    bins = np.where(rates == 0, 0, np.where(rates == 1, last, np.searchsorted(EDGES, rates, side="right")))
    before, after = (
        np.bincount(bins[rows & ~np.isnan(rates)], minlength=last + 1).tolist()
        for rows in (np.ones_like(is_chosen), is_chosen)
    )
    edges = [0.0, *EDGES.tolist(), 1.0]
    return [Bin(low=edges[i], high=edges[i + 1], before=before[i], after=after[i]) for i in range(last + 1)]


def _notes(data: TrainingRows, found: Measured, chosen_rates: NDArray[np.float64]) -> Iterator[str]:
    unseen = int(np.isnan(chosen_rates).sum())
    if 2 * unseen > len(chosen_rates):
        yield f"{unseen} of {len(chosen_rates)} selected rows have no pass rate; --unseen drop removes them"
    many = max(SUSPICIOUS * found.fates.total(), 1)
    if found.unclear_example:
        one, two = map(data.where, found.unclear_example)
        rows = f"several rows that the dump does not distinguish, such as {one} and {two}"
        yield f"{found.fates['ambiguous']} rollouts match {rows}; they are not counted"
    if (n := found.fates["other_question"]) >= many:
        reason = "the prompts changed, or it is another row; --match truth compares the ground truth alone"
        yield f"{n} rollouts have a row's ground truth, but another question or image: {reason}"
    if (n := found.fates["not_in_data"]) >= many:
        yield f"{n} rollouts have a ground truth that is not in {_names(data)}; name all files trained on (--data)"
    known = found.rates(1)
    known = known[~np.isnan(known)]
    if len(known) >= FEWEST and np.mean(known == 0.0) >= NEVER:
        share = f"{np.mean(known == 0.0):.0%} of {len(known)} rows never pass"
        yield f"{share}; check --frame and the ground truth with visionr1 explain and visionr1 doctor"


def _facts(report: Report, data: TrainingRows, rules: Rules) -> dict[str, Any]:
    """Entry for the provenance; independent of the files' folders and order."""
    return {
        "made_by": f"visionr1 difficulty, verl-visionr1 {version('verl-visionr1')}",
        "data": [file.name for file in data.files],
        "preset": report.preset,
        "frame": report.frame,
        "measured": report.measured,
        "rules": asdict(rules),
        "rollouts": report.rollouts["found"],
        "rows_before": report.rows["total"],
        "rows_after": report.rows["chosen"],
    }


def _write(out: Path, data: TrainingRows, rows: Numbers, facts: Mapping[str, Any]) -> None:
    """Write rows (numbers in order) of the data. The same input gives the same bytes."""
    schema = data.schema.with_metadata(extended_metadata(data.files, "difficulty", facts))
    first = 0
    with atomic_write(out) as file, RowGroups(file, schema, embed=has_embedded(schema)) as groups:
        for path in data.files:
            for batch in small_batches(path):
                start, stop = np.searchsorted(rows, (first, first + len(batch)))
                if stop > start:
                    is_whole = stop - start == len(batch)
                    groups.add(batch if is_whole else batch.take(pa.array(rows[start:stop] - first)))
                first += len(batch)
