"""Which tokens of a response are the model's last turn, and whether its reasoning was opened before them.

verl hands the reward the tokens of all turns, with what tools and users said between them, but not the mask that tells
them apart. A loop of verl's own writes every turn with the chat template: the last one follows the last generation
prompt. A loop of another kind has to say what it does (`turns`), or to hand its mask over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.answers.transcript import REASONING_TAGS, TOOL_CALLS, Reasoning, opens_reasoning
from verl_visionr1.plugin.config import PREFIX, ConfigError, Settings, TurnRule

SINGLE_TURN, TOOL_AGENT = "single_turn_agent", "tool_agent"
"""The agent loops of verl, whose turns are known."""
MASK_KEY = "response_mask"
"""Key of a loop's `extra_fields`, or of the batch, with 1 for each token that the model said."""
N_TURNS_KEY = "__num_turns__"
EXTRA_KEY = "tool_extra_fields"
_AGENT = "actor_rollout_ref.rollout.agent"
_ONE_QUESTION = 2  # `AgentLoopOutput.num_turns` of a prompt and one answer
TAIL = 16
"""Tokens before a turn that are looked at: a role, and `<think>`."""
_MARKS = {tag for pair in (*REASONING_TAGS, *TOOL_CALLS) for tag in pair}
_OPENINGS = tuple(opening for opening, _ in REASONING_TAGS)


class TurnsError(ValueError):
    """A response of several turns whose last one cannot be told; the message says what to set."""


