"""Filter training data by difficulty, measured on rollouts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from verl_visionr1.files import RowsError, atomic_write
from verl_visionr1.rewriting import RowGroups, extended_metadata, small_batches
from verl_visionr1.rollouts.finding import Finder, Match
from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.records import Columns, Counts, Rollout, no_row
from verl_visionr1.rollouts.training_rows import Numbers, TrainingRows
from verl_visionr1.rows import open_parquet
from verl_visionr1.tools.difficulty.rates import Rates, measure
from verl_visionr1.tools.difficulty.report import Report, RolloutNumbers, RowNumbers, Shares
from verl_visionr1.tools.difficulty.selection import MIN_SAMPLES, Bar, Rules, select

COLUMNS = Columns(index=("extra_info.index",), image=("images", "image"))
"""Columns of dumps; a user's own tables may name the row and the image."""
SUSPICIOUS = 0.1
"""Least share of rollouts without a row that gives a note."""
NEVER, FEWEST = 0.95, 10
"""Least share and least number of rows that never pass, for a note."""
FACTS_KEY = "difficulty"
"""Key of the filter's entry in the provenance."""


def filter_by_difficulty(
    rollouts: Iterable[Rollout],
    data: TrainingRows,
    judging: Judging,
    bar: Bar,
    rules: Rules,
    *,
    match: Match = "prompt",
    min_samples: int = MIN_SAMPLES,
    out: Path | None = None,
    skipped: Counts | None = None,
) -> Report:
    """Measure the rows of the data by rollouts, and write a selection of them.

    Args:
        rollouts: a stream, read with `COLUMNS`; their order does not matter.
        data: the training data: see `read_training_rows`.
        min_samples: rows with fewer rollouts are unseen.
        out: where to write; None reports only.

    Raises:
        RowsError: no rollout, no row with enough of them, no row chosen, or a file that cannot be written.
        FrameError, SizeError, RewardError: the frame or a criterion does not fit the rows.
    """
    skipped = Counts() if skipped is None else skipped
    found = measure(rollouts, data, judging, bar, Finder(data, match))
    numbers = RolloutNumbers(
        **{name: found.fates[name] for name in ("found", "ambiguous", "other_question", "not_in_data")},
        skipped=skipped.n_skipped,
        earlier_turns=skipped.n_earlier,
    )
    rates = found.of(data.prompts, min_samples)
    chosen = select(rates, data.sources, data.counts, rules)
    shares = Shares(data, rates, chosen)
    rows = shares.rows(found)
    _require_rows(numbers, rows, skipped, min_samples, rules)
    report = Report(
        out=None if out is None else str(out),
        preset=judging.preset.name,
        frame=judging.frame.name,
        measured=found.measured,
        bar=bar.at_least,
        rollouts=numbers,
        rows=rows,
        overall=shares.part(),
        histogram=shares.histogram(),
        sources=shares.sources(),
        counts=shares.counts(),
        notes=[*_unseen_notes(rates[chosen]), *_notes(data, found, numbers)],
    )
    if out is not None:
        write_filtered(out, data, chosen, _facts(report, data, rules, min_samples, match))
    return report


def _require_rows(rollouts: RolloutNumbers, rows: RowNumbers, skipped: Counts, min_samples: int, rules: Rules) -> None:
    """Raise RowsError with the reason if no row has a pass rate, or none is selected."""
    n_lost = rollouts.ambiguous + rollouts.other_question + rollouts.not_in_data
    if not rollouts.found + n_lost:
        raise RowsError(no_row(skipped))
    if not rollouts.found:
        raise RowsError(
            f"none of {n_lost} rollouts matches a row of --data: {rollouts.not_in_data} have a ground truth not "
            f"in it, {rollouts.other_question} another question or image (see --match), {rollouts.ambiguous} match "
            "several rows; give the parquet that was trained on"
        )
    if not rows.rated:
        raise RowsError(f"no row has {min_samples} rollouts or more; lower --min-samples, or sample more answers")
    if not rows.chosen:
        raise RowsError(
            f"no row selected: {rows.rated} of {rows.total} rows have a pass rate, none in "
            f"{rules.min_rate:g}..{rules.max_rate:g}, and {rows.total - rows.rated} are unseen; "
            "change --min-rate, --max-rate or --unseen"
        )


