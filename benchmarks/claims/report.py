"""Tables and figures of the study, from `results/`: docs/results/README.md and its pictures.

    python benchmarks/claims/report.py

An interval is a 95 % interval over held-out prompts, paired by prompt, and over seeds (differences.py). The lowest and
the highest seed are given beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from alarm_replay import replay
from arms import ARMS, CLAIMS, ROOT, Arm, Claim, Contrast
from differences import Array, difference, is_evaluated, mean_of, numbers_of, record_of, seeds_of
from rewards import ranking_table
from sets import SETS
from study import PUBLISHED, RESULTS

IN_DOMAIN: tuple[str, ...] = ("in_domain",)
OUT_OF_DOMAIN = tuple(each.name for each in SETS if each.task == "detection" and each.name != "in_domain")
COUNTS: tuple[str, ...] = ("counts",)
COLUMNS = (
    ("F1", "f1_50"),
    ("mean IoU", "iou_mean"),
    ("AP", "AP"),
    ("AP75", "AP75"),
    ("boxes/object", "boxes_per_target"),
)
COUNT_COLUMNS = (("accuracy", "exact"), ("nearness", "near"), ("format", "format"))


# --- verdicts --------------------------------------------------------------------------------------------------------


def judge_contrast(contrast: Contrast) -> tuple[str, str]:
    """Return a line about a contrast, and its verdict: "holds", "does not hold" or "not decided"."""
    sets = COUNTS if contrast.metric == "exact" else IN_DOMAIN if contrast.sets == "in" else OUT_OF_DOMAIN
    found = difference(contrast.arm, contrast.baseline, contrast.metric, sets)
    sign = 1 if contrast.expected == "higher" else -1
    low, high = sorted((sign * found.low, sign * found.high))
    word = "holds" if low > 0 else "does not hold" if high < 0 else "not decided"
    where = "in domain" if contrast.sets == "in" else "out of domain"
    name = {key: label for label, key in COLUMNS + COUNT_COLUMNS}.get(contrast.metric, contrast.metric)
    return f"* {word}: {contrast.arm} against {contrast.baseline}, {name} {where}: {found}", word


def verdict(claim: Claim) -> str:
    """Return the claim's lines and its verdict: "holds" only if every contrast does."""
    ready = [each for each in claim.contrasts if seeds_of(each.arm) and seeds_of(each.baseline)]
    missing = sorted({name for c in claim.contrasts for name in (c.arm, c.baseline) if not seeds_of(name)})
    verdicts = [judge_contrast(each) for each in ready]
    words = {word for _, word in verdicts}
    whole = f"not run yet: {', '.join(missing)}" if missing else words.pop() if len(words) == 1 else "holds in part"
    return "\n".join([f"**{whole}**", "", *(line for line, _ in verdicts)])


def has_own_runs(claim: str) -> bool:
    """Whether a claim has runs of its own: arms that no claim before it has."""
    before = list(CLAIMS)[: list(CLAIMS).index(claim)]
    own = [arm.name for arm in ARMS if claim in arm.claims and not {*before} & {*arm.claims}]
    return any(map(seeds_of, own))


# --- the page --------------------------------------------------------------------------------------------------------


def table(arms: Sequence[Arm], baseline: str) -> str:
    """Write a Markdown table of arms: means in and out of domain, and F1 against the baseline."""
    heads = [f"{label}, {where}" for where in ("in", "out") for label, _ in COLUMNS]
    lines = [
        "| arm | seeds | " + " | ".join(heads) + f" | F1 in domain against {baseline} |",
        "|---" * (len(heads) + 3) + "|",
    ]
    for arm in arms:
        if not seeds_of(arm.name):
            continue
        cells = [cell(arm.name, key, sets) for sets in (IN_DOMAIN, OUT_OF_DOMAIN) for _, key in COLUMNS]
        compared = arm.name != baseline and seeds_of(baseline) and is_evaluated(arm.name, IN_DOMAIN)
        against = str(difference(arm.name, baseline, "f1_50", IN_DOMAIN)) if compared else ""
        lines.append(
            f"| `{arm.name}`: {arm.shows} | {len(seeds_of(arm.name))} | " + " | ".join(cells) + f" | {against} |"
        )
    return "\n".join(lines)


