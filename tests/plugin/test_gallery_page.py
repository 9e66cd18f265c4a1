"""The page that a run writes of its validation: real children, on dumps as verl writes them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import DictConfig, OmegaConf

from verl_visionr1 import PRESETS, Target, score

pytestmark = pytest.mark.verl

TARGET = Target(task="grounding", size_wh=(640, 480), boxes_xyxy=[[64, 48, 128, 96]], labels=["odd cat"])
RIGHT = '[{"bbox_2d": [100, 100, 200, 200], "label": "odd cat"}]'  # of 1000, as Qwen3-VL speaks
WEIGHTS = {"format": 0.0, "recall": 1.0, "precision": 0.0}


def dump(folder: Path, step: int, *, old: bool = True) -> Path:
    """A validation dump of two rollouts; `old`: written a minute ago."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{step}.jsonl"
    rows = [{"input": "every odd cat", "output": text, "gts": TARGET.to_json(), "step": step} for text in (RIGHT, "[]")]
    preset = PRESETS["visionr1"].with_weights(WEIGHTS)
    saved = [score(row["output"], TARGET, preset=preset, frame="qwen3-vl", progress=1.0).value for row in rows]
    lines = [json.dumps({**row, "score": saved[i], "uid": f"{i}_0_0"}) + "\n" for i, row in enumerate(rows)]
    file.write_text("".join(lines))
    if old:
        os.utime(file, (time.time() - 60, time.time() - 60))
    return file


def config_of(folder: Path | None, **settings: object) -> DictConfig:
    page = {"gallery": {"class": "verl_visionr1.runtime.gallery_page.PageWriter"}}
    routes = {"task": {"counting": "counting"}}
    own = {"frame": "qwen3-vl", "weights": WEIGHTS, "routes": routes, "extensions": page, **settings}
    return OmegaConf.create(
        {
            "actor_rollout_ref": {"actor": {"optim": {"total_training_steps": 40}}, "model": {"path": None}},
            "data": {"max_response_length": 100, "val_files": ["/no/such.parquet"]},
            "trainer": {
                **{"validation_data_dir": folder and str(folder), "experiment_name": "a run"},
                **{"default_local_dir": folder and str(folder / "checkpoints"), "resume_mode": "disable"},
            },
            "reward": {"reward_kwargs": {"visionr1": own}},
        }
    )


def recorded(config: DictConfig) -> None:
    """What the run writes down when it starts."""
    from verl_visionr1.plugin.config import settings_of
    from verl_visionr1.plugin.run_record import write_record

    assert write_record(config, settings_of(config))


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def test_each_new_dump_makes_a_page_by_one_child_at_a_time(tmp_path: Path) -> None:
    from verl_visionr1.runtime.gallery_page import LOG, PAGE, PageWriter, start

    config = config_of(tmp_path)
    recorded(config)
    writer, page = PageWriter(config), tmp_path / PAGE
    writer.after_sample(1)
    assert writer.child is None, "nothing was dumped yet"
    dump(tmp_path, 0, old=False)
    writer.after_sample(1)
    assert writer.child is None, "the dump may still be being written"

    dump(tmp_path, 0)
    began = time.monotonic()
    writer.after_sample(1)
    assert time.monotonic() - began < 1.0, "training does not wait"
    first = writer.child
    assert first is not None
    until(lambda: first.poll() is not None or os.getpriority(os.PRIO_PROCESS, first.pid) == 19)
    dump(tmp_path, 5)
    writer.after_sample(1)
    assert writer.child is first, "one at a time"
    assert start(tmp_path, config) is None, "whoever starts it"
    assert first.wait(60) == 0, (tmp_path / LOG).read_text()
    html = page.read_text()
    assert "odd cat" in html
    assert "a run: validation" in html
    assert '"differs":true' not in html, "judged by the weights of the run"

    writer.after_sample(1)
    second = writer.child
    assert second not in (None, first), "of the dump that came meanwhile"
    assert second.wait(60) == 0
    writer.after_sample(1)
    assert writer.child is None, "nothing new"


def test_a_child_that_fails_is_a_warning_and_the_next_dump_has_its_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from verl_visionr1.runtime.gallery_page import LOG, PageWriter

    writer = PageWriter(config_of(tmp_path))
    dump(tmp_path, 0).write_text("no json\n")
    os.utime(tmp_path / "0.jsonl", (1.0, 1.0))
    writer.after_sample(1)
    assert writer.child is not None
    assert writer.child.wait(60) != 0
    writer.after_sample(1)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning == f"visionr1: gallery: exit code 2; see {tmp_path / LOG}"
    assert "visionr1 gallery: " in (tmp_path / LOG).read_text()
    dump(tmp_path, 0)
    writer.after_sample(1)
    assert writer.child is not None
    writer.child.kill()  # whatever ends it
    writer.child.wait()
    writer.after_sample(1)
    assert "exit code -9" in caplog.records[-1].getMessage()


def test_what_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from verl_visionr1.runtime.gallery_page import LOCK, PageWriter

    dump(tmp_path, 0)
    (tmp_path / LOCK).mkdir()
    writer = PageWriter(config_of(tmp_path))
    writer.after_sample(1)
    writer.after_sample(1)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("visionr1: gallery: IsADirectoryError: ")


@pytest.mark.parametrize(("folder", "settings"), [(None, {}), ("val", {"extensions": {"gallery": None}})])
def test_without_dumps_or_when_off_there_is_none(tmp_path: Path, folder: str | None, settings: dict) -> None:
    from verl_visionr1.runtime.gallery_page import PageWriter

    if folder:
        dump(tmp_path / folder, 0)
    writer = PageWriter(config_of(folder and tmp_path / folder, **settings))
    writer.after_sample(1)
    assert writer.child is None


def test_the_end_of_a_run_waits_for_the_page_of_its_last_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hydra.core.utils import JobStatus

    from verl_visionr1.runtime.gallery_page import PAGE, GalleryCallback

    def ended(config: DictConfig, status: JobStatus) -> str:
        dump(tmp_path, 0)
        GalleryCallback().on_run_end(config, job_return=SimpleNamespace(status=status))
        return capsys.readouterr().out

    config = config_of(tmp_path)
    assert ended(config_of(tmp_path, extensions={}), JobStatus.COMPLETED) == ""
    assert ended(config, JobStatus.FAILED) == ""
    assert not (tmp_path / PAGE).exists()
    assert ended(config, JobStatus.COMPLETED) == f"visionr1: gallery: {tmp_path / PAGE}\n"
    assert "odd cat" in (tmp_path / PAGE).read_text()


def test_the_end_of_a_run_does_not_wait_for_ever(tmp_path: Path) -> None:
    from verl_visionr1.runtime.gallery_page import PAGE, start, write

    file = dump(tmp_path, 0)
    file.write_text(file.read_text() * 20_000)  # no page of so many is written within the second it has
    config = config_of(tmp_path)
    assert write(tmp_path, config, seconds=0.0) == (
        f"gallery: not finished within 0 s; write it with visionr1 gallery {tmp_path}"
    )
    child = start(tmp_path, config)
    assert child is not None
    assert write(tmp_path, config, seconds=0.3).endswith(f"process is still writing {tmp_path / PAGE}")
    child.kill()
    child.wait()
