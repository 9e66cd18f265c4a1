"""row_writer.py: the same bytes, and no half a file whatever happens."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from painted import a_row, painted, sha256, write
from refused import mentions
from scene_sets.base import exif

from verl_visionr1 import row_writer
from verl_visionr1.files import disk_error
from verl_visionr1.images import prepare_image
from verl_visionr1.row_layouts import LAYOUTS
from verl_visionr1.row_writer import write_rows
from verl_visionr1.rows import Row, RowsError, read_rows
from verl_visionr1.tools.doctor import check_parquet


@pytest.mark.parametrize("embed", [False, True])
def test_same_rows_same_bytes(embed: bool, tmp_path: Path) -> None:
    made = [a_row(f"/{i}.png", data=b"x" * i if embed else None) for i in range(250)]
    first, second, other = (
        sha256(write(tmp_path / folder / "a.parquet", made, embed=embed, provenance={"seed": seed}))
        for folder, seed in (("one", 1), ("two", 1), ("three", 2))
    )
    assert first == second != other


def test_index_is_unique_across_files(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{seed}.parquet", [a_row()] * 3000, provenance={"seed": seed}) for seed in (1, 2)]
    found = [row["extra_info"]["index"] for file in files for row in read_rows(file, columns=["extra_info"])]
    assert len(set(found)) == 6000
    assert all(0 <= index < 2**63 for index in found)


@pytest.mark.parametrize(("size", "expected"), [(10, [100, 100, 50]), (1000, [52, 52, 52, 52, 42])])
def test_row_groups_of_images_stay_small(
    size: int, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyarrow cannot read back a group of 2 GB, and the reader's memory is a group."""
    monkeypatch.setattr(row_writer, "GROUP_BYTES", 64_000)
    file = write(tmp_path / "a.parquet", [a_row(data=b"x" * size) for _ in range(250)], embed=True)
    metadata = pq.read_metadata(file)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == expected
    assert sum(1 for _ in read_rows(file)) == 250


@pytest.mark.parametrize(
    ("name", "options", "value"),
    [("a.parquet", {"embed": True}, "/images/a.png: "), ("a", {}, "/a: "), ("file/a.parquet", {}, "/file/a.parquet: ")],
)
def test_what_cannot_be_written(name: str, options: dict[str, bool], value: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RowsError) as caught:
        write(tmp_path / name, [a_row()], **options)
    assert mentions(caught.value, value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_copy_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    painted().save(tmp_path / "a.jpg", exif=exif(6))
    with pytest.raises(RowsError) as caught:
        prepare_image(tmp_path / "a.jpg", embed=False, copies_dir=tmp_path / "file" / "up")
    assert mentions(caught.value, tmp_path / "file" / "up")


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_exception_leaves_nothing(name: str, tmp_path: Path) -> None:
    def breaks() -> Iterator[Row]:
        yield from [a_row()] * 1200
        assert list(tmp_path.iterdir()) != []
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(breaks(), tmp_path / name, layout=LAYOUTS["trl"])
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    def other_writer() -> Iterator[Row]:
        yield a_row()
        with pytest.raises(RowsError) as caught:
            write(tmp_path / "a.parquet", [a_row("/b.png")])
        assert mentions(caught.value, "a.parquet: ", "another conversion")

    write_rows(other_writer(), tmp_path / "a.parquet")
    assert [row["images"] for row in read_rows(tmp_path / "a.parquet")] == [["/images/a.png"]]


def test_no_row_is_an_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", [a_row()])
    before = sha256(file)
    with pytest.raises(RowsError) as caught:
        write(file, [])
    assert mentions(caught.value, file)
    assert sha256(file) == before
    assert list(tmp_path.iterdir()) == [file]


KILLED = """
import sys
from painted import a_row
from verl_visionr1.row_writer import write_rows
def rows():
    for number in range(10**9):
        yield a_row(data=b"x" * 100_000)
        if number == 399:
            print("written", flush=True)
write_rows(rows(), sys.argv[1], embed=True)
"""


def test_kill_leaves_no_final_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    out = tmp_path / "a.parquet"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(out)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    left = [path.name for path in tmp_path.iterdir()]
    assert left  # it was killed in the middle, not before
    assert all(name.startswith(".") and name.endswith(".partial") for name in left)
    assert "was killed" in str(check_parquet(out)[0])
    write(out, [a_row()])
    assert list(tmp_path.iterdir()) == [out]  # what the killed run left is taken over or removed
    assert check_parquet(out, images=False) == []


@pytest.mark.parametrize("limit", [5_000_000, 21_000_000])
def test_no_room_for_the_file(limit: int, tmp_path: Path) -> None:
    """A limit on the file's size stops a write just as a full disk does; the second value stops the last flush."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(RowsError) as caught:
            write(tmp_path / "a.parquet", [a_row(data=b"x" * 100_000)] * 250, embed=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert mentions(caught.value, "a.parquet: ", "file limit")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_named() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        Path("/dev/full").write_bytes(b"x")
    assert mentions(disk_error(Path("/out/a.parquet"), caught.value), "/out/a.parquet: the disk is full")
