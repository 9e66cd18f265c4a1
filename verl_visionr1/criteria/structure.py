"""Criteria of the text's structure: templates, length, repetition.

Templates are 1.0 or 0.0. Length and repetition read at most `MAX_CHARS` of a text; all take linear time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

from verl_visionr1.answers import MAX_CHARS


def think_answer(completion: str) -> float:
    """1.0 iff the text is `<think>...</think>` then `<answer>...</answer>`: each tag once, only blanks around them.

    Neither part may be blank. If the prompt opens the reasoning, `completion` begins with that `<think>`.
    """
    reasoned, rest = _reasoning(completion)
    tags_once = rest.count("<answer>") == rest.count("</answer>") == 1
    is_wrapped = rest.startswith("<answer>") and rest.endswith("</answer>")
    answer = rest[len("<answer>") : -len("</answer>")]
    return 1.0 if reasoned and tags_once and is_wrapped and answer.strip() else 0.0


def think_answer_glm(completion: str) -> float:
    """1.0 iff the text is `<think>...</think>` and then an answer in the form of the GLM-4.xV models, else 0.0.

    The answer is plain text, one closed `<answer>` without text around it, or text with one closed
    `<|begin_of_box|>...<|end_of_box|>`. Neither reasoning nor answer may be blank.
    """
    reasoned, rest = _reasoning(completion)
    if not reasoned or not rest:
        return 0.0
    if "<answer>" in rest or "</answer>" in rest:
        return think_answer(completion)
    n_open, n_closed = rest.count(_BOX[0]), rest.count(_BOX[1])
    if not n_open and not n_closed:
        return 1.0
    start, end = rest.find(_BOX[0]) + len(_BOX[0]), rest.find(_BOX[1])
    return 1.0 if n_open == n_closed == 1 and rest[start:end].strip() else 0.0


_BOX = ("<|begin_of_box|>", "<|end_of_box|>")


def _reasoning(completion: str) -> tuple[bool, str]:
    """Return whether a text begins with one closed, non-blank reasoning, and the stripped text after it."""
    text = completion.strip()
    if not text.startswith("<think>") or text.count("<think>") != 1 or text.count("</think>") != 1:
        return False, ""
    reasoning, _, rest = text[len("<think>") :].partition("</think>")
    has_answer_inside = "<answer>" in reasoning or "</answer>" in reasoning
    return bool(reasoning.strip()) and not has_answer_inside, rest.strip()


def cosine_length(
    n_tokens: int,
    accuracy: float,
    max_tokens: int | None,
    *,
    budget: int | None = None,
    long_right: float = 0.5,
    long_wrong: float = 0.25,
) -> float:
    """Half a cosine of the length: short right answers and long wrong answers earn more (arXiv 2502.03373).

    A right answer earns 1 at length 0 and `long_right` from the budget on. A wrong one earns 0 at length 0 and
    `long_wrong` from the budget on (0: its length has no effect). Partly right answers are interpolated by accuracy.

    Args:
        n_tokens, accuracy, max_tokens: fields of `CriterionInput`.
        budget: length in tokens at which the cosine ends; None: `max_tokens`.
        long_right, long_wrong: 0 <= long_wrong <= long_right <= 1, so that a wrong answer never earns more.

    Raises:
        ValueError: no positive budget, or bounds out of order.
    """
    if not 0.0 <= long_wrong <= long_right <= 1.0:
        raise ValueError(
            f"cosine_length: long_wrong = {long_wrong!r}, long_right = {long_right!r}: "
            "needs 0 <= long_wrong <= long_right <= 1"
        )
    share = min(1.0, max(0.0, n_tokens / _budget("cosine_length", budget, max_tokens)))
    shortness = (1.0 + math.cos(math.pi * share)) / 2.0
    right = long_right + (1.0 - long_right) * shortness
    wrong = long_wrong * (1.0 - shortness)
    return accuracy * right + (1.0 - accuracy) * wrong


def overlong(n_tokens: int, max_tokens: int | None, *, budget: int | None = None, buffer: int | None = None) -> float:
    """DAPO's soft overlong punishment (arXiv 2503.14476, Eq. 13) plus 1, so that it is in [0, 1].

    1 up to budget - buffer, then falling linearly to 0 at the budget, 0 beyond it.

    Args:
        n_tokens, max_tokens: fields of `CriterionInput`.
        budget: the longest allowed length in tokens; None: `max_tokens`.
        buffer: length of the slope in tokens; None: a fifth of the budget, as in the paper.

    Raises:
        ValueError: no positive budget, or a buffer outside (0, budget].
    """
    longest = _budget("overlong", budget, max_tokens)
    slope = longest / 5.0 if buffer is None else float(buffer)
    if not 0.0 < slope <= longest:
        raise ValueError(f"overlong: buffer = {buffer!r}: must be greater than 0 and at most the budget, {longest}")
    return min(1.0, max(0.0, (longest - n_tokens) / slope))


def _budget(criterion: str, budget: int | None, max_tokens: int | None) -> int:
    longest = max_tokens if budget is None else budget
    if longest is None or longest <= 0:
        raise ValueError(
            f"{criterion}: budget = {budget!r}, max_tokens = {max_tokens!r}: needs a positive number of tokens; "
            "set the option budget, or give max_tokens"
        )
    return longest


def no_repetition(completion: str, *, n: int = 6) -> float:
    """Share of the text's word n-grams that are distinct, in (0, 1]; 1.0 for fewer than n words.

    Words are separated by blanks and compared without case.

    Raises:
        ValueError: n below 1.
    """
    if n < 1:
        raise ValueError(f"no_repetition: n = {n!r}: needs a whole number of at least 1")
    words = completion[:MAX_CHARS].lower().split()
    return distinct_share(list(zip(*(words[i:] for i in range(n)), strict=False)))


def distinct_share(items: Sequence[Hashable]) -> float:
    """Share of distinct items; 1.0 for none."""
    return len(set(items)) / len(items) if items else 1.0


CRITERIA: tuple[Callable[..., float], ...] = (
    think_answer,
    think_answer_glm,
    cosine_length,
    overlong,
    no_repetition,
)
"""Criteria for presets."""
