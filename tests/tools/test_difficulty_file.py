"""`visionr1 difficulty`: the file that is written holds the chosen rows as they were."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from difficulty_data import a_dump, box_row, count_row, filtered_by, some_rows, write_data

from verl_visionr1 import row_writer
from verl_visionr1.files import RowsError
from verl_visionr1.rows import Row, read_rows
from verl_visionr1.tools.doctor import check_parquet


@pytest.mark.parametrize("embed", [False, True])
def test_rows_stay_as_they_are(embed: bool, tmp_path: Path) -> None:
    rows = some_rows(230, embed)
    file = write_data(tmp_path / "d.parquet", rows, options={"seed": 3})
    dump = a_dump(tmp_path / "1.jsonl", rows)
    out = tmp_path / "new" / "out.parquet"
    report = filtered_by(dump, [file], out, max_rate=0.5)
    before, after = pq.read_table(file), pq.read_table(out)
    assert after.schema.equals(before.schema)
    places = [before["extra_info"].to_pylist().index(info) for info in after["extra_info"].to_pylist()]
    assert after.equals(before.take(places))
    assert len(places) == report.rows["chosen"] == 184
    assert places == sorted(places)
    assert list(check_parquet(out, images=False)) == []
    facts = json.loads(after.schema.metadata[b"visionr1"])
    done = facts.pop("difficulty")
    assert facts == json.loads(before.schema.metadata[b"visionr1"])
    assert [(one["rows_before"], one["rows_after"], one["rules"]["max_rate"]) for one in done] == [(230, 184, 0.5)]
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.parquet"]
    groups = [metadata.row_group(i) for metadata in [pq.read_metadata(out)] for i in range(metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == ([100, 84] if embed else [184])
    assert groups[0].column(0).compression == ("UNCOMPRESSED" if embed else "ZSTD")


def test_the_same_rollouts_give_the_same_bytes(tmp_path: Path) -> None:
    rows = some_rows(60, embed=True)
    file = write_data(tmp_path / "d.parquet", rows)
    written: set[bytes] = set()
    for seed in range(3):
        dump = a_dump(tmp_path / f"run{seed}" / "1.jsonl", rows, seed)
        out = tmp_path / f"{seed}.parquet"
        filtered_by(dump, [file], out, limit=30)
        written.add(out.read_bytes())
    assert len(written) == 1


def test_done_twice_is_told_twice(tmp_path: Path) -> None:
    rows = some_rows(20, embed=False)
    file = write_data(tmp_path / "d.parquet", rows)
    dump = a_dump(tmp_path / "1.jsonl", rows)
    filtered_by(dump, [file], tmp_path / "one.parquet", min_rate=0.25)
    filtered_by(dump, [tmp_path / "one.parquet"], tmp_path / "two.parquet", max_rate=0.5)
    done = json.loads(pq.read_schema(tmp_path / "two.parquet").metadata[b"visionr1"])["difficulty"]
    assert [(one["data"], one["rows_after"]) for one in done] == [(["d.parquet"], 16), (["one.parquet"], 12)]


def test_several_files_become_one(tmp_path: Path) -> None:
    rows = some_rows(40, embed=True)
    files = [write_data(tmp_path / f"{i}.parquet", rows[i * 20 : i * 20 + 20], part=i) for i in range(2)]
    out = tmp_path / "out.parquet"
    report = filtered_by(a_dump(tmp_path / "1.jsonl", rows), files, out, max_rate=0.25, unseen="drop")
    ids = [row["extra_info"]["image_id"] for row in read_rows(out, columns=["extra_info"])]
    assert sorted(ids) == sorted(row.image_id for i, row in enumerate(rows) if i % 5 in (0, 1))
    assert report.rows["total"] == 40
    assert check_parquet(out) == []
    facts = json.loads(pq.read_schema(out).metadata[b"visionr1"])
    assert [part["part"] for part in facts["merged"]] == [0, 1]
    assert facts["schema"] == 1


def foreign(path: Path, rows: Sequence[Row], **options: Any) -> Path:
    """A file that somebody else wrote: more columns, other types, pandas' metadata, no provenance, no extra_info."""
    plain = write_data(path, rows)
    table = pq.read_table(plain).drop_columns(["extra_info"])
    n = len(rows)
    table = table.append_column("note", pa.array([None if i % 3 else {"a": [i, None]} for i in range(n)]))
    table = table.append_column("kind", pa.array([f"k{i % 4}" for i in range(n)]).dictionary_encode())
    table = table.append_column("long", pa.array([f"text {i}" for i in range(n)], pa.large_string()))
    table = table.append_column("when", pa.array(range(n), pa.timestamp("us", "UTC")))
    table = table.append_column("vector", pa.array([[i, i] for i in range(n)], pa.list_(pa.float32(), 2)))
    images = [[{"bytes": row.image.data, "path": f"{i}.png"}] for i, row in enumerate(rows)]
    table = table.set_column(2, "images", pa.array(images))
    metadata = {b"pandas": b'{"index_columns": []}', b"huggingface": b"{}"} | options.pop("metadata", {})
    pq.write_table(table.replace_schema_metadata(metadata), path, **options)
    return path


