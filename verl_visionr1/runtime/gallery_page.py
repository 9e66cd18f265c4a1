"""The run's gallery: a page after each dumped validation, written by a child process.

verl dumps validation in a thread without a callback. So the page is started when the next batch is sampled
(`PageWriter`), and for the last validation at the end of the run (`GalleryCallback`).

The child is `visionr1 gallery`, at the lowest priority. Only one runs at a time: it holds a lock on a file while it
lives. Training does not wait for it, and its failure does not affect the run; its output is in `gallery.log`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hydra.core.utils import JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from verl_visionr1.plugin.config import settings_of
from verl_visionr1.plugin.extensions import Extension
from verl_visionr1.rollouts.page import LOCK, LOG, PAGE

logger = logging.getLogger(__name__)

NAME = "gallery"
"""Under `reward.reward_kwargs.visionr1.extensions`; null there: no page."""
SETTLED_SECONDS = 2.0
"""A dump changed within this many seconds may still be being written."""
LAST_SECONDS = 300.0
"""Most seconds that the end of a run waits for the last page."""
_CHILD = "import os; os.nice(19); from verl_visionr1.cli import main; main()"

Dumps = tuple[tuple[str, int, int], ...]
"""Name, size and time of change (nanoseconds) of each dump."""


def folder_of(config: DictConfig) -> Path | None:
    """Folder of the page; None if it is switched off."""
    folder = OmegaConf.select(config, "trainer.validation_data_dir")
    if not folder or settings_of(config).extensions.get(NAME) is None:
        return None
    return Path(str(folder)).expanduser().absolute()


def dumps_of(folder: Path) -> Dumps:
    """List the existing dumps."""
    stats = [(file.name, file.stat()) for file in sorted(folder.glob("*.jsonl"))]
    return tuple([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def age_of(dumps: Dumps) -> float:
    """Seconds since the last change of any dump."""
    return time.time() - max(changed for _, _, changed in dumps) / 1e9


class PageWriter(Extension):
    """Starts a child for each new dump, in the trainer's process."""

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        self.folder = folder_of(config)
        self.shown: Dumps = ()
        self.child: subprocess.Popen[bytes] | None = None

    def after_sample(self, step: int) -> None:
        """Start a child if there is a new dump; fast, never raises."""
        try:
            self._look()
        except Exception as error:  # noqa: BLE001 - a page must not end the run
            logger.warning("visionr1: gallery: %s: %s; no more pages in this run", type(error).__name__, error)
            self.folder = None

    def _look(self) -> None:
        if self.folder is None or (self.child is not None and self.child.poll() is None):
            return
        if self.child is not None and self.child.returncode:
            logger.warning("visionr1: gallery: exit code %s; see %s", self.child.returncode, self.folder / LOG)
        dumps, self.child = dumps_of(self.folder), None
        if dumps and dumps != self.shown and age_of(dumps) >= SETTLED_SECONDS:
            self.child = start(self.folder, self.config)
            self.shown = dumps if self.child is not None else self.shown


def start(folder: Path, config: DictConfig) -> subprocess.Popen[bytes] | None:
    """Start a child that writes the page; None if another one is running."""
    experiment = OmegaConf.select(config, "trainer.experiment_name") or "this run"
    arguments = [str(folder), "--out", str(folder / PAGE), "--title", f"{experiment}: validation"]
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with (folder / LOG).open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-c", _CHILD, "gallery", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),  # held until the child has ended, too
                env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            )
    except BlockingIOError:
        return None
    finally:
        os.close(lock)


class GalleryCallback(Callback):
    """Hydra callback in the process that the user started: the page of the last validation."""

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the page and wait for it, if the run has succeeded and the page lacks its last validation."""
        folder = folder_of(config)
        dumps = dumps_of(folder) if folder is not None else ()
        is_done = getattr(kwargs.get("job_return"), "status", None) == JobStatus.COMPLETED
        if folder is None or not dumps or not is_done or _is_shown(folder, dumps):
            return
        print(f"visionr1: {write(folder, config)}", flush=True)  # noqa: T201 - among the run's own lines


def _is_shown(folder: Path, dumps: Dumps) -> bool:
    """Whether the page was written after all dumps."""
    page = folder / PAGE
    return page.is_file() and time.time() - page.stat().st_mtime < age_of(dumps) - SETTLED_SECONDS


def write(folder: Path, config: DictConfig, seconds: float = LAST_SECONDS) -> str:
    """Write the page and wait for it; returns the outcome in one line."""
    end, child = time.monotonic() + seconds, start(folder, config)
    while child is None and time.monotonic() < end:
        time.sleep(0.2)
        child = start(folder, config)
    if child is None:
        return f"gallery: another process is still writing {folder / PAGE}"
    try:
        code = child.wait(max(end - time.monotonic(), 1.0))
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        return f"gallery: not finished within {seconds:g} s; write it with visionr1 gallery {folder}"
    return f"gallery: {folder / PAGE}" if code == 0 else f"gallery: exit code {code}; see {folder / LOG}"