@dataclass(frozen=True, slots=True)
class Turns:
    """Finds the last turn of a response.

    Attributes:
        rule: see `Settings.turns`; "auto" stands for verl's own loops here.
        boundary: tokens that begin an answer in the chat template; empty where the template does not show them.
        decode: tokens -> text, special tokens kept.
        reasoning: whether the prompt opens the reasoning: see `Settings.reasoning`.
    """

    rule: TurnRule
    boundary: tuple[int, ...]
    decode: Callable[[Sequence[int]], str]
    reasoning: Reasoning = "auto"
    _opens: Callable[[tuple[int, ...]], bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        opens = lru_cache(maxsize=256)(lambda tail: opens_reasoning(self.decode(list(tail))))
        object.__setattr__(self, "_opens", opens)

    def last_turn(
        self, ids: Sequence[int], row: Mapping[str, Any], mask: Sequence[int] | None = None
    ) -> tuple[int, int]:
        """Where the model's last turn begins and ends in a response: `ids[start:end]`.

        Args:
            ids: the response, without padding.
            row: `N_TURNS_KEY` and `EXTRA_KEY`, where the batch has them.
            mask: 1 for each token of the model's own, where the batch has it.

        Raises:
            TurnsError: several turns, and nothing tells them apart.
        """
        if mask is None:
            extra = row.get(EXTRA_KEY)
            mask = extra.get(MASK_KEY) if isinstance(extra, Mapping) else None
        if mask is not None:
            return _last_run(mask, len(ids))
        if self.rule == "mask":
            raise TurnsError(f"{PREFIX}.turns=mask: the agent loop hands over no extra_fields[{MASK_KEY!r}]")
        n_turns = int(row.get(N_TURNS_KEY) or 0)
        if self.rule == "whole" or (self.rule == "auto" and n_turns <= _ONE_QUESTION):
            return 0, len(ids)
        at = _rfind(ids, self.boundary) if self.boundary else -1
        if at < 0 and n_turns > _ONE_QUESTION:
            raise TurnsError(
                f"a response of {n_turns} turns in which no turn of the chat template begins: the reward cannot tell "
                f"what the model said last; {_advice('the agent loop')}"
            )
        return (0 if at < 0 else at + len(self.boundary)), len(ids)

    def is_reasoning_opened(self, before: Sequence[int]) -> bool:
        """Whether the tokens before a turn (its prompt) end inside a reasoning that the chat template opened."""
        if self.reasoning != "auto":
            return self.reasoning == "opened"
        return self._opens(tuple(before[-TAIL:]))


def _last_run(mask: Sequence[int], n_tokens: int) -> tuple[int, int]:
    """Where the last tokens of the model's own begin and end."""
    end = min(len(mask), n_tokens)
    while end and not mask[end - 1]:
        end -= 1
    start = end
    while start and mask[start - 1]:
        start -= 1
    return start, end


def _rfind(ids: Sequence[int], boundary: tuple[int, ...]) -> int:
    """Where `boundary` stands last in `ids`; -1 where it does not."""
    n = len(boundary)
    for at in range(len(ids) - n, -1, -1):
        if ids[at] == boundary[0] and tuple(ids[at : at + n]) == boundary:
            return at
    return -1


def turns_of(config: DictConfig, settings: Settings, tokenizer: Any) -> Turns:
    """How the last turns of a run are found.

    Raises:
        ConfigError: an agent loop whose turns cannot be told, or a chat template that hides where answers begin.
    """
    problem = turns_problem(config, settings)
    if problem:
        raise ConfigError(problem)
    boundary = _boundary(config, tokenizer)
    loop = agent_loop_of(config)
    if not boundary and (settings.turns == "template" or (settings.turns == "auto" and loop == TOOL_AGENT)):
        raise ConfigError(
            f"{PREFIX}.turns={settings.turns}: the tokenizer's chat template does not show where an answer begins, and "
            f"the agent loop {loop!r} may take several turns; {_advice('the agent loop')}"
        )

    def decode(ids: Sequence[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=False)

    return Turns(settings.turns, boundary, decode, settings.reasoning)


def plain_decoder(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    """Tokens -> text without special tokens, but for those that mark reasoning and calls of tools.

    In some vocabularies (Gemma 4, Kimi) these are special: without them reasoning would be read as the answer.
    """
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    special = {str(token) for token in added.values() if token.special}
    special |= {*map(str, getattr(tokenizer, "all_special_tokens", ()))}
    if not special & _MARKS:
        return lambda ids: tokenizer.decode(ids, skip_special_tokens=True)
    dropped = re.compile("|".join(map(re.escape, sorted(special - _MARKS, key=len, reverse=True))) or "(?!)")
    return lambda ids: dropped.sub("", tokenizer.decode(ids, skip_special_tokens=False))


def agent_loop_of(config: DictConfig) -> str:
    """The agent loop of rows that name none."""
    return str(OmegaConf.select(config, f"{_AGENT}.default_agent_loop") or SINGLE_TURN)


def turns_problem(config: DictConfig, settings: Settings, loop: str | None = None) -> str | None:
    """Why the last turn of an agent loop cannot be told, in one line; None where it can.

    Args:
        loop: an agent loop that rows name (column `agent_name`); None: that of the config.
    """
    if settings.turns != "auto":
        return None
    key, named = ("column agent_name", loop) if loop is not None else (f"{_AGENT}.default_agent_loop", None)
    manager = str(OmegaConf.select(config, f"{_AGENT}.agent_loop_manager_class") or "")
    if named is None and manager and not manager.startswith(("verl.", "verl_visionr1.")):
        key, named = f"{_AGENT}.agent_loop_manager_class", manager
    named = agent_loop_of(config) if named is None else named
    if named in (SINGLE_TURN, TOOL_AGENT):
        return None
    return f"{key}={named}: the reward cannot tell the model's words from those of tools and users; {_advice(named)}"


def _advice(loop: str) -> str:
    return (
        f"set {PREFIX}.turns to template ({loop} writes each turn with the chat template), mask (it puts its "
        f"response_mask into extra_fields[{MASK_KEY!r}]) or whole (its responses are the model's own words alone)"
    )


def _boundary(config: DictConfig, tokenizer: Any) -> tuple[int, ...]:
    """The tokens with which the chat template begins an answer, without `<think>`; empty where it hides them."""
    apply = getattr(tokenizer, "apply_chat_template", None)
    if apply is None:
        return ()
    given = OmegaConf.select(config, "data.apply_chat_template_kwargs")
    plain = OmegaConf.to_container(given, resolve=True) if isinstance(given, DictConfig) else {}
    kwargs = {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}
    question = [{"role": "user", "content": "?"}]
    try:
        asked = apply(question, tokenize=False, add_generation_prompt=False, **kwargs)
        prompt = apply(question, tokenize=False, add_generation_prompt=True, **kwargs)
    except Exception:  # noqa: BLE001 - no template, or one that wants more than a question
        return ()
    header = prompt[len(asked) :] if prompt.startswith(asked) else ""
    for opening in _OPENINGS:
        header = header.partition(opening)[0]
    return tuple(tokenizer.encode(header.rstrip(), add_special_tokens=False)) if header.strip() else ()
