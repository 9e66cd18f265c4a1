"""The table of several seeds of the first command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import tiny_seeds


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """What a finished run leaves that the table reads."""
    folder = tmp_path / "seed_2"
    (folder / "metrics").mkdir(parents=True)
    lines = [{"step": step, "data": {"visionr1/dead_groups": share}} for step, share in ((1, 0.1), (2, 0.3))]
    (folder / "metrics" / "1.jsonl").write_text("\n".join(map(json.dumps, lines)))
    change = {
        "metric": "F1@.5",
        "key": "f1_50",
        "before": 0.5,
        "after": 0.7,
        "difference": 0.2,
        "low": 0.1,
        "high": 0.3,
    }
    report = {"sections": [{"source": "s", "n_prompts": 20, "metrics": [{**change, "mark": "better"}]}]}
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "minutes").write_text("8.5\n")
    return folder


def test_a_seed_is_read_from_its_run(run_dir: Path) -> None:
    seed = tiny_seeds.read_seed(run_dir)
    assert (seed["seed"], seed["minutes"], seed["n_prompts"]) == (2, 8.5, 20)
    assert (seed["dead_groups_max"], seed["dead_groups_mean"]) == (0.3, pytest.approx(0.2))
    assert seed["metrics"]["F1@.5"]["difference"] == 0.2


def test_the_table_has_the_mean_over_seeds_and_each_interval(run_dir: Path) -> None:
    seed = tiny_seeds.read_seed(run_dir)
    other = {**seed, "seed": 3, "minutes": None, "metrics": {"F1@.5": {**seed["metrics"]["F1@.5"], "difference": 0.4}}}
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in tiny_seeds.tabulate([seed, other]).splitlines()
    ]
    assert rows[0] == ["", "before", "after", "change, mean", "seed 2", "seed 3"]
    assert rows[2][:4] == ["F1@.5", "0.500", "0.700", "**+0.300**"]
    assert rows[2][4].split()[0] == "+0.200"
    assert [row[4:] for row in rows if row[0] == "minutes"] == [["8.5", ""]]
