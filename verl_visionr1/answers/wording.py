"""The user's turn that asks for a format: one template per task."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

PHRASE, PHRASES = "{phrase}", "{phrases}"
_NAME_WORDS = 3
_NO_NAME = re.compile(
    r"""
    [.,;:!?"] | ^\d+\s
    | ^(?:white|black|red|green|blue|yellow|brown|gr[ae]y|pink|purple|tan|dark|light|big|small|tall|short)$
    | \s\w+(?<!s)s\s (?# a verb, as in "man wears glasses") | (?<![^\W_])(?:
    an? | the | th(?:is|at|ese|ose) | (?:t)?here | its? | he | hi[ms] | she | her | they | them
    | their | my | our | your
    | one | two | three | four | five | six | seven | eight | nine | ten | first | second | third | last
    | (?:some|any|every|no)(?:one|body|thing) | people | men | women | children | kids | guys
    | both | all | each | every | some | any | no | other | another
    | is | are | was | were | be | been | being | has | have | had | does | do | did | will | who | whose | which | what
    | in | on | at | of | by | to | with | without | near | behind | under | above | below | beside | between
    | next | for
    | left | right | middle | center | centre | top | bottom | front | back | upper | lower | far | closest
    )(?![^\W_])
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Words and signs that no class name contains: "every" cannot precede such a phrase."""


def is_name(phrase: str) -> bool:
    """Whether a phrase is a class name, so that "every" can precede it; else it is a description.

    Taking a long name for a description does no harm: the wording for descriptions fits every phrase.

    >>> [is_name(phrase) for phrase in ("red circle", "gray rubber cube", "A man", "clock is green", "far left")]
    [True, True, False, False, False]
    """
    return len(phrase.split()) <= _NAME_WORDS and not _NO_NAME.search(phrase)


@dataclass(frozen=True, slots=True)
class Wording:
    """The prompt that asks for a format.

    Attributes:
        answer_format: name of the format.
        templates: task -> text with the placeholder `{phrase}` (the task takes one phrase) or `{phrases}`.
        described: task -> text with quoted `{phrases}`, used if one of them is no class name (`is_name`); a task
            without an entry uses `templates`.
        if_none: what to answer if there is no object; appended on demand.
        separator: text between phrases.

    >>> ask = Wording("griffon", {"counting": "Count the {phrase}."}, " If there is none, output None.")
    >>> ask("counting", ["red cups"], allow_none=True)
    'Count the red cups. If there is none, output None.'
    >>> ask = Wording("count", {"counting": "Count every {phrases}."}, described={"counting": "Count {phrases}."})
    >>> ask("counting", ["cat"]), ask("counting", ["A man"])
    ('Count every cat.', 'Count "A man".')
    >>> ask("text", ["Why?"])
    Traceback (most recent call last):
    ...
    ValueError: task = 'text': answer format 'count' cannot answer it; it can answer counting
    """

    answer_format: str
    templates: Mapping[str, str]
    if_none: str = ""
    separator: str = ", "
    described: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        for name in ("templates", "described"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __call__(self, task: str, phrases: Sequence[str], *, allow_none: bool = False) -> str:
        """Return the question for `phrases`.

        Raises:
            ValueError: a task that the format cannot answer, no phrase, or several phrases where the task takes one.
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
        listed = self.separator.join(phrases)
        if task in self.described and not all(map(is_name, phrases)):
            template, listed = self.described[task], " or ".join(f'"{phrase}"' for phrase in phrases)
        text = template.replace(PHRASES, listed).replace(PHRASE, phrases[0])
        return text + (self.if_none if allow_none else "")
