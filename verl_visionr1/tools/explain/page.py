"""An `Explanation` as text for a terminal; control characters of the model's text are escaped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from verl_visionr1.tools.explain.diagnosis.base import iou_text, plural
from verl_visionr1.tools.explain.diagnosis.verdicts import Verdict
from verl_visionr1.tools.explain.explanation import Explanation

SHOWN_REASONING, SHOWN_ANSWER, SHOWN_ROWS, SHOWN_DROPPED = 400, 3000, 30, 10
"""Most characters of reasoning and answer, rows of a table, and unread pieces that are shown."""
STYLES = {
    "match": "green",
    "below threshold": "yellow",
    "wrong label": "magenta",
    "duplicate": "cyan",
    "junk": "red",
    "outside": "red",
    "missed": "red",
    "ignored": "dim",
}


def page_of(explanation: Explanation) -> Iterator[RenderableType]:
    """The parts of the page, top to bottom; the first is one line: the cause."""
    yield Text(visible(str(explanation.cause), one_line=True), style="bold", no_wrap=True, overflow="ignore")
    yield from _others(explanation)
    yield from _text(explanation)
    yield from _conversion(explanation)
    yield from _matches(explanation)
    yield from _criteria(explanation)


def visible(text: str, *, one_line: bool = False) -> str:
    r"""Escape everything in a model's text that could control a terminal; line breaks stay unless `one_line`.

    >>> visible("a\x1b[31mb\u202e\ud800c\td")
    'a\\x1b[31mb\\u202e\\ud800c    d'
    """
    if text.isprintable():
        return text
    keep = "" if one_line else "\n"
    return "".join(
        char if char.isprintable() or char in keep else "    " if char == "\t" else _spelled(char) for char in text
    )


def _spelled(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode()


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold blue")


def _others(explanation: Explanation) -> Iterator[RenderableType]:
    exam = explanation.exam
    yield Text(f"reward {_number(explanation.value)} of {_number(exam.full)}   preset {visible(exam.preset.name)}")
    others = [finding for finding in explanation.findings if finding != explanation.cause]
    if others:
        yield _heading("also found (what it costs)")
        for finding in others[:10]:
            yield Text(f"  {_number(finding.gain)}  {visible(str(finding), one_line=True)}")


def _text(explanation: Explanation) -> Iterator[RenderableType]:
    text, exam = explanation.text, explanation.exam
    read = f"{text.n_read} read, {text.n_dropped} not read" if text.pieces or text.n_read else ""
    if exam.target.task == "counting":
        read = f"count {exam.answer.stated_count:g}" if exam.answer.is_parsed else "no count"
    words = visible(exam.answer.text, one_line=True)[:200] if exam.target.task == "text" else ""
    yield _heading(
        f"text ({plural(len(exam.completion), 'character')}; {exam.preset.answer_format}: {read or repr(words)})"
    )
    yield _marked(explanation)
    if text.stopped_at is not None:
        yield Text(f"  reading stopped at character {text.stopped_at} of {len(exam.completion)}: the answer is cut off")
    dropped = [(number, piece) for number, piece in enumerate(text.pieces, 1) if not piece.is_read]
    for number, piece in dropped[:SHOWN_DROPPED]:
        yield Text(f"  object {number} not read: {visible(piece.why_not, one_line=True)}", style="red")
    if len(dropped) > SHOWN_DROPPED:
        yield Text(f"  ... and {len(dropped) - SHOWN_DROPPED} more not read", style="red")
    for name, words, fix in text.defects:
        yield Text(f"  defect {name}: {words.partition(': ')[2] or words}{f' -> {fix}' if fix else ''}")


def _marked(explanation: Explanation) -> Text:
    """The text in colours: reasoning dim, read parts green, dropped parts red."""
    text, completion = explanation.text, explanation.exam.completion
    start = max(0, text.answer_start - SHOWN_REASONING)
    end = min(len(completion), text.answer_start + SHOWN_ANSWER)
    shown = Text(f"... ({start} characters before) ...\n" if start else "", style="")
    shown.append(visible(completion[start : text.answer_start]), style="dim")
    position = text.answer_start
    for piece in text.pieces:
        if piece.end > end:
            break
        shown.append(visible(completion[position : piece.start]))
        shown.append(visible(completion[piece.start : piece.end]), style="green" if piece.is_read else "red")
        position = piece.end
    shown.append(visible(completion[position:end]))
    if end < len(completion):
        shown.append(f"\n... ({len(completion) - end} more characters)")
    return shown if shown.plain else Text("(no text)", style="dim")


def _conversion(explanation: Explanation) -> Iterator[RenderableType]:
    conversion = explanation.conversion
    if conversion is None:
        return
    yield _heading("coordinates")
    (frame_w, frame_h), (width, height) = conversion.frame_wh, conversion.original_wh
    yield Text(f"  frame {conversion.frame} ({conversion.meaning}): the image is {frame_w:g} x {frame_h:g}")
    factor_x, factor_y = conversion.factors_xy
    yield Text(f"  original image {width} x {height} px: x times {factor_x:.6g}, y times {factor_y:.6g}")
    if conversion.first is not None:
        before, after = (", ".join(map(_coordinate, place)) for place in conversion.first)
        yield Text(f"  first {'box' if len(conversion.first[0]) == 4 else 'point'}: {before} -> {after} px")


def _matches(explanation: Explanation) -> Iterator[RenderableType]:
    predictions, objects = explanation.predictions, explanation.objects
    if not predictions and not objects:
        return
    yield _heading("predictions and objects (original pixels)")
    is_points = any(len(verdict.place) == 2 for verdict in predictions)
    table = _table("#", "label", "place", "object", "its label", "off by px" if is_points else "IoU", "counted as")
    for verdict in _of_interest(predictions):
        labels = explanation.exam.target.labels
        label = labels[verdict.target] if verdict.target is not None and labels else ""
        counted = verdict.counted_as + (f" of {verdict.repeats + 1}" if verdict.repeats is not None else "")
        number = "" if verdict.target is None else str(verdict.target + 1)
        shown = _coordinate if is_points else iou_text
        overlap = "" if verdict.overlap is None else shown(verdict.overlap)
        _row(
            table,
            [str(verdict.index + 1), verdict.label, _place(verdict.place), number, label, overlap, counted],
            STYLES.get(verdict.counted_as, ""),
        )
    if explanation.text.n_dropped:
        _row(table, ["-", "", "", "", "", "", f"not read: {explanation.text.n_dropped}, counted as wrong"], "red")
    missed = [fate for fate in objects if fate.counted_as == "missed"]
    for fate in missed[:SHOWN_ROWS]:
        _row(table, ["", "", _place(fate.place), str(fate.index + 1), fate.label, "", "missed"], STYLES["missed"])
    yield table
    for shown, what in ((predictions, "predictions"), (missed, "missed objects")):
        if len(shown) > SHOWN_ROWS:
            yield Text(f"  ... and {len(shown) - SHOWN_ROWS} more {what}")


def _of_interest(predictions: Sequence[Verdict]) -> list[Verdict]:
    """At most `SHOWN_ROWS` in order; kept first: those compared with an object, then repeats, then junk."""
    later = {"duplicate": 1, "ignored": 2, "junk": 3}
    chosen = sorted(predictions, key=lambda verdict: later.get(verdict.counted_as, 0))[:SHOWN_ROWS]
    return sorted(chosen, key=lambda verdict: verdict.index)


def _criteria(explanation: Explanation) -> Iterator[RenderableType]:
    exam, thresholds = explanation.exam, explanation.exam.thresholds
    yield _heading("criteria")
    table = _table("criterion", "weight", "value", "part", "looks at")
    for part in explanation.parts:
        _row(table, [part.name, f"{part.weight:g}", _number(part.value), _number(part.share), part.about], "")
    yield table
    summands = [f"{part.weight:g} x {_number(part.value)}" for part in explanation.parts if part.weight]
    over = "" if exam.preset.divisor == 1.0 else f" / {exam.preset.divisor:g}"
    total = " + ".join(summands)
    yield Text(
        f"  reward = {f'({total})' if over and len(summands) > 1 else total}{over} = {_number(explanation.value)}"
    )
    when = [] if explanation.progress is None else [f"progress {explanation.progress:g}"]
    when += ["no schedule: base thresholds" if explanation.stage < 0 else f"stage {explanation.stage}"]
    unused = "" if "thresholds" in exam.preset.looks_at else ", not used by this preset"
    yield Text(
        f"  thresholds ({', '.join(when)}{unused}): a match from IoU {thresholds.match_iou:g}; "
        f"recall {thresholds.recall_floor:g} to {thresholds.recall_full:g}; "
        f"IoU {thresholds.iou_floor:g} to {thresholds.iou_full:g}"
    )
    common = [
        f"{name} {_number(number)}" for name, number in explanation.metrics.items() if name not in exam.preset.weights
    ]
    yield Text(f"  {', '.join(common)}")


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=True, header_style="dim")
    for heading in headings:
        table.add_column(heading, overflow="fold", min_width=min(len(heading), 6))
    return table


def _row(table: Table, cells: Sequence[str], style: str) -> None:
    table.add_row(*(Text(visible(cell, one_line=True)[:200]) for cell in cells), style=style)


def _number(number: float) -> str:
    return f"{number:.3f}" if abs(number) < 1e6 else f"{number:.3g}"


def _coordinate(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0") if abs(number) < 1e7 else f"{number:.3g}"


def _place(place: Sequence[float]) -> str:
    return ", ".join(map(_coordinate, place))
