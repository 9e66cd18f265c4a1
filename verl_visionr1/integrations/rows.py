"""Batches of rows as TRL and ms-swift hand them over: dataset columns by name, and the trainer's state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from verl_visionr1.integrations.core import Moment, Scorer
from verl_visionr1.integrations.steps import step_of_state
from verl_visionr1.targets import is_validation_split


def evaluate_rows(
    scorer: Scorer,
    texts: Sequence[str],
    ground_truths: Sequence[str | None],
    trainer_state: Any,
    columns: Mapping[str, Any],
    lengths: Sequence[int] | None = None,
) -> list[dict[str, float] | None]:
    """Score a batch.

    Args:
        texts: n responses.
        ground_truths: n of `Target.to_json()`; None for a row that is another reward's.
        trainer_state: Hugging Face's `TrainerState`, or None.
        columns: the other columns of the batch by name: `data_source`, `split` or `extra_info.split` (which tells
            validation), and what `routes` names.
        lengths: n lengths of the responses in tokens.

    Returns:
        n reports of `Scorer.evaluate`, None for rows without a ground truth.

    Raises:
        MissingStepError, TargetError, RewardError: see `Scorer.evaluate`.
    """
    step, total_steps = step_of_state(trainer_state)
    by_row = {name: values for name, values in columns.items() if is_column(values, len(texts))}
    reports: list[dict[str, float] | None] = []
    for i, (text, ground_truth) in enumerate(zip(texts, ground_truths, strict=True)):
        if ground_truth is None:
            reports.append(None)
            continue
        row = {name: values[i] for name, values in by_row.items()}
        moment = Moment(step, total_steps, is_validation_split(_split_of(row)))
        source = str(row.get("data_source") or "")
        n_tokens = None if lengths is None else lengths[i]
        reports.append(scorer.evaluate(text, ground_truth, moment, data_source=source, row=row, n_tokens=n_tokens))
    return reports


def _split_of(row: Mapping[str, Any]) -> object:
    extra = row.get("extra_info")
    return row.get("split") or (extra.get("split") if isinstance(extra, Mapping) else None)


def is_column(values: object, n_rows: int) -> bool:
    """Whether an argument holds one value for each row."""
    return isinstance(values, Sequence) and not isinstance(values, str | bytes) and len(values) == n_rows
