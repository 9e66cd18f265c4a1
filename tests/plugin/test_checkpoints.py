"""Checkpoints that a run can resume from, and those that it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_configs import checkpoint, config_of

from verl_visionr1.rollouts.places import TRACKER
from verl_visionr1.runtime import agreement, checkpoints

pytestmark = pytest.mark.verl


def saved(folder: Path, n_workers: int, without: str = "") -> Path:
    """A checkpoint of step 4 with all parts of its workers, but one."""
    step = checkpoint(folder, 4)
    for kind in checkpoints.KINDS:
        for rank in range(n_workers):
            checkpoints.shard_file(step / "actor", kind, n_workers, rank).write_bytes(b"x")
    if without:
        (step / "actor" / without).unlink()
    return step


PARTS = ("", "model_world_size_8_rank_5.pt", "optim_world_size_8_rank_0.pt", "extra_state_world_size_8_rank_7.pt")


@pytest.mark.parametrize("without", PARTS)
def test_a_checkpoint_without_a_part_is_no_start(tmp_path: Path, without: str) -> None:
    step = saved(tmp_path, 8, without)
    found = checkpoints.resume_problems(config_of(f"trainer.default_local_dir={tmp_path}"))
    assert [problem.partition(":")[0] for problem in found] == ([str(step / "actor" / without)] if without else [])
    weights = "actor_rollout_ref.actor.checkpoint.load_contents=[model]"
    found = checkpoints.resume_problems(config_of(f"trainer.default_local_dir={tmp_path}", weights))
    assert bool(found) == without.startswith("model")
    several = config_of(f"trainer.default_local_dir={tmp_path}", "trainer.nnodes=2", "trainer.n_gpus_per_node=4")
    assert checkpoints.resume_problems(several) == [], "the other machine may have it"


@pytest.mark.parametrize("text", ["", "last", "4.0"])
def test_a_tracker_that_names_no_step(tmp_path: Path, text: str) -> None:
    saved(tmp_path, 8)
    (tmp_path / TRACKER).write_text(text)
    (found,) = checkpoints.resume_problems(config_of(f"trainer.default_local_dir={tmp_path}"))
    assert found.startswith(f"{tmp_path / TRACKER}: {text!r} ")


def test_a_path_without_a_checkpoint(tmp_path: Path) -> None:
    step = tmp_path / "global_step_7"
    config = config_of("trainer.resume_mode=resume_path", f"trainer.resume_from_path={step}")
    for _ in range(2):
        (problem,) = checkpoints.resume_problems(config)
        assert problem.startswith(f"{step}: no actor/ in it")
        step.mkdir(exist_ok=True)


def test_checkpoints_that_a_run_passes_by(tmp_path: Path) -> None:
    step = saved(tmp_path, 8)
    run = f"trainer.default_local_dir={tmp_path}"
    assert checkpoints.resume_notes(config_of(run)) == []
    (note,) = checkpoints.resume_notes(config_of(run, f"trainer.resume_from_path={step}"))
    assert note.startswith(f"trainer.resume_from_path={step}: ignored with trainer.resume_mode=auto")
    (tmp_path / TRACKER).write_text("9")
    (note,) = checkpoints.resume_notes(config_of(run))
    assert note.startswith(f"{tmp_path}: holds checkpoints")


@pytest.mark.parametrize("path", ["/x/global_step_4/", "/x/global_step_4/actor", "/x/global_step_last", "/x"])
def test_a_path_whose_step_verl_cannot_read(path: str) -> None:
    run = ("trainer.resume_mode=resume_path", f"trainer.resume_from_path={path}")
    found = [problem for problem in agreement.agreement_problems(config_of(*run)) if "trainer.resume" in problem]
    assert len(found) == 1
    assert path in found[0]
