"""Files and state of the gallery that a run writes beside its validation dumps."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path

PAGE, LOG, LOCK = "gallery.html", "gallery.log", ".gallery.lock"
"""In `trainer.validation_data_dir`: the page, the log of the process that writes it, and its lock."""
POLL_SECONDS = 0.2


def wait_for_page(folder: Path, seconds: float) -> bool:
    """Wait while a process writes the page; returns whether none is writing it."""
    end = time.monotonic() + seconds
    while is_locked := _is_locked(folder / LOCK):
        if time.monotonic() >= end:
            break
        time.sleep(POLL_SECONDS)
    return not is_locked


def _is_locked(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


def describe_page(folder: Path, seconds: float = 0.0) -> str:
    """Describe in one line where the page is, or why it is missing and how to write it.

    Args:
        seconds: how long to wait for a process that writes it.
    """
    dumps = [file for file in folder.glob("*.jsonl") if file.stem.isdecimal()]
    if not dumps:
        return f"not written: no validation dumps in {folder}; set trainer.validation_data_dir"
    is_done, page = wait_for_page(folder, seconds), folder / PAGE
    command = f"visionr1 gallery {folder} --out {page}"
    if not page.is_file():
        log = f"; see {folder / LOG}" if (folder / LOG).is_file() else ""
        return f"not written{log}; to write it: {command}" if is_done else f"{page} (still being written)"
    if page.stat().st_mtime >= max(file.stat().st_mtime for file in dumps):
        return str(page)
    return f"{page} (the last validation is " + (f"not in it; {command})" if is_done else "being added)")
