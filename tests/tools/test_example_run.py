"""The finished run of docs/example: its record tells every tool how it was scored, and where its images are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from verl_visionr1.cli.judging import NO_OPTIONS, judging_for
from verl_visionr1.rollouts.dumps import rollout_files
from verl_visionr1.rollouts.records import read_rollouts
from verl_visionr1.tools.score.rescore import rescore

EXAMPLE = Path(__file__).parents[2] / "docs" / "example"


def test_its_record_gives_the_saved_rewards_and_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(EXAMPLE), *sys.path])
    import restore

    run, data = tmp_path / "run", tmp_path / "run" / "data" / "val.parquet"
    restore.unpack(run)
    data.parent.mkdir()
    data.touch()
    for _ in range(2):  # restored twice
        restore.write_record(run, data)
    for path in (run, run / "validation" / "11.jsonl"):
        setup = judging_for([path], NO_OPTIONS)
        assert setup.run is not None
        assert (setup.data, setup.judging.frame.name, len(setup.run.starts)) == ([data], "qwen3-vl", 1)
    saved = rescore(read_rollouts(rollout_files([run / "validation"])), judging_for([run], NO_OPTIONS).judging).saved
    assert saved is not None
    assert (saved.n, saved.equal) == (600, 1.0)