def test_columns_of_somebody_else_are_kept(tmp_path: Path) -> None:
    rows = some_rows(250, embed=True)
    file = foreign(tmp_path / "d.parquet", rows, row_group_size=60)
    out = tmp_path / "out.parquet"
    filtered_by(a_dump(tmp_path / "1.jsonl", rows), [file], out, max_rate=0.25, unseen="drop")
    before, after = pq.read_table(file), pq.read_table(out)
    assert after.schema.equals(before.schema)
    places = [int(text.split()[1]) for text in after["long"].to_pylist()]
    assert len(places) == 100
    assert after.to_pylist() == before.take(places).to_pylist()
    assert {key: value for key, value in after.schema.metadata.items() if key != b"visionr1"} == before.schema.metadata
    assert [*json.loads(after.schema.metadata[b"visionr1"])] == ["difficulty"]


@pytest.mark.parametrize("text", [b"\xff", b"[1]", b"{"])
def test_a_provenance_that_is_none_is_kept(text: bytes, tmp_path: Path) -> None:
    rows = some_rows(10, embed=True)
    file = foreign(tmp_path / "d.parquet", rows, metadata={b"visionr1": text})
    filtered_by(a_dump(tmp_path / "1.jsonl", rows), [file], out := tmp_path / "out.parquet")
    facts = json.loads(pq.read_schema(out).metadata[b"visionr1"])
    assert sorted(facts) == ["difficulty", "earlier"]


def test_row_groups_have_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_writer, "GROUP_BYTES", 1000)
    rows = some_rows(60, embed=True)  # 50 bytes an image, and about 280 of text
    file = write_data(tmp_path / "d.parquet", rows)
    filtered_by(a_dump(tmp_path / "1.jsonl", rows), [file], out := tmp_path / "out.parquet")
    metadata = pq.read_metadata(out)
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert (sum(sizes), max(sizes)) == (60, 4)


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 24 MB of images, some of which have to be looked at; what pyarrow holds at once is far less."""
    rows = [row(i // 2 * 2, image=bytes([i]) * (1 << 18)) for row in (box_row, count_row) for i in range(48)]
    rows = [replace(row, question=f"{row.question} {i % 2 if i < 48 else ''}") for i, row in enumerate(rows)]
    first = write_data(tmp_path / "d.parquet", rows[:1])
    with pq.ParquetWriter(tmp_path / "e.parquet", pq.read_schema(first), compression="none") as writer:
        for i in range(0, 96, 8):
            writer.write_table(pq.read_table(write_data(first, rows[i : i + 8])))
    dump = a_dump(tmp_path / "1.jsonl", rows)
    monkeypatch.setattr(row_writer, "GROUP_BYTES", 1 << 20)
    usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.system_memory_pool())
    pa.set_memory_pool(pool)
    try:
        filtered_by(dump, [tmp_path / "e.parquet"], tmp_path / "o.parquet")
    finally:
        pa.set_memory_pool(usual)
    assert pq.read_metadata(tmp_path / "o.parquet").num_rows == 96
    assert 0 < pool.max_memory() < 16 << 20


def test_the_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = some_rows(230, embed=True)
    file = write_data(tmp_path / "d.parquet", rows)
    dump = a_dump(tmp_path / "1.jsonl", rows)
    out = tmp_path / "out" / "out.parquet"
    out.parent.mkdir()
    out.write_bytes(b"an older file")
    add = row_writer.RowGroups.add

    def full(self: Any, batch: pa.RecordBatch) -> None:
        add(self, batch)
        if self.n_rows > 70:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(row_writer.RowGroups, "add", full)
    with pytest.raises(RowsError, match=r"out\.parquet: the disk is full; nothing was left behind"):
        filtered_by(dump, [file], out)
    assert [path.name for path in out.parent.iterdir()] == ["out.parquet"]
    assert out.read_bytes() == b"an older file"
