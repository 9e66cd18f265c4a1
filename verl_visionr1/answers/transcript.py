"""Finds the model's answer in a completion: its last turn, without tool calls, after its reasoning.

A completion of several turns also contains the text of tools and users. In training, where the tokens are known,
`plugin.turns` splits them exactly. This module splits the text of dumps, with or without special tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Reasoning = Literal["auto", "opened", "closed"]
"""Whether the prompt opens the reasoning: "auto" reads the prompt's end."""
THINK, _END_THINK = "<think>", "</think>"
REASONING_TAGS = (
    *((f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "reasoning")),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),  # Kimi-VL
    ("<|channel>", "<channel|>"),  # Gemma 4
)
"""Tags around reasoning. A chat template may open it in the prompt: then the model writes only the closing tag."""
_END_REASONING = tuple(closing for _, closing in REASONING_TAGS)
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message that a server uses for reasoning."""
TOOL_CALLS = (
    *((f"<{name}>", f"</{name}>") for name in ("tool_call", "tool_calls", "function_call")),
    ("<|tool_call>", "<tool_call|>"),  # Gemma 4
    ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),  # Kimi
    ("<|action_start|>", "<|action_end|>"),  # InternLM
    ("<|python_tag|>", "<|eom_id|>"),  # Llama
)
"""Tags around a call of a tool. It is no answer, even if it contains boxes."""
TOOL_RESPONSES = (
    *(
        (f"<{name}>", f"</{name}>")
        for name in ("tool_response", "tool_responses", "tool_output", "tool_result", "function_response")
    ),
    *((f"<{name}>", f"</{name}>") for name in ("observation", "information", "interpreter")),
    ("<|tool_response>", "<tool_response|>"),  # Gemma 4
)
"""Tags around the response of a tool."""

# The header of a turn in the usual chat templates, with its role. Cannot backtrack: every gap is bounded.
_HEADER = re.compile(
    r"<\|im_start\|>\s{0,3}(\w{1,20})"  # ChatML: Qwen, InternVL
    r"|<\|im_(assistant|user|system)\|>[^<]{0,40}<\|im_middle\|>"  # Kimi
    r"|<\|(assistant|user|observation|system|tool)\|>"  # GLM
    r"|<start_of_turn>(\w{1,20})|<\|turn>(\w{1,20})"  # Gemma
    r"|<\|start_header_id\|>(\w{1,20})<\|end_header_id\|>"  # Llama
)
# Checked first: one scan suffices for nearly all texts. A pattern that begins with one character scans fast.
_MARK = re.compile(
    r"<(?:\||/?(?:tool|function_|observation>|information>|interpreter>)|(?:start|end)_of_turn>|turn\|>)"
)
_TURN_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<turn|>")
_OTHER_REASONING = re.compile(r"</?(?:thinking|thought|reasoning)>|<\|channel>|<channel\|>")
_MODEL = ("assistant", "model")
_MODEL_LINES = tuple(f"\n{role}\n" for role in _MODEL)
_OTHERS = ("user", "tool", "observation")
_OTHER_LINES = tuple(f"{role}\n" for role in _OTHERS)
_SPEAKER_LINE = re.compile(r"\s{0,9}(?:<\|im_end\|>)?\s{0,9}(?:(assistant|model)[ \t]{0,3}(?:\n|$))?")


def last_turn(text: str) -> str:
    """Return the model's text in its last turn, without tool calls; "" if another role has the last turn. Linear time.

    Turns end at the headers of the usual chat templates and at the response of a tool (`TOOL_RESPONSES`). Without
    special tokens they end at a line "assistant" that follows a line "user", "tool" or "observation".
    """
    if "<" not in text and "\n" not in text:
        return text
    has_tags = "<" in text and _MARK.search(text) is not None
    if has_tags:
        text = _after_responses(_after_headers(text))
    for line in _MODEL_LINES:
        at = text.rfind(line)
        if at >= 0 and any(_has_line(text, other, at) for other in _OTHER_LINES):
            text = text[at + len(line) :]
    return _without_end(_without(text, TOOL_CALLS)) if has_tags else text


def _without_end(text: str) -> str:
    """Remove the tokens that end the turn."""
    end = len(text)
    while True:
        last = end
        while last and text[last - 1].isspace():
            last -= 1
        token = next((token for token in _TURN_ENDS if text.endswith(token, 0, last)), None)
        if token is None:
            return text[:end]
        end = last - len(token)


def _after_headers(text: str) -> str:
    """Return the text after the last turn's header; a header without text only ends the previous turn."""
    end, last = len(text), None
    length = len(text.rstrip())
    for header in _HEADER.finditer(text):
        if header.end() >= length:
            end = header.start()
            break
        last = header
    if last is None:
        return text[:end]
    return text[last.end() : end] if next(filter(None, last.groups()), "") in _MODEL else ""


