"""Does the first command help, whatever the seed? Runs it once for each seed and tabulates held-out gains.

    python benchmarks/tiny_seeds.py outputs/tiny_seeds --seeds 5        # in the recipe's environment; 9 minutes a seed
    python benchmarks/tiny_seeds.py outputs/tiny_seeds --seeds 5 --only-report

A seed that has finished is not run again and an interrupted one resumes. Variables of the recipe are passed on
(`TOTAL_STEPS=40 python ...`). Writes OUT_DIR/seeds.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from verl_visionr1.tools.runs.steps import read_steps

RECIPE = Path(__file__).parents[1] / "recipes" / "tiny_visionr1_cpu.sh"


def run_seed(out_dir: Path, seed: int) -> Path:
    """Run the recipe; the wall time of a run that was not interrupted is kept in `minutes`."""
    run_dir = out_dir / f"seed_{seed}"
    if not (run_dir / ".finished").is_file():
        is_new, started = not run_dir.exists(), time.monotonic()
        subprocess.run(["bash", RECIPE], check=True, env={**os.environ, "SEED": str(seed), "RUN_DIR": str(run_dir)})
        if is_new:
            (run_dir / "minutes").write_text(f"{(time.monotonic() - started) / 60:.1f}\n")
    return run_dir


def read_seed(run_dir: Path) -> dict[str, Any]:
    """Held-out metrics of a finished run, with the largest share of dead groups of its steps."""
    report = json.loads((run_dir / "report.json").read_text())
    dead = [share for step in read_steps(run_dir) if (share := step.training("dead_groups")) is not None]
    minutes = run_dir / "minutes"
    return {
        "seed": int(run_dir.name.removeprefix("seed_")),
        "minutes": float(minutes.read_text()) if minutes.is_file() else None,
        "dead_groups_max": max(dead),
        "dead_groups_mean": sum(dead) / len(dead),
        "n_prompts": report["sections"][0]["n_prompts"],
        "metrics": {change["metric"]: change for change in report["sections"][0]["metrics"]},
    }


def tabulate(seeds: list[dict[str, Any]]) -> str:
    """A Markdown table: each metric before and after, and the paired change of each seed with its interval."""
    names = list(seeds[0]["metrics"])
    lines = ["| | before | after | change, mean | " + " | ".join(f"seed {s['seed']}" for s in seeds) + " |"]
    lines.append("|---" * (4 + len(seeds)) + "|")
    for name in names:
        changes = [seed["metrics"][name] for seed in seeds]
        before, after, gain = (sum(c[key] for c in changes) / len(changes) for key in ("before", "after", "difference"))
        cells = [f"{c['difference']:+.3f} [{c['low']:+.3f}, {c['high']:+.3f}]" for c in changes]
        lines.append(f"| {name} | {before:.3f} | {after:.3f} | **{gain:+.3f}** | " + " | ".join(cells) + " |")
    for label, key, form in (("dead groups, most", "dead_groups_max", ".2f"), ("minutes", "minutes", ".1f")):
        cells = ["" if seed[key] is None else format(seed[key], form) for seed in seeds]
        lines.append(f"| {label} | | | | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(
    out_dir: Annotated[Path, typer.Argument(help="Folder of the runs; made if missing.")],
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 1 to so many.")] = 5,
    only_report: Annotated[bool, typer.Option(help="Tabulate what has finished.")] = False,
) -> None:
    """Run the first command with several seeds and tabulate the gains."""
    run_dirs = [out_dir / f"seed_{seed}" for seed in range(1, seeds + 1)]
    if not only_report:
        run_dirs = [run_seed(out_dir, seed) for seed in range(1, seeds + 1)]
    results = [read_seed(run_dir) for run_dir in run_dirs if (run_dir / "report.json").is_file()]
    if not results:
        typer.echo(f"{out_dir}: no seed has finished yet", err=True)
        raise typer.Exit(1)
    (out_dir / "seeds.json").write_text(json.dumps(results, indent=1) + "\n")
    typer.echo(tabulate(results))


if __name__ == "__main__":
    typer.run(main)
