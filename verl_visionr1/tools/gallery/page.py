"""Write the page. Files are read twice, so that memory holds only the shown rollouts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jinja2

from verl_visionr1.files import RowsError, write_whole
from verl_visionr1.rollouts.inference import difference_hints
from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.numbers import describe_routed, range_notes, routed_of, saved_of
from verl_visionr1.rollouts.places import Dump, dumps_of, run_dirs_of
from verl_visionr1.rollouts.records import no_row
from verl_visionr1.tools.explain.diagnosis.base import plural
from verl_visionr1.tools.explain.drawing import COLOURS, MISSED_TARGET
from verl_visionr1.tools.gallery.census import Census, Reader, chosen, take_census
from verl_visionr1.tools.gallery.curves import drifts_of, panels_of
from verl_visionr1.tools.gallery.entries import KINDS, Entries, judged_by, thresholds_row
from verl_visionr1.tools.gallery.payload import Kind, Payload, script_json
from verl_visionr1.tools.gallery.pictures import Pictures
from verl_visionr1.tools.gallery.settings import Settings, Written

SCRIPTS = ("store.js", "filters.js", "overlay.js", "cards.js", "detail.js", "curves.js", "main.js")
"""Parts of the page's script, in order."""
_HERE = Path(__file__).parent


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
    _refuse_overwriting(out, dumps)
    reader = Reader(dumps, settings)
    census = take_census(reader)
    if not census.n and settings.on_error == "fail":
        raise RowsError(no_row(reader.counts))
    numbers = set(chosen(census.sizes, census.steps, settings.limit, settings.sample))
    keys = [key for key, number in census.keys.items() if number in numbers]
    pictures = Pictures(settings)
    entries = Entries(settings, census, keys, pictures)
    for dump, rollout in reader.rollouts():
        entries.add(dump, rollout, reader.judgings[dump])
    encoded = pictures.encoded()
    notes = [*_reading_notes(reader), *_score_notes(census, settings), *_picture_notes(pictures)]
    payload = _payload(paths, dumps, census, entries, settings, notes)
    page = page_of(payload, encoded)
    write_whole(out, page)
    return Written(
        out=out,
        n_bytes=len(page),
        n_rollouts=len(payload.samples),
        n_prompts=len(payload.prompts),
        n_all=census.n,
        n_images=sum(map(bool, encoded)),
        n_without_image=pictures.n_left_out + pictures.n_unknown + len(pictures.unreadable),
        notes=tuple(notes),
    )


def page_of(payload: Payload, pictures: Sequence[str]) -> bytes:
    """Render the page.

    Args:
        pictures: data URLs.
    """
    style = (_HERE / "gallery.css").read_text(encoding="utf-8")
    parts = [(_HERE / name).read_text(encoding="utf-8") for name in SCRIPTS]
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "\n})();\n"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string((_HERE / "gallery.html").read_text(encoding="utf-8"))
    html = template.render(
        title=payload.title,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        payload=script_json(payload),
        pictures=script_json(list(pictures)),
    )
    return html.encode(errors="replace")


def _colour(kind: str) -> str:
    """Colour of a kind, as in `visionr1 explain --draw`."""
    red, green, blue = COLOURS.get(kind, MISSED_TARGET)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _hash(text: str) -> str:
    """Hash of an inline element for the page's Content-Security-Policy, which allows no others."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _payload(
    paths: Sequence[Path],
    dumps: Sequence[Dump],
    census: Census,
    entries: Entries,
    settings: Settings,
    notes: list[str],
) -> Payload:
    judging = settings.judging
    names = [dump.name for dump in dumps]
    groups, samples = entries.rows()
    return Payload(
        title=settings.title or ", ".join(path.resolve().name for path in paths),
        preset=judging.preset.name,
        frame=judging.frame.name,
        moment=str(judging.moment),
        response="" if settings.is_run else _speech(judging),
        dumps=names,
        files=list(entries.files),
        sources=list(entries.sources),
        kinds=[Kind(name, _colour(name)) for name in KINDS],
        causes=list(entries.causes),
        presets=[judged_by(preset, settings.preset_argument(preset)) for preset in entries.presets],
        thresholds=[thresholds_row(thresholds) for thresholds in entries.thresholds],
        prompts=entries.prompts,
        groups=groups,
        samples=samples,
        panels=panels_of(census, names, run_dirs_of(paths)),
        drifts=drifts_of(census, names),
        notes=notes,
        n_all=census.n,
    )


def _speech(judging: Judging) -> str:
    processing = judging.processing
    flags: dict[str, object] = {"--min-pixels": processing.min_pixels, "--max-pixels": processing.max_pixels}
    if processing.fixed_wh is not None:
        flags["--processed"] = "x".join(map(str, processing.fixed_wh))
    flags["--max-tokens"] = judging.max_tokens
    flags["--reasoning"] = None if judging.reasoning == "auto" else judging.reasoning
    given = [f"{name} {value}" for name, value in flags.items() if value is not None]
    return " ".join([f"--frame {judging.frame.name}", *given])


def _reading_notes(reader: Reader) -> list[str]:
    counts = reader.counts
    notes: list[str] = []
    if counts.n_skipped:
        notes.append(f"{plural(counts.n_skipped, 'row')} could not be read or scored, the first: {counts.examples[0]}")
    if counts.n_earlier:
        notes.append(f"{counts.n_earlier} earlier turns left out: the last turn of a trajectory is scored")
    if counts.n_delegated:
        notes.append(counts.describe_delegated())
    if counts.n_unknown:
        notes.append(f"{counts.n_unknown} rollouts have a ground truth that is not in --data")
    return notes


def _score_notes(census: Census, settings: Settings) -> list[str]:
    judging, saved = settings.judging, saved_of(census.table)
    notes = [*describe_routed(routed_of(census.table, judging.preset)), *range_notes(census.table)]
    return notes if saved is None else [*notes, saved.describe(), *difference_hints(saved, census.sample, judging)]


def _picture_notes(pictures: Pictures) -> list[str]:
    notes: list[str] = []
    if pictures.n_unknown:
        why = (
            "no single row of --data matches" if pictures.settings.data else "the dump names none; give --data PARQUET"
        )
        notes.append(f"no image for {plural(pictures.n_unknown, 'prompt')}: {why}")
    if pictures.n_left_out:
        notes.append(
            f"no image for {plural(pictures.n_left_out, 'prompt')}: raise --max-images {pictures.settings.max_images}"
        )
    if pictures.unreadable:
        notes.append(f"{len(pictures.unreadable)} images could not be read, the first: {pictures.unreadable[0]}")
    return notes


def _refuse_overwriting(out: Path, dumps: Sequence[Dump]) -> None:
    if out.suffix.lower() not in (".html", ".htm"):
        raise RowsError(f"--out {out}: needs a name that ends in .html")
    if out.is_dir():
        raise RowsError(f"--out {out}: is a folder; name a file")
