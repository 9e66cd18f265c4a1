"""Run the study of the papers' claims: every arm with every seed, one run at a time.

    bash benchmarks/claims/run.sh                                  # all runs that are not yet in results/
    bash benchmarks/claims/run.sh --only rl-vs-start --seeds 1     # the arms of a claim, or single arms; seed 1
    bash benchmarks/claims/run.sh --list                           # list finished and remaining runs
    CLAIMS_RESULTS=outputs/mine bash benchmarks/claims/run.sh --only rl-vs-start --seeds 1      # again, not published

A run that is in results/ is not repeated; an interrupted one resumes. Each run writes two files there:
<arm>_<seed>.json (settings, versions, the curve of training, held-out means) and <arm>_<seed>.npz (the numbers of each
held-out prompt, for paired comparisons). `report.py` writes tables and figures from them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from arms import ARMS, CLAIMS, ROOT, Arm
from rewards import mean_rewards
from sets import COUNTS_TRAIN, SETS, draw

from verl_visionr1.evaluation.records import Evaluation, load
from verl_visionr1.tools.runs.steps import read_steps

HERE = Path(__file__).parent
PUBLISHED = HERE / "results"
RESULTS = Path(os.environ.get("CLAIMS_RESULTS") or PUBLISHED)
RECIPE = ROOT / "recipes" / "tiny_visionr1_cpu.sh"
MAX_TOKENS = 160
"""Limit of a held-out answer: enough for seven labelled boxes."""
PROMPT_METRICS = ("reward", "format", "recall", "precision", "f1_50", "iou_mean", "boxes_per_target")
"""Numbers that are saved for each held-out prompt; the reward and its criteria use the strict thresholds."""
COUNT_METRICS = ("reward", "format", "exact", "near")
"""The same for counting."""
AP_METRICS = ("AP", "AP50", "AP75")
RESAMPLES = 500


def train(arm: Arm, seed: int, run_dir: Path, sets_dir: Path) -> Path:
    """Train an arm, or resume its training.

    Returns:
        The trained model, for `visionr1 eval`.
    """
    if arm.method == "none":
        return arm.model_dir
    settings = {
        **os.environ,
        **arm.variables,
        "SEED": str(seed),
        "RUN_DIR": str(run_dir),
        "MODEL_PATH": str(arm.model_dir),
    }
    if arm.task == "counting":
        files = (str(draw(each, sets_dir)) for each in (COUNTS_TRAIN, SETS[-1]))
        settings |= dict(zip(("TRAIN_FILES", "VAL_FILES"), files, strict=True))
    if arm.method == "rl":
        subprocess.run(["bash", RECIPE, *arm.overrides], check=True, env=settings)
    else:
        subprocess.run(
            [sys.executable, HERE / "supervised.py", arm.model_dir, run_dir, "--seed", str(seed)], check=True
        )
    return run_dir


def evaluate(model: Path, sets: Sequence[Path], out: Path) -> Evaluation:
    """Answer all held-out sets greedily by `visionr1 eval`, and return its report."""
    command = ["visionr1", "eval", model, *sets, "--out", out, "--max-tokens", str(MAX_TOKENS)]
    command += ["--preset", "visionr1", "--route", "counting=counting-list", "--resamples", str(RESAMPLES)]
    subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return load(out / "report.json")


def keep(arm: Arm, seed: int, minutes: float | None, run_dir: Path, evaluation: Evaluation) -> None:
    """Write the two files of a run into `RESULTS`; the JSON file comes last, atomically."""
    means: dict[str, dict[str, float]] = {}
    arrays: dict[str, np.ndarray] = {}
    rows: defaultdict[str, list[Any]] = defaultdict(list)
    for row in evaluation.rows:
        rows[row.data_source].append(row)
    for section in evaluation.sections:
        name = section.source.removeprefix("claims/")
        of_set = sorted(rows[section.source], key=lambda row: row.row)
        keys = COUNT_METRICS if arm.task == "counting" else PROMPT_METRICS
        numbers = {key: [row.reward if key == "reward" else row.judged[key] for row in of_set] for key in keys}
        means[name] = {key: round(float(np.mean(values)), 5) for key, values in numbers.items()}
        arrays |= {f"{name}/{key}": np.array(values, dtype=np.float16) for key, values in numbers.items()}
        for key in () if arm.task == "counting" else AP_METRICS:
            means[name][key] = round(float(section.estimates[key].value or 0.0), 5)
            arrays[f"{name}/{key}"] = np.array(section.draws[key], dtype=np.float16)
    record = {
        "arm": arm.name,
        "seed": seed,
        "method": arm.method,
        "start": arm.start,
        "variables": dict(arm.variables),
        "overrides": [each.replace(f"{ROOT}/", "") for each in arm.overrides],
        "minutes": minutes,
        "made_with": evaluation.made_with,
        "held_out": means,
        "rewards": mean_rewards(run_dir / "held_out" / "predictions.jsonl", "claims/in_domain")
        if arm.task == "detection"
        else {},
        "curve": read_curve(run_dir) if arm.method == "rl" else [],
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(RESULTS / f"{arm.name}_{seed}.npz", **arrays)
    new = RESULTS / f"{arm.name}_{seed}.json.new"
    new.write_text(json.dumps(record, indent=1) + "\n")
    new.rename(RESULTS / f"{arm.name}_{seed}.json")


def read_curve(run_dir: Path) -> list[dict[str, float]]:
    """Read the plug-in's metrics of each training step, and the recipe's validations."""
    kept = ("visionr1/", "val-", "response_length/mean", "actor/entropy", "timing_s/step")
    return [
        {"step": step.number} | {key: round(value, 5) for key, value in step.numbers.items() if key.startswith(kept)}
        for step in read_steps(run_dir)
    ]


def is_finished(arm: Arm, seed: int) -> bool:
    """Whether the run is in `RESULTS`."""
    return (RESULTS / f"{arm.name}_{seed}.json").is_file()


def run(arm: Arm, seed: int, out: Path) -> None:
    """Train, evaluate, keep the numbers, and delete the checkpoints."""
    sets = [draw(each, out / "sets") for each in SETS if each.task == arm.task]
    run_dir = out / arm.name / f"seed_{seed}"
    is_new, started = not run_dir.exists(), time.monotonic()
    model = train(arm, seed, run_dir, out / "sets")
    minutes = round((time.monotonic() - started) / 60, 2) if is_new else None  # unknown for an interrupted run
    keep(arm, seed, minutes, run_dir, evaluate(model, sets, run_dir / "held_out"))
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)


def choose(only: Sequence[str], seeds: int | None) -> list[tuple[Arm, int]]:
    """Return the requested runs: all first seeds, then all second ones ...

    Raises:
        typer.BadParameter: a name that is neither an arm nor a claim.
    """
    for name in only:
        if name not in CLAIMS and name not in {arm.name for arm in ARMS}:
            known = ", ".join([*CLAIMS, *(arm.name for arm in ARMS)])
            raise typer.BadParameter(f"--only {name}: no such claim or arm; use one of {known}")
    arms = [arm for arm in ARMS if not only or arm.name in only or {*only} & {*arm.claims}]
    most = max((arm.seeds for arm in arms), default=0)
    return [(arm, seed) for seed in range(1, min(seeds or most, most) + 1) for arm in arms if seed <= arm.seeds]


def main(
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = ROOT / "outputs" / "claims",
    only: Annotated[list[str] | None, typer.Option(help="A claim or an arm (may repeat); default: all.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds, from 1; default: those of each arm.")
    ] = None,
    list_runs: Annotated[bool, typer.Option("--list", help="List finished and remaining runs.")] = False,
) -> None:
    """Run every arm and seed that is not yet in results/."""
    runs = choose(only or [], seeds)
    if list_runs:
        for arm, seed in runs:
            typer.echo(f"{'finished' if is_finished(arm, seed) else 'left':9} {arm.name} {seed}: {arm.shows}")
        return
    left = [each for each in runs if not is_finished(*each)]
    started = time.monotonic()
    for n_done, (arm, seed) in enumerate(left):
        pace = (
            f"; about {(time.monotonic() - started) / 60 / n_done * (len(left) - n_done):.0f} min left"
            if n_done
            else ""
        )
        typer.echo(f"run {n_done + 1} of {len(left)}: {arm.name}, seed {seed} ({arm.shows}){pace}")
        run(arm, seed, out)
    typer.echo(f"{len(runs)} runs are in {RESULTS}")


if __name__ == "__main__":
    typer.run(main)
