"""Find the model's last turn in a response, and whether the prompt opened its reasoning.

verl passes the tokens of all turns to the reward, including those of tools and users, but not the mask that
distinguishes them. verl's own loops write every turn with the chat template: the last one follows the last generation
prompt. For other loops, the setting `turns` is needed, or the loop's mask.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.answers.transcript import (
    REASONING_TAGS,
    TOOL_CALLS,
    TOOL_RESPONSES,
    Reasoning,
    opens_reasoning,
)
from verl_visionr1.plugin.config import PREFIX, ConfigError, Settings, TurnRule

SINGLE_TURN, TOOL_AGENT = "single_turn_agent", "tool_agent"
"""verl's own agent loops, whose turns are known."""
MASK_KEY = "response_mask"
"""Key of a loop's `extra_fields`, or of the batch, with 1 for each token of the model."""
N_TURNS_KEY = "__num_turns__"
EXTRA_KEY = "tool_extra_fields"
_AGENT = "actor_rollout_ref.rollout.agent"
_ONE_QUESTION = 2  # `AgentLoopOutput.num_turns` of a prompt and one answer
TAIL = 16
"""Tokens before a turn that are read: a role, and `<think>`."""
_MARKS = {tag for pair in (*REASONING_TAGS, *TOOL_CALLS, *TOOL_RESPONSES) for tag in pair}


class TurnsError(ValueError):
    """The last turn of a response is unknown; the message names the setting."""


