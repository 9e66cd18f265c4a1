"""Whether `data.max_response_length` holds the right answers of a run's rows, by the model's own tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig

from verl_visionr1.conversion.tokens import answer_tokens, load_answer_counter
from verl_visionr1.plugin.config import ConfigError, settings_of
from verl_visionr1.plugin.data_files import DATA_KEYS, readable_files
from verl_visionr1.rewards.routing import is_delegated
from verl_visionr1.rows import RowsError, read_rows, target_of
from verl_visionr1.targets import Target, TargetError

SURE_SHARE = 0.7
"""An answer whose estimate is below this share of the budget fits: the estimate is right within some 10 %."""


def answer_notes(config: DictConfig) -> list[str]:
    """Files with right answers that the response budget cuts off; one line each.

    Reads every row, so it belongs to a dry run. Reasoning, tags and fences come on top of what is counted. Left out:
    points, and models whose tokenizer is not in a folder here.
    """
    try:
        delegate = settings_of(config).delegate
        count = load_answer_counter(Path(str(config.actor_rollout_ref.model.path)).expanduser())
    except (ConfigError, RowsError):
        return []
    limit, notes = int(config.data.max_response_length), list[str]()
    for key in DATA_KEYS:
        lengths = [length for file in readable_files(config, key) for length in _lengths(file, delegate, count, limit)]
        too_long = [length for length in lengths if length > limit]
        if too_long:
            notes.append(
                f"{key}: the right answer of {len(too_long)} of {len(lengths)} rows is longer than "
                f"data.max_response_length={limit} tokens (longest: {max(too_long)}): it is cut off and never earns "
                f"full reward; set data.max_response_length to more than {max(too_long)}, or leave these rows out"
            )
    return notes


def _lengths(file: Path, delegate: Sequence[str], count: Callable[[Target], int], limit: int) -> Iterator[int]:
    """Tokens of the right answer of each row; an estimate where that is surely within the limit."""
    columns = ["reward_model", *(["data_source"] if delegate else [])]
    try:
        for row in read_rows(file, columns=columns):
            if is_delegated(delegate, str(row.get("data_source", ""))):
                continue
            target = target_of(row)
            if target.task != "pointing":
                estimate = answer_tokens(target)
                yield estimate if estimate <= SURE_SHARE * limit else count(target)
    except (RowsError, TargetError):
        return  # the preflight says it
