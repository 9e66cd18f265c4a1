"""The user's turn that asks for a format: a template a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

PHRASE, PHRASES = "{phrase}", "{phrases}"


@dataclass(frozen=True, slots=True)
class Wording:
    """How a format is asked for.

    Attributes:
        answer_format: its name.
        templates: task -> text, in which `{phrase}` stands for the one phrase that the task asks for, or `{phrases}`
            for all of them.
        if_none: what to answer when nothing is there: appended on demand.
        separator: what stands between phrases.

    >>> ask = Wording("griffon", {"counting": "Count the {phrase}."}, " If there is none, output None.")
    >>> ask("counting", ["red cups"], allow_none=True)
    'Count the red cups. If there is none, output None.'
    >>> ask("text", ["Why?"])
    Traceback (most recent call last):
    ...
    ValueError: task = 'text': answer format 'griffon' cannot answer it; it can answer counting
    """

    answer_format: str
    templates: Mapping[str, str]
    if_none: str = ""
    separator: str = ", "

    def __post_init__(self) -> None:
        object.__setattr__(self, "templates", MappingProxyType(dict(self.templates)))

    def __call__(self, task: str, phrases: Sequence[str], *, allow_none: bool = False) -> str:
        """The question for `phrases`.

        Raises:
            ValueError: a task that the format cannot answer, no phrase, or several where the task asks for one.
        """
        if task not in self.templates:
            known = ", ".join(self.templates)
            raise ValueError(
                f"task = {task!r}: answer format {self.answer_format!r} cannot answer it; it can answer {known}"
            )
        template = self.templates[task]
        if isinstance(phrases, str) or not phrases or (PHRASE in template and len(phrases) != 1):
            wanted = "a list of one phrase" if PHRASE in template else "a list of phrases"
            raise ValueError(f"phrases = {phrases!r}: task {task!r} needs {wanted}")
        text = template.replace(PHRASES, self.separator.join(phrases)).replace(PHRASE, phrases[0])
        return text + (self.if_none if allow_none else "")
