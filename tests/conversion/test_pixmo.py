"""visionr1 convert pixmo: fetched images, dead links, the unit of points, counts of 0."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from refused import bad_entry

from verl_visionr1.conversion.datasets import pixmo
from verl_visionr1.files import RowsError
from verl_visionr1.rows import read_rows, target_of

WH = (640, 480)
POINTS = [(320.0, 240.0), (600.5, 470.25)]


def sha(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def photo(red: int, size: tuple[int, int] = WH) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (red, 90, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def as_lists(points: list[tuple[float, float]]) -> dict[str, list[float]]:
    return {"x": [x for x, _ in points], "y": [y for _, y in points]}


def as_structs(points: list[tuple[float, float]]) -> list[dict[str, float]]:
    return [{"x": x, "y": y} for x, y in points]


class Source:
    """PixMo in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images, self.out = folder, folder / "pixmo_images", folder / "out.parquet"
        self.images.mkdir()
        self.records: list[dict[str, Any]] = []

    def row(self, points: Any, label: str = "people", *, file: str | None = "{content}", **changes: Any) -> None:
        """A row, and its image under a name that its hashes make."""
        number = len(self.records)
        url, data = f"https://example.org/{number}.jpg?x=1#y", photo(number)
        if file is not None:
            path = self.images / file.format(content=sha(data), url=sha(url))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        count = len(points["x"]) if isinstance(points, dict) else len(points or ())
        record = {"image_url": url, "image_sha256": sha(data), "count": count, "points": points, "label": label}
        self.records.append({**record, **changes})

    def path(self, name: str = "train-00000-of-00001.parquet") -> Path:
        pq.write_table(pa.Table.from_pylist(self.records), self.folder / name)
        return self.folder / name

    def convert(self, **options: Any) -> tuple[list[dict[str, Any]], Any]:
        report = pixmo.convert([self.path()], self.images, self.out, pixmo.Options(**options))
        return list(read_rows(self.out)), report


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


@pytest.mark.parametrize("nothing", [None, {"x": [], "y": []}])
def test_evaluation_files_have_no_points(source: Source, nothing: Any) -> None:
    source.row(nothing, count=5)
    (row,), report = source.convert(task="both")
    assert (target_of(row).task, target_of(row).count, target_of(row).points_xy) == ("counting", 5, ())
    assert report.ledger.left_out["pointing row without points"] == 1


def test_counts_of_zero_are_kept_and_allowed_for(source: Source) -> None:
    source.row(as_structs(POINTS))
    source.row([], "unicorns")
    rows, report = source.convert(task="pointing")
    assert [len(target_of(row).points_xy) for row in rows] == [2, 0]
    assert report.negatives == {"pointing": 1}
    assert all("If there is none, output []." in row["prompt"][0]["content"] for row in rows)
    rows, _ = source.convert(task="pointing", negatives=0.0)
    assert [len(target_of(row).points_xy) for row in rows] == [2]
    assert "If there is none" not in rows[0]["prompt"][0]["content"]


def test_dead_links_are_left_out(source: Source) -> None:
    source.row(as_lists(POINTS))
    source.row(as_lists(POINTS), file=None)
    source.row(as_lists(POINTS), file="photo.jpg")
    rows, report = source.convert()
    assert len(rows) == 1
    assert report.ledger.left_out == {"row whose image is not in the folder": 2}


def test_image_that_has_changed_is_left_out(source: Source) -> None:
    source.row(as_lists(POINTS))
    source.row(as_lists(POINTS), file="{url}", image_sha256=sha("before"))
    rows, report = source.convert()
    assert len(rows) == 1
    assert report.ledger.left_out == {"row whose image is not the annotated one (image_sha256, --verify-images)": 1}
    assert len(source.convert(verify_images=False)[0]) == 2