def _unseen_notes(rates: NDArray[np.float64]) -> Iterator[str]:
    unseen = int(np.isnan(rates).sum())
    if 2 * unseen > len(rates):
        yield f"{unseen} of {len(rates)} selected rows have no pass rate; --unseen drop removes them"


def _notes(data: TrainingRows, rates: Rates, numbers: RolloutNumbers) -> Iterator[str]:
    many = SUSPICIOUS * (numbers.found + numbers.ambiguous + numbers.other_question + numbers.not_in_data)
    if rates.unclear_example is not None:
        one, two = (data.where(int((data.prompts == prompt).argmax())) for prompt in rates.unclear_example)
        rows = f"several rows that the dump does not distinguish, such as {one} and {two}"
        yield f"{numbers.ambiguous} rollouts match {rows}; they are not counted"
    if numbers.other_question >= max(many, 1):
        reason = "the prompts changed, or it is another row; --match truth compares the ground truth alone"
        yield f"{numbers.other_question} rollouts have a row's ground truth, but another question or image: {reason}"
    if numbers.not_in_data >= max(many, 1):
        yield f"{numbers.not_in_data} rollouts have a ground truth that is not in --data; name all files trained on"
    known = rates.of(data.prompts, 1)
    known = known[~np.isnan(known)]
    if len(known) >= FEWEST and np.mean(known == 0.0) >= NEVER:
        share = f"{np.mean(known == 0.0):.0%} of {len(known)} rows never pass"
        yield f"{share}; check --frame and the ground truth with visionr1 explain and visionr1 doctor"


def _facts(report: Report, data: TrainingRows, rules: Rules, min_samples: int, match: Match) -> dict[str, Any]:
    """Entry for the provenance; independent of the files' folders and order."""
    return {
        "made_by": f"visionr1 difficulty, verl-visionr1 {version('verl-visionr1')}",
        "data": [file.name for file in data.files],
        "preset": report.preset,
        "frame": report.frame,
        "measured": report.measured,
        "bar": report.bar,
        "match": match,
        "min_samples": min_samples,
        "rules": asdict(rules),
        "rollouts": report.rollouts.found,
        "rows_before": report.rows.total,
        "rows_after": report.rows.chosen,
    }


def write_filtered(out: Path, data: TrainingRows, rows: Numbers, facts: Mapping[str, Any]) -> None:
    """Write some rows of the data in their order. The same input gives the same bytes.

    Args:
        out: a name that ends in `.parquet`.
        rows: numbers of rows, ascending.
        facts: JSON-able; appended to the provenance.

    Raises:
        RowsError: another suffix, a file that cannot be read, or a full disk.
    """
    if out.suffix != ".parquet":
        raise RowsError(f"--out {out}: verl reads only names that end in .parquet; add it")
    schema = data.schema.with_metadata(extended_metadata(data.files, FACTS_KEY, facts))
    with atomic_write(out) as file, RowGroups(file, schema) as groups:
        for batch in _batches(data, rows):
            groups.add(batch)


def _batches(data: TrainingRows, kept: Numbers) -> Iterator[pa.RecordBatch]:
    """The kept rows (numbers in order) of all files, unchanged."""
    first = 0
    for path in data.files:
        with open_parquet(path) as parquet:
            try:
                for batch in small_batches(parquet):
                    start, stop = np.searchsorted(kept, (first, first + len(batch)))
                    places = kept[start:stop] - first
                    first += len(batch)
                    if len(places):
                        yield batch if len(places) == len(batch) else batch.take(pa.array(places))
            except (pa.ArrowException, OSError) as error:
                raise RowsError(f"{path}: cannot be read to its end ({str(error).splitlines()[0]})") from None