def _after_responses(text: str) -> str:
    closed = _end_of_last(text, [closing for _, closing in TOOL_RESPONSES])
    begin = _first(text, [opening for opening, _ in TOOL_RESPONSES], closed)
    if begin >= 0 and _is_mention(text, begin):
        begin = _first(text, [opening for opening, _ in TOOL_RESPONSES], _end_of_last(text, _END_REASONING))
    if begin >= 0:
        return ""
    if not closed:
        return text
    speaker = _SPEAKER_LINE.match(text, closed)
    rest = text[speaker.end() if speaker else closed :]
    if speaker is not None and speaker[1]:
        return rest
    # The model continues in the same turn, and in its reasoning if that is still open.
    before = _without(text[:closed], TOOL_RESPONSES)
    return THINK + rest if reasoning_end(before) is None else rest


def _first(text: str, tags: Sequence[str], begin: int) -> int:
    """Return the index of the first of some tags; -1 if there is none."""
    return min([at for tag in tags if (at := text.find(tag, begin)) >= 0], default=-1)


def _is_mention(text: str, at: int) -> bool:
    """Whether a tag that is never closed is in reasoning that ends after it: the model only mentions the tag."""
    is_reasoning_closed = _first(_without(text[at:], TOOL_CALLS), _END_REASONING, 0) >= 0
    if not is_reasoning_closed or text[:at].rstrip().endswith(_OTHERS):
        return False
    before = text[:at]
    return reasoning_end(before) is None or _first(before, _END_REASONING, 0) < 0


def _has_line(text: str, line: str, end: int) -> bool:
    return text.startswith(line) or text.find(f"\n{line}", 0, end + 1) >= 0


def _without(text: str, tags: Sequence[tuple[str, str]]) -> str:
    """Remove the text between some tags."""
    for opening, closing in tags:
        if opening in text:
            before, *others = text.split(opening)
            text = before + "".join([_after(other, closing) for other in others])
    return text


def _after(text: str, closing: str) -> str:
    _, found, rest = text.rpartition(closing)
    if found:
        return rest
    at = _first(text, _END_REASONING, 0)
    return text[at:] if at >= 0 else ""


def _end_of_last(text: str, tags: Sequence[str]) -> int:
    """Return the end of the last of some tags; 0 if there is none."""
    return max([at + len(tag) for tag in tags if (at := text.rfind(tag)) >= 0], default=0)


def reasoning_end(text: str) -> int | None:
    """Return where the reasoning ends and the answer starts: 0 without reasoning, None if it is never closed.

    Reasoning may be opened in the prompt, and more than once. Reasoning after the last closing tag is cut off.
    """
    if "<" not in text and "\u25c1" not in text:
        return 0
    if "\u25c1" in text or _OTHER_REASONING.search(text) is not None:
        end = _end_of_last(text, [closing for _, closing in REASONING_TAGS])
        is_open = any(text.find(opening, end) >= 0 for opening, _ in REASONING_TAGS)
    else:
        end = text.rfind(_END_THINK)
        end = end + len(_END_THINK) if end >= 0 else 0
        is_open = text.find(THINK, end) >= 0
    return None if is_open else end


def opens_reasoning(prompt: str) -> bool:
    """Whether a prompt ends inside reasoning that its chat template opened, so that the model only closes it."""
    return prompt[-64:].rstrip().endswith(tuple(opening for opening, _ in REASONING_TAGS))


def is_reasoning_opened(reasoning: Reasoning, prompt: str | None) -> bool:
    """Whether a completion begins inside the reasoning; "auto" without a prompt means it does not."""
    return opens_reasoning(prompt or "") if reasoning == "auto" else reasoning == "opened"


def spoken_text(completion: str, *, reasoning_opened: bool = False) -> str:
    """Return the model's last turn as it is scored, with `<think>` before it if the prompt opens the reasoning."""
    turn = last_turn(completion)
    if not reasoning_opened or turn.lstrip().startswith(tuple(opening for opening, _ in REASONING_TAGS)):
        return turn
    return THINK + turn


def turn_text(turn: Any) -> str:
    """Return the text of a turn: a plain text, or a message whose content may be a list of parts."""
    content: Any = turn.get("content") if isinstance(turn, Mapping) else turn  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    parts: Any = content if isinstance(content, list) else [content]  # pyright: ignore[reportUnknownVariableType]
    texts: list[Any] = [part.get("text") if isinstance(part, Mapping) else part for part in parts]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return "".join([text for text in texts if isinstance(text, str)])


def answer_text(completion: Any) -> str:
    """Return the model's last turn in a text or a list of messages; "" if another role has the last turn.

    If the reasoning is in a field of its own, it ends where the content begins.
    """
    if isinstance(completion, str):
        return completion
    last: Any = completion[-1] if completion else {}
    if last.get("role") != "assistant":
        return ""
    return (_END_THINK if any(map(last.get, REASONING_FIELDS)) else "") + turn_text(last)
