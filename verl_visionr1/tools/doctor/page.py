"""What an examination found, as one HTML page that works offline, with drawn samples; what files say is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from PIL import Image, ImageDraw, ImageOps

from verl_visionr1.files import write_whole
from verl_visionr1.images import FORMATS
from verl_visionr1.tools.doctor.examination import Examination
from verl_visionr1.tools.doctor.pictures import seen
from verl_visionr1.tools.doctor.problems import Problem
from verl_visionr1.tools.doctor.samples import Sample

SIDE = 360
"""The longer side of a drawn sample, in pixels."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True, slots=True)
class _Card:
    title: str
    picture: str
    prompt: str
    truth: str
    problems: Sequence[Problem]


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    summary: str
    cards: Sequence[_Card]


def write_page(examination: Examination, out: Path) -> None:
    """Write the page.

    Raises:
        RowsError: it cannot be written.
    """
    files = []
    for census in examination.censuses:
        tallies = {"tasks": census.tasks, "splits": census.splits, "labels": census.labels, "counts": census.counts}
        parts = [census.counted]
        for name, tally in tallies.items():
            shown = ", ".join(f"{value or '(none)'} {count}" for value, count in tally.most_common(12))
            parts += [f"{name}: {shown}"] if tally else []
        shown = sorted(examination.shown.get(census.file, ()), key=lambda pair: pair[0].number)
        cards = [_card(sample, problems) for sample, problems in shown]
        files.append(_File(census.file, "; ".join(parts), cards))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    html = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(groups=examination.found, files=files)
    write_whole(out, html.encode(errors="replace"))


def _card(sample: Sample, problems: Sequence[Problem]) -> _Card:
    target = sample.target
    truth = sample.truth_error
    if target is not None:
        parts = [target.task, f"{target.n_objects} objects"]
        parts += [f"count {target.count}"] if target.count is not None else []
        parts += [f"answer {target.answer!r}"] if target.answer is not None else []
        truth = ", ".join(parts)
    prompt = (sample.prompt or "")[:300]
    return _Card(f"{sample.unit} {sample.number}", _picture(sample), prompt, truth, problems)


def _picture(sample: Sample) -> str:
    """The image with its boxes, points and labels, as JPEG in base64; "" where it cannot be shown."""
    source = sample.image
    if source is None or seen(source).error is not None:
        return ""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            picture = ImageOps.contain(image.convert("RGB"), (SIDE, SIDE))
            scale_x, scale_y = picture.width / image.width, picture.height / image.height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    pen = ImageDraw.Draw(picture)
    labels = sample.target.labels if sample.target is not None else ()
    names = list(dict.fromkeys(labels))
    for boxes in sample.boxes.values():
        for i, (x1, y1, x2, y2) in enumerate(boxes[:100]):
            colour = COLOURS[(names.index(labels[i]) if i < len(labels) else 0) % len(COLOURS)]
            place = [x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y]
            if place[0] <= place[2] and place[1] <= place[3] and max(map(abs, place)) < 1e5:
                pen.rectangle(place, outline=colour, width=2)
                if i < len(labels):
                    pen.text((place[0] + 3, place[1] + 2), labels[i][:40].encode("ascii", "replace"), fill=colour)
    for x, y in sample.target.points_xy if sample.target is not None else ():
        pen.ellipse([x * scale_x - 4, y * scale_y - 4, x * scale_x + 4, y * scale_y + 4], outline=COLOURS[1], width=2)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()
