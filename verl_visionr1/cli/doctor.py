"""`visionr1 doctor`: check a file of training data before training."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from verl_visionr1.cli.rollouts import say, stop
from verl_visionr1.conversion.conventions import NAMED
from verl_visionr1.settings import needs_one_of

if TYPE_CHECKING:
    from verl_visionr1.tools.doctor.examination import Examination


def doctor(
    files: Annotated[list[Path], typer.Argument(help="parquet, arrow, jsonl, json, or folders of them")],
    val: Annotated[
        list[Path] | None, typer.Option(help="a file for validation (may repeat); default: by the rows' own split")
    ] = None,
    max_response: Annotated[
        int, typer.Option(help="most tokens of a response: data.max_response_length", min=1)
    ] = 1024,
    max_prompt: Annotated[
        int | None, typer.Option(help="most tokens of a prompt, image included: data.max_prompt_length", min=1)
    ] = None,
    family: Annotated[
        str, typer.Option(help="model family for image tokens: qwen2.5-vl, qwen3-vl, glm")
    ] = "qwen2.5-vl",
    images: Annotated[bool, typer.Option(help="open the image files (their headers)")] = True,
    images_dir: Annotated[
        Path | None, typer.Option(help="base folder of images of jsonl and json; default: the file's folder")
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
            "without area, indexes, relative paths",
        ),
    ] = None,
    boxes_are: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help=f"with --fix: how the file writes its boxes: {', '.join(NAMED)}"),
    ] = None,
    statistics: Annotated[bool, typer.Option("--stats", help="also show statistics of the files")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Find problems that would stop a training run or spoil its reward.

    Silent, exit code 0: nothing; 1: warnings; 2: errors, or a file or option that cannot be used.
    """
    from verl_visionr1.tools.doctor.examination import examine
    from verl_visionr1.tools.doctor.truth import Budget
    from verl_visionr1.tools.doctor.view import view_of

    console = Console(soft_wrap=True, highlight=False)
    try:
        _check_boxes_are(boxes_are, fix)
        budget = Budget(max_response, max_prompt, family)
        examination = examine(
            files, val or (), budget=budget, images=images, images_dir=images_dir, delegate=delegate or ()
        )
        if verl == "yes" or (verl == "auto" and find_spec("verl") is not None):
            _load_with_verl(examination)
        if fix is not None:
            _fix(files, fix, boxes_are)
        if html is not None:
            from verl_visionr1.tools.doctor.page import write_page

            write_page(examination, html)
    except ValueError as error:  # RowsError is one
        raise stop("doctor", error) from None
    if as_json:
        typer.echo(json.dumps(_as_dict(examination), indent=1))
    else:
        for part in view_of(examination, with_statistics=statistics):
            console.print(part)
    if examination.severity:
        raise typer.Exit(int(examination.severity))


def _check_boxes_are(boxes_are: str | None, fix: Path | None) -> None:
    if boxes_are is not None and fix is None:
        raise ValueError(f"--boxes-are {boxes_are}: needs --fix OUT.parquet")
    if boxes_are is not None and boxes_are not in NAMED:
        raise ValueError(f"--boxes-are {boxes_are}: {needs_one_of(boxes_are, NAMED)}")


def _fix(files: list[Path], out: Path, boxes_are: str | None) -> None:
    from verl_visionr1.tools.doctor.fixing import fix_file

    changes = fix_file(files, out, NAMED[boxes_are] if boxes_are is not None else None)
    say(
        [
            *(changes.lines or ["nothing could be repaired safely"]),
            f"written: {out}; the findings below are about {files[0]}",
        ]
    )


def _load_with_verl(examination: Examination) -> None:
    """Load the files that have verl's columns with verl."""
    from verl_visionr1.runtime.loading import N_ROWS, loading_problem
    from verl_visionr1.tools.doctor.problems import Problem
    from verl_visionr1.tools.doctor.samples import framework_in

    files = [Path(census.file) for census in examination.censuses if census.is_ours]
    files = [file for file in files if not framework_in(file)]
    if not files:
        return
    shown = ", ".join(map(str, files))
    say([f"doctor: loading the first {N_ROWS} rows of {shown} with verl (10 to 90 s; --verl no leaves this out) ..."])
    reason = loading_problem(files)
    if reason is not None and len(files) > 1:  # one by one, to name it
        for file in files:
            alone = loading_problem([file])
            if alone is not None:
                examination.add(Problem(str(file), None, alone, "verl cannot load it"))
                reason = None
    if reason is not None:
        name = str(files[0]) if len(files) == 1 else "all files together"
        examination.add(Problem(name, None, reason, "verl cannot load it"))


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
        {"file": census.file, "rows": census.n_rows, "unit": census.unit}
        | {name: dict(census.tallies[name]) for name in ("tasks", "splits", "empty", "labels", "counts")}
        for census in examination.censuses
    ]
    return {"severity": examination.severity.name.lower(), "found": found, "files": files}
