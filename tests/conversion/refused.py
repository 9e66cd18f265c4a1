"""A conversion that one bad entry stops, or that loses that entry alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from verl_visionr1.files import RowError


def mentions(message: object, *values: object) -> bool:
    """Whether a message names these values, in this order."""
    return re.search(".*".join(re.escape(str(value)) for value in values), str(message)) is not None


def bad_entry(convert: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[RowError, Any, Any]:
    """The error, told in one line; then what is left with --on-error skip, and the report of that."""
    with pytest.raises(RowError) as caught:
        convert(*arguments, **options)
    assert "\n" not in str(caught.value)
    found, report = convert(*arguments, **{**options, "on_error": "skip"})
    assert report.ledger.skipped == {caught.value.kind: 1}
    assert report.ledger.listed == [str(caught.value)]
    return caught.value, found, report
