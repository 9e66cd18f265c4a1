"""Questions of a data set's own that say in which numbers to answer: beside ours they ask for two things at once."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger

_RANGE = r"0(?:\.0)?\s?(?:[-\u2013~]|to|and)\s?(?:1\.0|1|99|100|999|1000|1024)\b(?![-.,]?\d)"
_FRAME = re.compile(
    rf"\b(?:between|from|in|to|range|scale)\s(?:the\srange\s)?{_RANGE}|[\[(]0(?:\.0)?,\s?(?:1\.0|1|100|999|1000|1024)[\])]"
    r"|\bnormali[sz]ed\b(?!\s(?:by|for)\b)|\bpixels?\s(?:coordinates?|values?|positions?)\b"
    r"|\bin\s(?:absolute\s|image\s|whole\s)?pixels?\b|\b(?:relative|absolute)\scoordinates?\b"
    r"|\bin\spercent(?:age)?s?\b|\bpercent(?:age)?s?\sof\sthe\s(?:image|width|height)\b",
    re.IGNORECASE,
)


def stated_frame(question: str) -> str:
    """The words by which a question says in which numbers to answer; "" where it says nothing.

    >>> stated_frame("Give its box, normalized to 0-1000."), stated_frame("Give its box in pixels.")
    ('normalized', 'in pixels')
    >>> stated_frame("Where is the bus from 0 to 10 o'clock?")
    ''
    """
    found = _FRAME.search(question)
    return "" if found is None else found[0]


@dataclass(slots=True)
class QuestionFrames:
    """Questions about places that say in which numbers to answer, counted by their file."""

    _counts: Counter[str] = field(default_factory=Counter)
    _first: dict[str, str] = field(default_factory=dict)

    def add(self, item: Item) -> None:
        """Look at the words of an item that go into its prompt."""
        asked = item.prompt if item.prompt is not None else item.question or ""
        if item.task in ("grounding", "detection", "pointing") and (frame := stated_frame(asked)):
            file = item.where.partition(":")[0]
            self._counts[file] += 1
            self._first.setdefault(file, f"{item.where}: {frame!r}")

    def note(self, ledger: Ledger) -> None:
        """Note them."""
        for file, count in self._counts.items():
            reason = f"question that says in which numbers to answer (the first: {self._first[file]})"
            advice = "where the model answers in others, take them out, or ask by a phrase with --prompt-template"
            ledger.notes[f"{reason}; {advice}"] += count