def grid(width: float, height: float, n: int = 30) -> list[tuple[float, float]]:
    """Points all over an image of this size."""
    return [(width * (i % 6 + 0.5) / 6, height * (i // 6 + 0.5) / 5) for i in range(n)]


def test_each_file_has_its_own_unit(source: Source) -> None:
    source.row(as_structs(grid(100, 100)))
    first = source.path("train-0.parquet")
    source.records[0]["points"] = as_structs(grid(*WH))
    second = source.path("train-1.parquet")
    pixmo.convert([first, second], source.images, source.out)
    rows = list(read_rows(source.out))
    assert target_of(rows[0]).points_xy == target_of(rows[1]).points_xy
    assert [json.loads(row["extra_info"]["source_ann"])["point_unit"] for row in rows] == ["percent", "pixel"]


def test_one_stray_number_does_not_make_pixels_of_percent(source: Source) -> None:
    for _ in range(4):
        source.row(as_structs(grid(100, 100)))
    source.records[0]["points"][0]["x"] = 104.0
    _, report = source.convert(on_error="skip")
    facts = json.loads(pq.read_schema(report.written.file).metadata[b"visionr1"])
    assert facts["point_units"] == "percent"
    assert report.ledger.notes["point outside its image: counted without its place"] == 1
    _, report = source.convert(task="pointing", on_error="skip")
    assert report.ledger.skipped == {"point outside its image": 1}


def test_few_small_numbers_fit_both_units(source: Source) -> None:
    source.row(as_structs([(20.0, 30.0), (50.0, 96.0)]))
    with pytest.raises(RowsError) as caught:
        source.convert()
    shown = "(the largest is 96, the farthest 0.20 of its image's side)"
    assert str(caught.value) == (
        "train-00000-of-00001.parquet: the 4 numbers of points fit both pixels and percent "
        f"{shown}; say which with --point-unit"
    )
    (row,), _ = source.convert(point_unit="pixel")
    assert target_of(row).points_xy == ((20, 30), (50, 96))
    (row,), _ = source.convert(point_unit="percent")
    assert target_of(row).points_xy == ((128, 144), (320, 460.8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, "label"),
        ({"count": 3}, "row 1 ('people'): count is 3, points are 2"),
        ({"points": {"x": [1.0, 2.0], "y": [3.0]}}, "point"),
    ],
)
def test_bad_rows(source: Source, change: dict[str, Any], message: str) -> None:
    source.row(as_lists(POINTS))
    source.row(as_lists(POINTS))
    source.records[1].update(change)
    error, rows, _ = bad_entry(source.convert, point_unit="pixel")
    assert str(error).startswith("train-00000-of-00001.parquet: row 1")
    assert message in str(error)
    assert len(rows) == 1


@pytest.mark.parametrize(("unit", "stray"), [("pixel", (700.0, 4.0)), ("percent", (101.0, 4.0))])
def test_a_point_outside_is_counted_without_its_place(source: Source, unit: str, stray: tuple[float, float]) -> None:
    source.row(as_lists([(50.0, 50.0), stray]))
    (row,), report = source.convert(point_unit=unit)
    assert (target_of(row).count, len(target_of(row).points_xy)) == (2, 1)
    assert report.ledger.notes["point outside its image: counted without its place"] == 1


@pytest.mark.parametrize(
    "file", ["{content}", "{content}.png", "{url}", "{url}.jpeg", "ab/{url}.jpg", "deep/er/{content}.tar.gz"]
)
def test_names_of_images(source: Source, file: str) -> None:
    source.row(as_lists(POINTS), file=file)
    (row,), _ = source.convert()
    assert row["images"] == [
        str(source.images / file.format(content=sha(photo(0)), url=sha(source.records[0]["image_url"])))
    ]


@pytest.mark.parametrize("nothing", [None, ""])
def test_rows_without_sha256_are_taken(source: Source, nothing: str | None) -> None:
    source.row(as_lists(POINTS), file="{url}", image_sha256=nothing)
    (row,), _ = source.convert()
    assert row["extra_info"]["image_id"] == sha(source.records[0]["image_url"])
