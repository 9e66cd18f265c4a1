"""The results of an examination as one offline HTML page with drawn samples; content of files is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import jinja2

from verl_visionr1.files import RowsError, write_whole
from verl_visionr1.images import upright_size
from verl_visionr1.tools.doctor.examination import Examination
from verl_visionr1.tools.doctor.problems import Problem
from verl_visionr1.tools.doctor.samples import Sample
from verl_visionr1.tools.doctor.truth import inspect_image
from verl_visionr1.tools.drawing import Pen, read_picture

SIDE = 360
"""The longer side of a drawn sample, in pixels."""
MAX_DRAWN = 100
"""Most boxes that are drawn of a sample."""
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))
_TEMPLATE = Path(__file__).with_name("page.html")


def write_page(examination: Examination, out: Path) -> None:
    """Write the page.

    Raises:
        RowsError: it cannot be written, or its name does not end in .html.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise RowsError(f"--html {out}: needs a name that ends in .html")
    files = []
    for census in examination.censuses:
        shown = sorted(examination.shown.get(census.file, ()), key=lambda pair: pair[0].number)
        cards = [_card(sample, problems) for sample, problems in shown]
        files.append({"name": census.file, "summary": census.summary, "cards": cards})
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    html = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(groups=examination.found, files=files)
    write_whole(out, html.encode(errors="replace"))


def _card(sample: Sample, problems: Sequence[Problem]) -> dict[str, object]:
    """Return the template's values for a row."""
    target, truth = sample.target, sample.truth_error
    if target is not None:
        known = {"count": target.count, "answer": target.answer}
        known = {name: value for name, value in known.items() if value is not None}
        truth = ", ".join([target.task, f"{target.n_objects} objects", *(f"{k} {v}" for k, v in known.items())])
    shown = {"title": f"{sample.unit} {sample.number}", "picture": _picture(sample), "truth": truth}
    return {**shown, "prompt": (sample.prompt or "")[:300], "problems": problems}


def _picture(sample: Sample) -> str:
    """Draw the image with its boxes, points and labels, as JPEG in base64; "" if the image is unreadable."""
    source = sample.image
    found = None if source is None else inspect_image(source)
    if source is None or found is None or found.size_wh is None:
        return ""
    original_wh = upright_size(found.size_wh, found.orientation)
    factor = SIDE / max(original_wh)
    size = (max(1, round(original_wh[0] * factor)), max(1, round(original_wh[1] * factor)))
    try:
        pen = Pen(read_picture(Path(source) if isinstance(source, str) else source, size), original_wh)
    except RowsError:
        return ""
    labels = sample.target.labels if sample.target is not None else ()
    names = list(dict.fromkeys(labels))
    points = sample.target.points_xy if sample.target is not None else ()
    for key, places in (*sample.boxes.items(), ("points_xy", points)):
        for i, place in enumerate(places[:MAX_DRAWN]):
            label = labels[i] if i < len(labels) and key != "ignore_xyxy" else ""
            pen.mark(place, label, COLOURS[(names.index(label) if label in names else 0) % len(COLOURS)])
    buffer = io.BytesIO()
    pen.picture.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()
