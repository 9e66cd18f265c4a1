"""Score batches as passed by TRL and ms-swift: dataset columns as keyword arguments, and the trainer's state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from verl_visionr1.integrations.core import Moment, Scorer
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
        ground_truths: n of `Target.to_json()`; None for a row of another reward.
        trainer_state: Hugging Face's `TrainerState`, or None.
        columns: the other columns of the batch by name: `data_source`, `split` or `extra_info.split` (for
            validation), and columns of `routes`.
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


def step_of_weights(fields: Mapping[str, Any], *, is_validation: bool) -> int | None:
    """The trainer step of a row, from the version of the weights that wrote its response; None if missing.

    verl 0.7.1 and newer pass the version of the weights: that of the step before; validation after step N uses the
    weights of step N.

    Args:
        fields: verl's `tool_extra_fields`, which its naive manager merges into `extra_info`.

    >>> step_of_weights({"max_global_steps": 4, "global_steps": 3}, is_validation=False)
    5
    """
    for key in ("max_global_steps", "global_steps"):
        if fields.get(key) is not None:
            return int(fields[key]) + (0 if is_validation else 1)
    return None


def step_of_state(trainer_state: Any) -> tuple[int | None, int | None]:
    """Trainer step from 1, and the run's steps, from Hugging Face's `TrainerState` (TRL, ms-swift).

    Its `global_step` counts finished optimizer steps, so a response sampled now belongs to the next step.

    >>> from types import SimpleNamespace
    >>> step_of_state(SimpleNamespace(global_step=0, max_steps=40)), step_of_state(None)
    ((1, 40), (None, None))
    """
    if trainer_state is None:
        return None, None
    total = int(trainer_state.max_steps)
    return int(trainer_state.global_step) + 1, total if total > 0 else None