@dataclass(frozen=True, slots=True)
class Turns:
    """Finds the last turn of a response.

    Attributes:
        rule, reasoning: see `Settings`; "auto" means verl's own loops here.
        boundary: tokens before an answer in the chat template; empty if unknown.
        decode: tokens -> text, special tokens kept.
        response_end: tokens after the response of a tool within the model's turn (Gemma 4), whose text `last_turn`
            of `answers.transcript` cuts; empty if the template has none.
    """

    rule: TurnRule
    boundary: tuple[int, ...]
    decode: Callable[[Sequence[int]], str]
    reasoning: Reasoning = "auto"
    response_end: tuple[int, ...] = ()
    _opens: Callable[[tuple[int, ...]], bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        opens = lru_cache(maxsize=256)(lambda tail: opens_reasoning(self.decode(list(tail))))
        object.__setattr__(self, "_opens", opens)

    def last_turn(
        self, ids: Sequence[int], row: Mapping[str, Any], mask: Sequence[int] | None = None
    ) -> tuple[int, int]:
        """Find the model's last turn in a response: `ids[start:end]`.

        Args:
            ids: the response, without padding.
            row: with `N_TURNS_KEY` and `EXTRA_KEY`, if the batch has them.
            mask: 1 for each token of the model, if the batch has it.

        Raises:
            TurnsError: several turns that cannot be distinguished.
        """
        if mask is None:
            extra = row.get(EXTRA_KEY)
            mask = extra.get(MASK_KEY) if isinstance(extra, Mapping) else None
        if mask is not None:
            return _last_run(mask, len(ids))
        if self.rule == "mask":
            raise TurnsError(f"{PREFIX}.turns=mask: the agent loop does not return extra_fields[{MASK_KEY!r}]")
        n_turns = int(row.get(N_TURNS_KEY) or 0)
        if self.rule == "whole" or (self.rule == "auto" and n_turns <= _ONE_QUESTION):
            return 0, len(ids)
        at = _rfind(ids, self.boundary) if self.boundary else -1
        is_one = n_turns <= _ONE_QUESTION or (bool(self.response_end) and _rfind(ids, self.response_end) >= 0)
        if at < 0 and not is_one:
            raise TurnsError(
                f"a response of {n_turns} turns without a generation prompt of the chat template: the model's "
                f"last turn is unknown; {_advice('the agent loop')}"
            )
        return (0 if at < 0 else at + len(self.boundary)), len(ids)

    def is_reasoning_opened(self, before: Sequence[int]) -> bool:
        """Whether the tokens before a turn (its prompt) end inside reasoning opened by the chat template."""
        if self.reasoning != "auto":
            return self.reasoning == "opened"
        return self._opens(tuple(before[-TAIL:]))


def _last_run(mask: Sequence[int], n_tokens: int) -> tuple[int, int]:
    """Start and end of the model's last run of tokens."""
    end = min(len(mask), n_tokens)
    while end and not mask[end - 1]:
        end -= 1
    start = end
    while start and mask[start - 1]:
        start -= 1
    return start, end


def _rfind(ids: Sequence[int], boundary: tuple[int, ...]) -> int:
    """Last index of `boundary` in `ids`; -1 if missing."""
    n = len(boundary)
    for at in range(len(ids) - n, -1, -1):
        if ids[at] == boundary[0] and tuple(ids[at : at + n]) == boundary:
            return at
    return -1


def turns_of(config: DictConfig, settings: Settings, tokenizer: Any) -> Turns:
    """Make the `Turns` of a run.

    Raises:
        ConfigError: an agent loop with unknown turns, or a chat template without a visible generation prompt.
    """
    problem = turns_problem(config, settings)
    if problem:
        raise ConfigError(problem)
    boundary = _boundary(config, tokenizer)
    loop = agent_loop_of(config)
    if not boundary and (settings.turns == "template" or (settings.turns == "auto" and loop == TOOL_AGENT)):
        raise ConfigError(
            f"{PREFIX}.turns={settings.turns}: the tokenizer's chat template has no visible generation prompt, and "
            f"the agent loop {loop!r} may take several turns; {_advice('the agent loop')}"
        )

    def decode(ids: Sequence[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=False)

    return Turns(settings.turns, boundary, decode, settings.reasoning, _response_end(tokenizer))


def plain_decoder(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    """Make a decoder that drops special tokens, except those of reasoning, tool calls and tool responses.

    In some vocabularies (Gemma 4, Kimi) these are special; without them reasoning would be read as the answer.
    """
    special = {str(token) for token in _added_tokens(tokenizer) if token.special}
    special |= {*map(str, getattr(tokenizer, "all_special_tokens", ()))}
    if not special & _MARKS:
        return lambda ids: tokenizer.decode(ids, skip_special_tokens=True)
    dropped = re.compile("|".join(map(re.escape, sorted(special - _MARKS, key=len, reverse=True))) or "(?!)")
    return lambda ids: dropped.sub("", tokenizer.decode(ids, skip_special_tokens=False))


def _added_tokens(tokenizer: Any) -> list[Any]:
    return [*getattr(tokenizer, "added_tokens_decoder", {}).values()]


def _response_end(tokenizer: Any) -> tuple[int, ...]:
    known = {*map(str, _added_tokens(tokenizer))}
    closing = next((closing for _, closing in TOOL_RESPONSES if closing in known), None)
    return tuple(tokenizer.encode(closing, add_special_tokens=False)) if closing else ()


def turns_problem(config: DictConfig, settings: Settings, loop: str | None = None) -> str | None:
    """Why the last turn of an agent loop is unknown, in one line; None if it is known.

    Args:
        loop: agent loop of rows (column `agent_name`); None: that of the config.
    """
    key, manager = "column agent_name", OmegaConf.select(config, f"{_AGENT}.agent_loop_manager_class")
    if loop is None and manager and not str(manager).startswith(("verl.", "verl_visionr1.")):
        key, loop = f"{_AGENT}.agent_loop_manager_class", str(manager)
    elif loop is None:
        key, loop = f"{_AGENT}.default_agent_loop", agent_loop_of(config)
    if settings.turns != "auto" or loop in (SINGLE_TURN, TOOL_AGENT):
        return None
    return f"{key}={loop}: the reward cannot distinguish the model's text from that of tools and users; {_advice(loop)}"


def agent_loop_of(config: DictConfig) -> str:
    """The default agent loop."""
    return str(OmegaConf.select(config, f"{_AGENT}.default_agent_loop") or SINGLE_TURN)


def _advice(loop: str) -> str:
    return (
        f"set {PREFIX}.turns to template ({loop} writes each turn with the chat template), mask (it puts its "
        f"response_mask into extra_fields[{MASK_KEY!r}]) or whole (its responses have only the model's text)"
    )


def _boundary(config: DictConfig, tokenizer: Any) -> tuple[int, ...]:
    """The chat template's tokens before an answer, without `<think>`; empty if unknown."""
    apply = getattr(tokenizer, "apply_chat_template", None)
    if apply is None:
        return ()
    given = OmegaConf.select(config, "data.apply_chat_template_kwargs")
    kwargs: Any = OmegaConf.to_container(given, resolve=True) if isinstance(given, DictConfig) else {}
    question = [{"role": "user", "content": "?"}]
    try:
        asked = apply(question, tokenize=False, add_generation_prompt=False, **kwargs)
        prompt = apply(question, tokenize=False, add_generation_prompt=True, **kwargs)
    except Exception:  # noqa: BLE001 - no template, or one that needs more than a question
        return ()
    header = prompt[len(asked) :] if prompt.startswith(asked) else ""
    for opening, _ in REASONING_TAGS:
        header = header.partition(opening)[0]
    return tuple(tokenizer.encode(header.rstrip(), add_special_tokens=False)) if header.strip() else ()
