"""`visionr1 doctor`: check a file of training data before training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from verl_visionr1.cli.rollouts import say
from verl_visionr1.conversion.conventions import NAMED
from verl_visionr1.settings import needs_one_of

if TYPE_CHECKING:
    from verl_visionr1.tools.doctor.examination import Examination

STYLES = {"error": "red", "warning": "yellow", "note": "cyan"}
N_LINES = 3
"""Number of examples shown of each kind."""


def doctor(
    files: Annotated[list[Path], typer.Argument(help="parquet, arrow, jsonl, json, csv, or folders with such files")],
    val: Annotated[
        list[Path] | None, typer.Option(help="a file for validation (may repeat); default: by the rows' own split")
    ] = None,
    max_response: Annotated[
        int, typer.Option(help="most tokens of a response: data.max_response_length", min=1)
    ] = 1024,
    max_prompt: Annotated[
        int | None,
        typer.Option(
            help="most tokens of a prompt, image included: data.max_prompt_length; default: more than 1024 is a note",
            min=1,
        ),
    ] = None,
    family: Annotated[
        Literal["qwen2.5-vl", "qwen3-vl", "glm"], typer.Option(help="model family for image tokens")
    ] = "qwen2.5-vl",
    images: Annotated[bool, typer.Option(help="open the image files (their headers)")] = True,
    images_dir: Annotated[
        Path | None, typer.Option(help="base folder of images of jsonl, json and csv; default: the file's folder")
    ] = None,
    delegate: Annotated[
        list[str] | None,
        typer.Option(
            help="a data source (glob, may repeat) that verl's own reward scores: the run's visionr1.delegate"
        ),
    ] = None,
    verl: Annotated[
        Literal["auto", "yes", "no"],
        typer.Option(help="load the files through verl's own data set; auto: if verl is installed"),
    ] = "auto",
    html: Annotated[Path | None, typer.Option(metavar="OUT.html", help="write a page with drawn samples")] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.parquet",
            help="write a repaired copy of the one file: repeated rows and boxes, boxes a pixel over the edge or "
            "without area",
        ),
    ] = None,
    boxes_are: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help=f"with --fix: how the file writes its boxes: {', '.join(NAMED)}"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Find problems that would stop a training run or spoil its reward.

    Silent, exit code 0: nothing; 1: warnings; 2: errors, or a file or option that cannot be used.
    """
    from verl_visionr1.tools.doctor.examination import examine
    from verl_visionr1.tools.doctor.truth import Scope

    if boxes_are is not None and fix is None:
        raise ValueError(f"--boxes-are {boxes_are}: needs --fix OUT.parquet")
    if boxes_are is not None and boxes_are not in NAMED:
        raise ValueError(f"--boxes-are {boxes_are}: {needs_one_of(boxes_are, NAMED)}")
    examination = examine(files, val or (), Scope(max_response, max_prompt, family, images, images_dir, delegate or ()))
    if verl == "yes" or (verl == "auto" and find_spec("verl") is not None):
        _load_with_verl(examination)
    if fix is not None:
        _fix(files, fix, boxes_are)
    if html is not None:
        from verl_visionr1.tools.doctor.page import write_page

        write_page(examination, html)
    if as_json:
        typer.echo(json.dumps(_as_dict(examination), indent=1))
    else:
        console = Console(soft_wrap=True, highlight=False)
        for line in _lines_of(examination):
            console.print(line)
    if examination.severity:
        raise typer.Exit(int(examination.severity))


def _fix(files: list[Path], out: Path, boxes_are: str | None) -> None:
    from verl_visionr1.tools.doctor.fixing import fix_file

    changes = fix_file(files, out, NAMED[boxes_are] if boxes_are is not None else None)
    told = changes.lines or ["nothing could be repaired safely"]
    say([*told, f"written: {out}; the findings below are about {files[0]}"])


def _load_with_verl(examination: Examination) -> None:
    """Load the files in verl's layout with verl: together, and if that fails each alone, to name it."""
    from verl_visionr1.runtime.loading import N_ROWS, loading_problem
    from verl_visionr1.tools.doctor.problems import Problem

    files = [Path(census.file) for census in examination.censuses if census.layout == "verl"]
    if not files:
        return
    shown = ", ".join(map(str, files))
    say([f"doctor: loading the first {N_ROWS} rows of {shown} with verl (10 to 90 s; --verl no leaves this out) ..."])
    reason = loading_problem(files)
    if reason is None:
        return
    alone = {str(file): loading_problem([file]) for file in files} if len(files) > 1 else {}
    failed = {file: reason for file, reason in alone.items() if reason is not None}
    name = str(files[0]) if len(files) == 1 else "all files together"
    for file, why in (failed or {name: reason}).items():
        examination.add(Problem(file, None, why, "verl cannot load it"))


def _lines_of(examination: Examination) -> Iterator[Text]:
    """Yield the problems, the worst first."""
    file = ""
    for group in examination.found:
        if group.file != file:
            file = group.file
            yield Text(file, style="bold")
        severity = group.severity.name.lower()
        head = Text(f"  {severity}: ", style=STYLES[severity])
        yield head + Text(group.kind + (f" ({group.count})" if group.count > 1 else ""), style="bold")
        for problem in group.examples[:N_LINES]:
            yield Text(f"    {problem.where}{problem.reason}")
        if group.count > N_LINES:
            yield Text(f"    ... and {group.count - N_LINES} more", style="dim")


def _as_dict(examination: Examination) -> dict[str, object]:
    found = [
        {
            **{name: getattr(group, name) for name in ("file", "kind", "count")},
            "severity": group.severity.name.lower(),
            "examples": [{"row": problem.row, "reason": problem.reason} for problem in group.examples],
        }
        for group in examination.found
    ]
    files = [
        {"file": census.file, "rows": census.n_rows}
        | {name: dict(census.tallies[name]) for name in ("tasks", "splits", "empty", "labels", "counts")}
        for census in examination.censuses
    ]
    return {"severity": examination.severity.name.lower(), "found": found, "files": files}
