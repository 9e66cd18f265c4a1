"""An `Explanation` as text for a terminal; control characters of the model's text are escaped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from verl_visionr1.rollouts.dumps import visible
from verl_visionr1.tools.explain.diagnosis.base import iou_text, plural
from verl_visionr1.tools.explain.diagnosis.verdicts import Verdict
from verl_visionr1.tools.explain.explanation import Explanation

SHOWN_REASONING, SHOWN_ANSWER, SHOWN_ROWS, SHOWN_DROPPED = 400, 3000, 30, 10
"""Most characters of reasoning and answer, rows of a table, and unread pieces that are shown."""
ESCAPED = "\\n"
"""A line break in a text that is shown on one line."""
STYLES = {
    "match": "green",
    "below threshold": "yellow",
    "wrong label": "magenta",
    "duplicate": "cyan",
    "junk": "red",
    "outside": "red",
    "ignored": "dim",
}


def page_of(explanation: Explanation) -> Iterator[RenderableType]:
    """The parts of the page, top to bottom; the first is one line: the cause."""
    yield Text(visible(str(explanation.cause), newline=ESCAPED), style="bold", no_wrap=True, overflow="ignore")
    exam = explanation.exam
    yield Text(f"reward {_number(explanation.value)} of {_number(exam.full)}   preset {visible(exam.preset.name)}")
    others = [finding for finding in explanation.findings if finding != explanation.cause]
    if others:
        yield _heading("also found (what it costs)")
    for finding in others[:10]:
        yield Text(f"  {_number(finding.gain)}  {visible(str(finding), newline=ESCAPED)}")
    yield from _text(explanation)
    yield from _conversion(explanation)
    yield from _matches(explanation)
    yield from _criteria(explanation)


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold blue")


def _text(explanation: Explanation) -> Iterator[RenderableType]:
    text, exam = explanation.text, explanation.exam
    if exam.target.task == "counting":
        read = f"count {exam.answer.stated_count:g}" if exam.answer.is_parsed else "no count"
    elif exam.target.task == "text":
        read = repr(visible(exam.answer.text, newline=ESCAPED)[:200])
    else:
        read = f"{text.n_read} read, {text.n_dropped} not read"
    yield _heading(f"text ({plural(len(exam.completion), 'character')}; {exam.preset.answer_format}: {read})")
    yield _marked(explanation)
    if text.stopped_at is not None:
        yield Text(f"  reading stopped at character {text.stopped_at} of {len(exam.completion)}: the answer is cut off")
    dropped = [f"object {i} not read: {piece.why_not}" for i, piece in enumerate(text.pieces, 1) if piece.why_not]
    for line in dropped[:SHOWN_DROPPED]:
        yield Text(f"  {visible(line, newline=ESCAPED)}", style="red")
    if len(dropped) > SHOWN_DROPPED:
        yield Text(f"  ... and {len(dropped) - SHOWN_DROPPED} more not read", style="red")
    for name, words, fix in text.defects:
        yield Text(f"  defect {name}: {words.partition(': ')[2] or words}{f' -> {fix}' if fix else ''}")


def _marked(explanation: Explanation) -> Text:
    """The text in colours: reasoning dim, read parts green, dropped parts red."""
    text, completion = explanation.text, explanation.exam.completion
    start = max(0, text.answer_start - SHOWN_REASONING)
    end = min(len(completion), text.answer_start + SHOWN_ANSWER)
    shown = Text(f"... ({start} characters before) ...\n" if start else "")
    shown.append(visible(completion[start : text.answer_start], newline="\n"), style="dim")
    position = text.answer_start
    for piece in text.pieces:
        if piece.end > end:
            break
        shown.append(visible(completion[position : piece.start], newline="\n"))
        shown.append(
            visible(completion[piece.start : piece.end], newline="\n"), style="red" if piece.why_not else "green"
        )
        position = piece.end
    shown.append(visible(completion[position:end], newline="\n"))
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
        before, after = map(_place, conversion.first)
        yield Text(f"  first {'box' if len(conversion.first[0]) == 4 else 'point'}: {before} -> {after} px")


def _matches(explanation: Explanation) -> Iterator[RenderableType]:
    predictions, target = explanation.predictions, explanation.exam.target
    missed = [fate for fate in explanation.objects if fate.counted_as == "missed"]
    if not predictions and not missed:
        return
    yield _heading("predictions and objects (original pixels)")
    shown = _coordinate if target.task == "pointing" else iou_text
    overlap = "off by px" if target.task == "pointing" else "IoU"
    table = _table("#", "label", "place", "object", "its label", overlap, "counted as")
    for it in _of_interest(predictions):
        number, label = "", ""
        if it.target is not None:
            number, label = str(it.target + 1), target.labels[it.target] if target.labels else ""
        counted = it.counted_as + (f" of {it.repeats + 1}" if it.repeats is not None else "")
        near = "" if it.overlap is None else shown(it.overlap)
        cells = [str(it.index + 1), it.label, _place(it.place), number, label, near, counted]
        _row(table, cells, STYLES[it.counted_as])
    if explanation.text.n_dropped:
        _row(table, ["-", *[""] * 5, f"not read: {explanation.text.n_dropped}, counted as wrong"], "red")
    for fate in missed[:SHOWN_ROWS]:
        _row(table, ["", "", _place(fate.place), str(fate.index + 1), fate.label, "", "missed"], "red")
    yield table
    for rows, what in ((predictions, "predictions"), (missed, "missed objects")):
        if len(rows) > SHOWN_ROWS:
            yield Text(f"  ... and {len(rows) - SHOWN_ROWS} more {what}")


def _of_interest(predictions: Sequence[Verdict]) -> list[Verdict]:
    """At most `SHOWN_ROWS` in order; kept first: those compared with an object, then repeats, then junk."""
    later = {"duplicate": 1, "ignored": 2, "junk": 3}
    chosen = sorted(predictions, key=lambda verdict: later.get(verdict.counted_as, 0))[:SHOWN_ROWS]
    return sorted(chosen, key=lambda verdict: verdict.index)


def _criteria(explanation: Explanation) -> Iterator[RenderableType]:
    preset, thresholds = explanation.exam.preset, explanation.exam.thresholds
    yield _heading("criteria")
    table = _table("criterion", "weight", "value", "part", "looks at")
    for part in explanation.parts:
        _row(table, [part.name, f"{part.weight:g}", _number(part.value), _number(part.share), part.about], "")
    yield table
    total = " + ".join(f"{part.weight:g} x {_number(part.value)}" for part in explanation.parts if part.weight)
    total = total if preset.divisor == 1.0 else f"({total}) / {preset.divisor:g}"
    yield Text(f"  reward = {total} = {_number(explanation.value)}")
    when = "" if explanation.progress is None else f"progress {explanation.progress:g}, "
    when += "no schedule: base thresholds" if explanation.stage < 0 else f"stage {explanation.stage}"
    unused = "" if "thresholds" in preset.looks_at else ", not used by this preset"
    yield Text(
        f"  thresholds ({when}{unused}): a match from IoU {thresholds.match_iou:g}; "
        f"recall {thresholds.recall_floor:g} to {thresholds.recall_full:g}; "
        f"IoU {thresholds.iou_floor:g} to {thresholds.iou_full:g}"
    )
    common = (f"{name} {_number(it)}" for name, it in explanation.metrics.items() if name not in preset.weights)
    yield Text(f"  {', '.join(common)}")


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=True, header_style="dim")
    for heading in headings:
        table.add_column(heading, overflow="fold", min_width=min(len(heading), 6))
    return table


def _row(table: Table, cells: Sequence[str], style: str) -> None:
    table.add_row(*(Text(visible(cell, newline=ESCAPED)[:200]) for cell in cells), style=style)


def _number(number: float) -> str:
    return f"{number:.3f}" if abs(number) < 1e6 else f"{number:.3g}"


def _coordinate(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0") if abs(number) < 1e7 else f"{number:.3g}"


def _place(place: Sequence[float]) -> str:
    return ", ".join(map(_coordinate, place))