def count_table(arms: Sequence[Arm], baseline: str) -> str:
    """Write a Markdown table of arms that count: means, and accuracy against the baseline."""
    lines = ["| arm | seeds | " + " | ".join(label for label, _ in COUNT_COLUMNS) + f" | accuracy against {baseline} |"]
    lines.append("|---" * (len(COUNT_COLUMNS) + 3) + "|")
    for arm in arms:
        if seeds_of(arm.name):
            cells = [cell(arm.name, key, COUNTS) for _, key in COUNT_COLUMNS]
            against = "" if arm.name == baseline else str(difference(arm.name, baseline, "exact", COUNTS))
            lines.append(
                f"| `{arm.name}`: {arm.shows} | {len(seeds_of(arm.name))} | " + " | ".join([*cells, against]) + " |"
            )
    return "\n".join(lines)


def cell(arm: str, metric: str, sets: tuple[str, ...]) -> str:
    """Format a mean for a table; empty if the arm was not evaluated on the sets."""
    return f"{mean_of(arm, metric, sets):.3f}" if is_evaluated(arm, sets) else ""


def sets_table(arms: Sequence[Arm]) -> str:
    """Write a Markdown table of F1 on each held-out set."""
    lines = ["| set | differs from training by | " + " | ".join(f"`{arm.name}`" for arm in arms) + " |"]
    lines.append("|---" * (len(arms) + 2) + "|")
    for each in (each for each in SETS if each.task == "detection"):
        cells = [cell(arm.name, "f1_50", (each.name,)) for arm in arms]
        lines.append(f"| {each.name} ({each.n_scenes}) | {each.differs or 'nothing'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(figures: Sequence[str]) -> str:
    """Write the text of the results page."""
    text = (Path(__file__).parent / "page.md").read_text()
    parts: list[str] = []
    for key, claim in CLAIMS.items():
        arms = [arm for arm in ARMS if key in arm.claims]
        parts += [f"## {claim.sentence}", "", verdict(claim), ""]
        parts += (
            [(count_table if claim.task == "counting" else table)(arms, claim.baseline), ""]
            if has_own_runs(key)
            else []
        )
        if key in figures:
            parts += [f"![{claim.sentence}]({key}.png)", ""]
    shown = {"rl-vs-start", "rl-vs-able", "rl-vs-sft"}
    measured = [arm for arm in ARMS if shown & {*arm.claims} and seeds_of(arm.name)]
    n_runs = sum(len(seeds_of(arm.name)) for arm in ARMS if arm.method != "none")
    minutes = [m for arm in ARMS for seed in seeds_of(arm.name) if (m := record_of(arm.name, seed)["minutes"])]
    values = {
        "claims": "\n".join(parts),
        "sets": sets_table(measured),
        "alarms": alarms_table(),
        "ranking": ranking(),
        "n_runs": str(n_runs),
        "hours": f"{sum(minutes) / 60:.1f}",
    }
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    return text


SUMMARY = (
    ("reward, by the last thresholds", "reward"),
    ("F1 at IoU .5", "f1_50"),
    ("mean IoU", "iou_mean"),
    ("boxes per object (best: 1)", "boxes_per_target"),
    ("AP", "AP"),
)
OTHERS = (
    ("left: SFT on the same questions", "sft", "rl"),
    ("left: strict thresholds from the first step", "strict", "rl"),
    ("left: no schedule", "off", "rl"),
    ("left: VLM-R1's `od_ap` as released", "ap-released", "rl"),
    ("left: recall alone as the reward", "recall-alone", "rl"),
    ("from a start without planted habits", "able", "rl-able"),
    ("from that start; left: SFT", "sft-able", "rl-able"),
)
"""README's rows of other arms: what is compared, the arm in the left column, the one in the right."""
BEGIN, END = "<!-- results -->\n", "<!-- /results -->"


def summary() -> str:
    """Write README's table: the first command before and after."""
    n_seeds, n_scenes = len(seeds_of("rl")), next(each.n_scenes for each in SETS if each.name == "in_domain")
    head = f"first command, {n_seeds} seeds, {n_scenes:,} held-out scenes"
    lines = [f"| {head} | before | after | change, 95 % interval over scenes and seeds; lowest and highest seed |"]
    lines.append("|---|---|---|---|")
    rows = [(label, "start", "rl", key, IN_DOMAIN) for label, key in SUMMARY]
    rows.append((f"F1, mean of {len(OUT_OF_DOMAIN)} sets out of domain", "start", "rl", "f1_50", OUT_OF_DOMAIN))
    for label, left, right in OTHERS:
        n_seeds = min(len(seeds_of(right if left == "able" else left)), len(seeds_of(right)))
        if n_seeds:
            rows.append((f"F1 ({label}; {n_seeds} seed{'s'[: n_seeds != 1]})", left, right, "f1_50", IN_DOMAIN))
    for label, baseline, arm, key, sets in rows:
        before, after = mean_of(baseline, key, sets), mean_of(arm, key, sets)
        lines.append(f"| {label} | {before:.3f} | {after:.3f} | {difference(arm, baseline, key, sets)} |")
    return "\n".join(lines)


def put_summary(readme: str) -> str:
    """Return a README with the current table between its marks."""
    head, _, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{summary()}\n\n{end}{tail}"


# --- figures ---------------------------------------------------------------------------------------------------------


def curve_of(arm: str, key: str) -> tuple[Array, Array]:
    """Return the steps, and a training metric of shape (seeds, steps)."""
    curves = [
        [each for each in record_of(arm, seed)["curve"] if f"visionr1/{key}/mean" in each] for seed in seeds_of(arm)
    ]
    n_steps = min(map(len, curves))
    return np.array([each["step"] for each in curves[0][:n_steps]], dtype=float), np.array(
        [[each[f"visionr1/{key}/mean"] for each in curve[:n_steps]] for curve in curves]
    )


def draw_curves(claim: str, folder: Path) -> bool:
    """Draw the training curves of a claim's arms: F1, and boxes per object; False without curves."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    arms = [arm for arm in ARMS if claim in arm.claims and arm.method == "rl" and seeds_of(arm.name)]
    if not arms or not has_own_runs(claim) or CLAIMS[claim].task == "counting":
        return False
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, (label, key) in zip(
        axes, (("F1@.5 of training rollouts", "f1_50"), ("boxes per object", "boxes_per_target")), strict=True
    ):
        for arm in arms:
            steps, values = curve_of(arm.name, key)
            (line,) = axis.plot(steps, values.mean(axis=0), label=f"{arm.name} ({len(values)})")
            axis.fill_between(
                steps, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.12, linewidth=0
            )
            alarm_steps = [s for seed in seeds_of(arm.name) if (s := first_alarm(arm.name, seed)) is not None]
            if claim == "hacking" and alarm_steps:
                axis.axvline(min(alarm_steps), color=line.get_color(), linestyle=":", linewidth=1)
        axis.set_xlabel("step")
        axis.set_title(label, fontsize=10)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(folder / f"{claim}.png", dpi=120)
    plt.close(figure)
    return True


def first_alarm(arm: str, seed: int) -> int | None:
    """Return the first step at which an alarm was on."""
    return min(replay(record_of(arm, seed)["curve"]).first.values(), default=None)


def alarms_table() -> str:
    """Write a Markdown table: the current alarms on each recorded run, and the step at which F1 was damaged."""
    lines = ["| run | F1 of training rollouts damaged at step | alarms |", "|---|---|---|"]
    for arm in ARMS:
        for seed in seeds_of(arm.name) if arm.method == "rl" and arm.task == "detection" else ():
            found = replay(record_of(arm.name, seed)["curve"])
            lines.append(f"| `{arm.name}`, seed {seed} | {found.damaged_at or 'never'} | {found} |")
    return "\n".join(lines)


def ranking() -> str:
    """Write a Markdown table: which reward orders all models evaluated in domain as AP does."""
    runs = [(arm.name, i, record_of(arm.name, seed)) for arm in ARMS for i, seed in enumerate(seeds_of(arm.name))]
    known = [(name, i, record) for name, i, record in runs if record.get("rewards")]
    return ranking_table([r for _, _, r in known], [numbers_of(name, "AP", IN_DOMAIN)[i][0] for name, i, _ in known])


def main(
    folder: Annotated[Path, typer.Option(help="Folder to write.")] = ROOT / "docs" / "results",
) -> None:
    """Write the page of results and its figures."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = [key for key in CLAIMS if draw_curves(key, folder)]
    (folder / "README.md").write_text(page(figures))
    if RESULTS == PUBLISHED:
        readme = ROOT / "README.md"
        readme.write_text(put_summary(readme.read_text()))
    typer.echo(f"{folder / 'README.md'}: {len(figures)} figures")


if __name__ == "__main__":
    typer.run(main)
