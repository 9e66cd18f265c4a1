"""Where each token of an answer starts in its text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
"""Token ids -> text, without special tokens."""
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""What a decoder writes for bytes that are no whole character (yet)."""


def token_starts(decode: Decode, token_ids: Sequence[int]) -> tuple[int, ...]:
    """The character at which each token starts in `decode(token_ids)`.

    Tokens of a byte-level vocabulary may be pieces of one character: all of them start where it starts. Tokens that the
    text leaves out, such as that of the end of a turn, start where the next character would.

    Returns:
        n numbers, none smaller than the one before.

    >>> words = ["Ca", b"\\xc3", b"\\xa9", "!", ""]
    >>> text = lambda ids: b"".join(w if isinstance(w := words[i], bytes) else w.encode() for i in ids)
    >>> token_starts(lambda ids: text(ids).decode(errors="replace"), [0, 1, 2, 3, 4])
    (0, 2, 2, 3, 4)
    """
    starts: list[int] = []
    pieces: list[str] = []
    n_done = first = 0  # characters that are whole, and the first token after them
    for i in range(len(token_ids)):
        starts.append(n_done)
        piece = decode(token_ids[first : i + 1])
        if not piece.endswith(INCOMPLETE):
            pieces.append(piece)
            n_done += len(piece)
            first = i + 1
    if "".join(pieces) + decode(token_ids[first:]) == decode(token_ids):
        return tuple(starts)
    # A decoder to which a token means something else at the start of a text (SentencePiece drops a space there).
    return _starts_of_prefixes(decode, token_ids)


def _starts_of_prefixes(decode: Decode, token_ids: Sequence[int]) -> tuple[int, ...]:
    starts: list[int] = []
    for i in range(len(token_ids)):
        n_done = len(decode(token_ids[:i]).rstrip(INCOMPLETE))
        starts.append(max(n_done, starts[-1] if starts else 0))
    return tuple(starts)
