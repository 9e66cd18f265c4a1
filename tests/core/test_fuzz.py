"""A few hundred of the fuzzer's texts with every test run; `python tests/fuzz.py` for millions."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from verl_visionr1 import PRESETS

SPEC = importlib.util.spec_from_file_location("fuzz", Path(__file__).parents[1] / "fuzz.py")
assert SPEC is not None
assert SPEC.loader is not None
fuzz = sys.modules["fuzz"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fuzz)


def test_no_preset_fails_on_odd_texts() -> None:
    quick = [name for name in PRESETS if not PRESETS[name].may_block]
    spent = fuzz.run(1, 80, quick)
    assert set(spent) == set(quick)
    assert all(np.all(each > 0) for each in spent.values())


def test_the_texts_are_odd_and_the_same_for_a_seed() -> None:
    texts = list(fuzz.completions(3, 2000))
    assert texts == list(fuzz.completions(3, 2000))
    assert len(set(texts)) > 1500
    assert any("\ud800" in text for text in texts)


def test_the_fuzzer_finds_a_preset_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(text: str, *args: object, **options: object) -> None:
        raise ValueError(text)

    monkeypatch.setattr(fuzz, "score", fails)
    with pytest.raises(AssertionError, match="visionr1 raised on"):
        fuzz.run(1, 10, ["visionr1"])
