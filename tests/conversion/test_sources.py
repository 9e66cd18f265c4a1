"""What converters share: files that are read record by record, and images inside a source or found by name."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pyarrow as pa
import pytest
from hostile import Hostile
from PIL import Image
from refused import mentions
from some_items import WH, picture

from verl_visionr1.conversion.image_files import embedded_image, files_in
from verl_visionr1.conversion.sources import files_of, read_json, read_pickle, read_records, read_xml
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.images import EmbeddedImage, prepare_image
from verl_visionr1.tools.doctor.examination import data_files


@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_images_inside_a_source_keep_their_bytes(embed: bool, suffix: str, tmp_path: Path) -> None:
    data = picture(tmp_path / f"a{suffix}").read_bytes()
    image = prepare_image(EmbeddedImage("row 1", data), embed=embed, copies_dir=tmp_path / "out")
    assert image.size_wh == WH
    stored = image.data if embed else Path(image.path).read_bytes()
    assert stored == data
    assert embed or Path(image.path).suffix == suffix


def test_turned_image_inside_a_source(tmp_path: Path) -> None:
    data = picture(tmp_path / "a.jpg", orientation=6).read_bytes()
    image = prepare_image(EmbeddedImage("row 1", data), embed=False, copies_dir=tmp_path / "out")
    assert (image.size_wh, Image.open(image.path).size) == (WH[::-1], WH[::-1])
    with pytest.raises(RowError) as caught:
        prepare_image(EmbeddedImage("row 1", b"GIF?"), embed=False, copies_dir=tmp_path / "out")
    assert mentions(caught.value, "row 1: ")


def test_images_of_records(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    path = picture(tmp_path / "b" / "a.png")
    assert embedded_image({"bytes": b"x", "path": "a.png"}, "row 1") == EmbeddedImage("row 1", b"x")
    assert embedded_image({"bytes": None, "path": str(path)}, "row 1") == path
    assert embedded_image("data/b/a.png", "row 1", tmp_path) == path
    assert embedded_image(f"file://{path}", "row 1", tmp_path) == path
    for value, folder, shown in (
        (None, None, "None"),
        ("a.png", None, "'a.png'"),
        (7, None, "7"),
        ("../s", tmp_path, ".."),
    ):
        with pytest.raises(RowError) as caught:
            embedded_image(value, "row 1", folder)
        assert mentions(caught.value, "row 1: ", shown)


def test_records_of_every_kind(tmp_path: Path) -> None:
    records = [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n\n")
    (tmp_path / "a.csv").write_text("a,b\n1,x\n2,y\n")
    (tmp_path / "a.tsv").write_bytes("\ufeffa\tb\n1\tx\n2\ty\n".encode())
    for name in ("a.json", "a.jsonl", "a.csv", "a.tsv"):
        assert [record for _, record in read_records(tmp_path / name)] == records
    assert [where for where, _ in read_records(tmp_path / "a.csv")] == ["a.csv: line 2", "a.csv: line 3"]


def test_lines_are_counted_with_the_blank_ones(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n \n{"a": 2}\n{"a"\n')
    assert [where for where, _ in read_records(tmp_path / "a.jsonl")] == [f"a.jsonl: line {i}" for i in (1, 4, 5)]
    assert "a.jsonl: line 5: " in str(list(read_records(tmp_path / "a.jsonl"))[-1][1])


def test_lines_with_more_fields_than_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,x\n2,y,z\n3,w,\n")
    (_, good), (where, bad), (_, harmless) = read_records(tmp_path / "a.csv")
    assert (good, harmless) == ({"a": "1", "b": "x"}, {"a": "3", "b": "w"})
    assert (where, type(bad)) == ("a.csv: line 3", RowError)
    assert mentions(bad, "a.csv: line 3: ", "'z'")


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("cut.json", '[{"a": 1', ("truncated",)),
        ("nan.json", '[{"a": NaN}]', ("NaN at byte 7",)),
        ("object.json", "{}", ("dict",)),
        ("empty.json", "", ("empty",)),
        ("none.json", None, ()),
        ("a.xyz", "", (".jsonl",)),
        ("a.parquet", "x", ()),
        ("a.arrow", "x", ()),
    ],
)
def test_sources_that_cannot_be_read(name: str, text: str | None, values: tuple[str, ...], tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(RowsError) as caught:
        list(read_records(tmp_path / name))
    assert mentions(caught.value, f"{name}: ", *values)


def test_an_arrow_stream_with_a_wrong_offset(tmp_path: Path) -> None:
    path, table = tmp_path / "a.arrow", pa.table({"a": ["ab", "cd"]})
    with pa.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table)
    good, bad = (b"".join(it.to_bytes(4, "little") for it in ends) for ends in ((0, 2, 4), (0, 2, 2**31 - 1)))
    assert good in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(good, bad))
    with pytest.raises(RowsError) as caught:
        list(read_records(path))
    assert mentions(caught.value, "a.arrow: ")


def test_json_of_another_layout(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(RowsError) as caught:
        read_json(tmp_path / "a.json", list[int], "give the list")
    assert mentions(caught.value, "a.json: ", "array", "give the list")


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    """Whatever leads in a circle."""
    top, elsewhere = tmp_path / "top", tmp_path / "elsewhere"
    for folder in (top / "a", elsewhere / "deep"):
        folder.mkdir(parents=True)
        picture(folder / "x.png")
        (folder / "x.json").write_text("[]")
    links = {"b": elsewhere, "c": elsewhere / "deep", "d": tmp_path, "e": top / "a", "f": Path("nowhere")}
    for name, to in links.items():
        (top / name).symlink_to(to)
    (elsewhere / "deep" / "back").symlink_to(elsewhere)
    (elsewhere / "top").symlink_to(top)
    assert files_in(top) == ["a/x.png", "c/x.png"]
    assert files_of(top, (".json",)) == data_files([top]) == [top / "a" / "x.json", top / "c" / "x.json"]


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "a.p").write_bytes(pickle.dumps([Hostile(tmp_path / "made")]))
    with pytest.raises(RowsError) as caught:
        read_pickle(tmp_path / "a.p")
    assert mentions(caught.value, "a.p: ", ".system")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;&x;&x;">]><a>&y;</a>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
    ],
    ids=["bomb", "external"],
)
def test_xml_with_entities_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(RowError) as caught:
        read_xml(tmp_path / "a.xml")
    assert (caught.value.kind, mentions(caught.value, "a.xml: ")) == ("hostile XML", True)
