"""Write the page. Files are read twice, so that memory holds only the shown rollouts."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from verl_visionr1.files import RowsError, write_whole
from verl_visionr1.rollouts.inference import difference_hints
from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.numbers import describe_routed, range_notes, routed_of, saved_of
from verl_visionr1.rollouts.places import dumps_of, run_dirs_of
from verl_visionr1.rollouts.records import Counts, no_row
from verl_visionr1.tools.explain.diagnosis.base import plural
from verl_visionr1.tools.explain.drawing import COLOURS, MISSED_TARGET
from verl_visionr1.tools.gallery.census import Census, Reader, Settings, choose_groups, take_census
from verl_visionr1.tools.gallery.curves import panels_of
from verl_visionr1.tools.gallery.entries import KINDS, Entries
from verl_visionr1.tools.gallery.pictures import Pictures

SCRIPTS = ("store.js", "filters.js", "overlay.js", "cards.js", "detail.js", "curves.js", "main.js")
"""Parts of the page's script, in order."""
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Written:
    """Contents of a written gallery.

    Attributes:
        n_rollouts, n_prompts: shown; a prompt counts once, even if it occurs at several steps.
        n_all: all scored rollouts; curves use them.
        notes: further remarks, in sentences.
    """

    n_bytes: int
    n_rollouts: int
    n_prompts: int
    n_all: int
    n_images: int
    notes: tuple[str, ...]


def write_gallery(paths: Sequence[Path], out: Path, settings: Settings) -> Written:
    """Write a self-contained page of saved rollouts; it needs no network.

    With `on_error="skip"`, rows that cannot be read or scored are counted; without other rows the page is empty.

    Args:
        paths: dumps, folders of dumps, or folders of runs.
        out: the page; written atomically.

    Raises:
        RowsError: no such file or folder, no dump in it, or the page cannot be written; with `on_error="fail"` also an
            unreadable row.
        ValueError: with `on_error="fail"`, a row that cannot be scored.
    """
    dumps = dumps_of(paths)
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        raise RowsError(f"--out {out}: needs a file name that ends in .html")
    reader = Reader(dumps, settings)
    census = take_census(reader)
    if not census.table and settings.on_error == "fail":
        raise RowsError(no_row(reader.counts))
    numbers = set(choose_groups(census.sizes, settings.limit))
    keys = [key for key, number in census.keys.items() if number in numbers]
    pictures = Pictures(settings)
    entries = Entries(settings, census, keys, pictures)
    for dump, rollout in reader.rollouts():
        entries.add(dump, rollout, reader.judgings[dump])
    encoded = pictures.encoded()
    names = [dump.name for dump in dumps]
    payload: dict[str, Any] = {
        "title": settings.title or ", ".join(path.resolve().name for path in paths),
        "preset": settings.judging.preset.name,
        "frame": settings.judging.frame.name,
        "moment": str(settings.judging.moment),
        "options": settings.options,
        **entries.rows(),
        "dumps": names,
        "kinds": [{"name": kind, "colour": f"rgb{COLOURS.get(kind, MISSED_TARGET)}"} for kind in KINDS],
        "panels": panels_of(census, names, run_dirs_of(paths)),
        "notes": [
            *_reading_notes(reader.counts, settings.data_name),
            *_score_notes(census, settings.judging),
            *_picture_notes(pictures, settings),
        ],
        "n_all": len(census.table),
    }
    page = _render(payload, encoded)
    write_whole(out, page)
    return Written(
        n_bytes=len(page),
        n_rollouts=len(payload["samples"]),
        n_prompts=len(payload["prompts"]),
        n_all=len(census.table),
        n_images=sum(map(bool, encoded)),
        notes=tuple(payload["notes"]),
    )


def _render(payload: dict[str, Any], pictures: list[str]) -> bytes:
    style = (_HERE / "gallery.css").read_text(encoding="utf-8")
    parts = [(_HERE / name).read_text(encoding="utf-8") for name in SCRIPTS]
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "\n})();\n"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string((_HERE / "gallery.html").read_text(encoding="utf-8"))
    html = template.render(
        title=payload["title"],
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        payload=script_json(payload),
        pictures=script_json(pictures),
    )
    return html.encode(errors="replace")


def script_json(value: Any) -> str:
    """JSON that is safe in a `<script>` element for any text of a model: no `<`, ASCII only."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _hash(text: str) -> str:
    """Hash of an inline element for the page's Content-Security-Policy, which allows no others."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _reading_notes(counts: Counts, data: str) -> Iterator[str]:
    if counts.n_skipped:
        yield f"{plural(counts.n_skipped, 'row')} could not be read or scored, the first: {counts.examples[0]}"
    if counts.n_earlier:
        yield f"{counts.n_earlier} earlier turns left out: the last turn of a trajectory is scored"
    if counts.n_delegated:
        yield counts.describe_delegated()
    if counts.n_unknown:
        yield f"{counts.n_unknown} rollouts have a ground truth that is not in {data}"


def _score_notes(census: Census, judging: Judging) -> Iterator[str]:
    yield from describe_routed(routed_of(census.table, judging.preset))
    yield from range_notes(census.table)
    saved = saved_of(census.table)
    if saved is not None:
        yield saved.describe()
        yield from difference_hints(saved, census.sample, judging)


def _picture_notes(pictures: Pictures, settings: Settings) -> Iterator[str]:
    if pictures.n_unknown:
        no_data = "the dump names none; give --data PARQUET"
        why = f"no single row of {settings.data_name} matches" if settings.data else no_data
        yield f"no image for {plural(pictures.n_unknown, 'prompt')}: {why}"
    if pictures.unreadable:
        yield f"{len(pictures.unreadable)} images could not be read, the first: {pictures.unreadable[0]}"
