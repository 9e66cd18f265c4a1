"""visionr1 convert exclusion: images of evaluation files are left out of training sets, whatever each calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scene_sets.base import pictures, rows_in
from scene_sets.referring import ann_id_of, python2_pickle, ref, write_lmms_lab
from scene_sets.row_files import write_parquet
from typer.testing import CliRunner, Result

from verl_visionr1.cli import app
from verl_visionr1.conversion import exclusion
from verl_visionr1.conversion.datasets import coco, countbench, records
from verl_visionr1.conversion.identity import Exclusion, read_exclusion
from verl_visionr1.files import RowsError

SPLITS = ("train", "val", "testA", "testB", "testAB", "train", "val", "testA")


def refs_file(folder: Path, splits: tuple[str, ...] = SPLITS) -> Path:
    """refs(unc).p: a ref for each picture."""
    made = [
        ref(i, picture, ann_id_of(picture, picture.things[0]), ["that"], split=split)
        for i, (picture, split) in enumerate(zip(pictures(), splits, strict=True))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "refs(unc).p"
    path.write_bytes(python2_pickle(made))
    return path


def train2017(folder: Path) -> tuple[Path, Path]:
    """COCO's instances_train2017.json and its images: the pictures under their names of 2017."""
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    for picture in pictures():
        name = f"{picture.number:012d}.jpg"
        picture.save(folder / "train2017", name, format="PNG")
        width, height = picture.size
        document["images"].append({"id": picture.number, "file_name": name, "width": width, "height": height})
        entry = {"id": picture.number, "image_id": picture.number, "category_id": 1, "iscrowd": 0}
        document["annotations"].append({**entry, "bbox": picture.things[0].xywh})
    path = folder / "instances_train2017.json"
    path.write_text(json.dumps(document))
    return path, folder / "train2017"


def ids_in(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def built(folder: Path, *sources: Path, splits: tuple[str, ...] = (), collection: str = "") -> list[str]:
    """The lines of a list that are no comments."""
    exclusion.build(folder / "list.txt", sources, splits, collection)
    return ids_in(folder / "list.txt")


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_refcoco_tests_are_left_out_of_coco(tmp_path: Path) -> None:
    """RefCOCO's val and test images lie in COCO's train2017, under other names."""
    lines = exclusion.build(tmp_path / "list.txt", [refs_file(tmp_path)], ["val", "test"])
    assert lines == ["from refs(unc).p split val, test: 6 images, 6 lines"]
    options = coco.Options(task="detection", exclude_image_ids=tmp_path / "list.txt")
    report = coco.convert(*train2017(tmp_path), tmp_path / "coco.parquet", options)
    trained = {int(row["extra_info"]["image_id"]) for row in rows_in(report)}
    tested = {picture.number for picture, split in zip(pictures(), SPLITS, strict=True) if split != "train"}
    assert trained == {picture.number for picture in pictures()} - tested
    assert len(trained) == 2
    assert report.ledger.left_out["image on the exclusion list (--exclude-image-ids)"] == 6


def test_lvis_val_is_left_out_of_coco(tmp_path: Path) -> None:
    """LVIS v1 names its images by coco_url alone; part of its val lies in COCO's train2017."""
    inside, other = pictures()[0].number, 397133
    images = [
        {"id": inside, "coco_url": f"http://images.cocodataset.org/train2017/{inside:012d}.jpg", "width": 1},
        {"id": other, "coco_url": f"http://images.cocodataset.org/val2017/{other:012d}.jpg", "neg_category_ids": []},
    ]
    lvis = written(tmp_path / "lvis_v1_val.json", {"images": images, "annotations": [{"segmentation": [[1]]}]})
    assert built(tmp_path, lvis) == [f"coco:{inside}", f"coco:{other}"]
    options = coco.Options(task="detection", exclude_image_ids=tmp_path / "list.txt")
    report = coco.convert(*train2017(tmp_path), tmp_path / "coco.parquet", options)
    assert report.ledger.left_out["image on the exclusion list (--exclude-image-ids)"] == 1
    assert str(inside) not in {row["extra_info"]["image_id"] for row in rows_in(report)}


def test_a_converted_file_can_be_excluded(tmp_path: Path) -> None:
    """Our own parquet, whether it holds the images or their paths."""
    annotations, images = train2017(tmp_path)
    for embed in (False, True):
        options = coco.Options(task="detection", limit=3, split="val", embed=embed)
        report = coco.convert(annotations, images, tmp_path / "val.parquet", options)
        numbers = sorted(int(row["extra_info"]["image_id"]) for row in rows_in(report))
        assert built(tmp_path, tmp_path / "val.parquet") == [f"coco:{number}" for number in numbers]
        with pytest.raises(RowsError, match=r"val\.parquet: .*split train.*val"):
            built(tmp_path, tmp_path / "val.parquet", splits=("train",))


@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("how", ["countbench", "records"])
def test_rows_that_do_not_name_their_images(how: str, embed: bool, tmp_path: Path) -> None:
    """Neither a place in the source nor a copy named by its content is known to another data set."""
    picture = pictures()[0].save(tmp_path, "a.png").read_bytes()
    out = tmp_path / "val.parquet"
    row = {"image": {"bytes": picture, "path": None}, "question": "How many?", "number": 3, "text": "3 dogs"}
    if how == "countbench":
        path = write_parquet(tmp_path / "a.parquet", [row])
        countbench.convert([path], out, countbench.Options(embed=embed))
    else:
        path = write_parquet(tmp_path / "a.parquet", [{**row, "b": [[1.0, 2.0, 30.0, 40.0]], "l": ["cat"]}])
        column = ["image=image", "boxes=b", "label=l"]
        options = records.Options(column=column, box_format="xyxy-abs", embed=embed, task="detection")
        records.convert(path, out, options)
    with pytest.raises(RowsError) as caught:
        built(tmp_path, out)
    assert str(caught.value).startswith(f"{out.name}: entry 0: ")
    assert ("copy" in str(caught.value)) is not embed


def test_tallyqa(tmp_path: Path) -> None:
    records = [
        {"image": "VG_100K_2/2410408.jpg", "image_id": 92410408, "question": "How many?", "question_id": 3},
        {"image": "val2014/COCO_val2014_000000262148.jpg", "image_id": 12, "question": "How many?"},
        {"image": "VG_100K_2/2410408.jpg", "image_id": 92410408, "question": "And how many?"},
    ]
    expected = ["coco:262148", "vg:2410408"]
    assert built(tmp_path, written(tmp_path / "test.json", records)) == expected
    lines = "".join(f"{json.dumps(record)}\n" for record in records)
    assert built(tmp_path, written(tmp_path / "test.jsonl", lines)) == expected
    table = "image,question\n" + "".join(f"{it['image']},x\n" for it in records)
    assert built(tmp_path, written(tmp_path / "test.csv", table)) == expected
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "test.parquet")
    assert built(tmp_path, tmp_path / "test.parquet") == expected
    (line,) = exclusion.build(tmp_path / "list.txt", [tmp_path / "test.json"])
    assert line == "from test.json: 2 images, 2 lines"


def test_bytes_of_images_are_not_read(tmp_path: Path) -> None:
    (path,) = write_lmms_lab(pictures(), tmp_path / "set")[0]
    named = [it for it in pictures() if any(len(it.of(label)) == 1 for label in it.labels)]
    assert built(tmp_path, path) == [f"coco:{picture.number}" for picture in named]
    columns = {"image": pa.array([b"\xff"]), "image_id": pa.array([4])}
    pq.write_table(pa.table(columns), tmp_path / "plain.parquet")
    assert built(tmp_path, tmp_path / "plain.parquet") == ["4"]
    pq.write_table(pa.table({"image": pa.array([b"\xff"])}), tmp_path / "nameless.parquet")
    with pytest.raises(RowsError, match=r"nameless\.parquet: .*image.*file_name"):
        built(tmp_path, tmp_path / "nameless.parquet")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"img_filename": "pc_1.png", "instruction": "x", "id": 3}, ["pc_1.png"]),
        ({"image_path": "/data/set/a.jpg"}, ["data/set/a.jpg"]),
        ({"image_url": "https://x.org/a/1.jpg?x=1#y"}, ["https://x.org/a/1.jpg?x=1#y"]),
        ({"ImageID": "000a1249af2bc5f0", "XMin": 0.5}, ["000a1249af2bc5f0"]),
        ({"image": ["a/1.png", "a/2.png"], "conversations": []}, ["a/1.png"]),
        ({"image": {"bytes": None, "path": "x.jpg"}}, ["x.jpg"]),
        ({"images": ["/coco/val2017/000000000139.jpg"], "problem": "x"}, ["coco:139"]),
        ({"image": "COCO_val2014_000000000139", "file_name": "x.jpg"}, ["coco:139"]),
        ({"id": 2407890, "regions": []}, ["2407890"]),
        ({"ID": "273271,c9db000d5146c15", "gtboxes": []}, ["273271,c9db000d5146c15"]),
        ({"cocoid": 139, "filename": "139.jpg"}, ["coco:139"]),
        ({"image_id": "000000000139", "question": "x"}, ["139"]),
        ({"image": "iVBORw0KGgo" * 1000, "image_id": 5}, ["5"]),
        ({"sent_ids": [1], "file_name": "8756_2.jpg", "image_id": 8756}, ["8756"]),
    ],
)
def test_records(tmp_path: Path, record: dict[str, Any], expected: list[str]) -> None:
    assert built(tmp_path, written(tmp_path / "val.json", [record])) == expected


def test_plain_numbers_of_a_named_collection(tmp_path: Path) -> None:
    """VQAv2 numbers its images as COCO does, and names none."""
    vqa = {"questions": [{"image_id": 262148, "question": "x", "question_id": 1}, {"image_id": "000000262148"}]}
    path = written(tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json", vqa)
    assert built(tmp_path, path) == ["262148"]
    assert built(tmp_path, path, collection="coco") == ["coco:262148"]


def test_lists_of_names_by_split(tmp_path: Path) -> None:
    fsc = written(tmp_path / "Train_Test_Val_FSC_147.json", {"train": ["1.jpg"], "val": ["2.jpg", "3.jpg"]})
    assert built(tmp_path, fsc, splits=("val",)) == ["2.jpg", "3.jpg"]
    with pytest.raises(RowsError, match=r"split test.*train, val"):
        built(tmp_path, fsc, splits=("test",))
    by_name = written(tmp_path / "annotation_FSC147_384.json", {"2.jpg": {"H": 3}, "7.jpg": {}})
    assert built(tmp_path, by_name) == ["2.jpg", "7.jpg"]


def test_folders_tell_their_collection(tmp_path: Path) -> None:
    folder = tmp_path / "val2017"
    folder.mkdir()
    for name in ("000000000139.jpg", "000000000285.jpg", ".hidden.jpg", "notes.md"):
        (folder / name).write_bytes(b"")
    assert built(tmp_path, folder) == ["coco:139", "coco:285"]


def test_the_list_says_where_its_entries_are_from(tmp_path: Path) -> None:
    refs = refs_file(tmp_path)
    first, second = (picture.number for picture in pictures()[1:3])
    records = [{"file_name": f"COCO_train2014_{number:012d}.jpg"} for number in (second, first, 9)]
    other = written(tmp_path / "other.json", records)
    for _ in range(2):  # the same bytes each time
        lines = exclusion.build(tmp_path / "list.txt", [refs, other], ["testA", "val"])
        assert (tmp_path / "list.txt").read_text().splitlines() == [
            "# from refs(unc).p split testA, val: 5 images",
            *[f"coco:{pictures()[i].number}" for i in (1, 2, 4, 6, 7)],
            "# from other.json: 3 images",
            "coco:9",
        ]
    assert lines == ["from refs(unc).p split testA, val: 5 images, 5 lines", "from other.json: 3 images, 1 lines"]


def test_a_source_is_not_written_over(tmp_path: Path) -> None:
    """The converters take their output last, this one first."""
    refs = refs_file(tmp_path)
    before = refs.read_bytes()
    with pytest.raises(RowsError, match=r"refs\(unc\)\.p: .*\.txt"):
        exclusion.build(refs, [tmp_path / "list.txt"])
    assert refs.read_bytes() == before


@pytest.mark.parametrize("name", ["# a.jpg", "a #1.jpg", " a.jpg", "a\nb.jpg"])
def test_names_that_read_as_something_else_are_refused(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "val.json", [{"file_name": name}])
    with pytest.raises(RowsError, match="rename the file"):
        built(tmp_path, path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.json", None, "none.json: no such file; check the path"),
        ("a.json", [], "a.json: "),
        ("a.json", [7], "a.json: entry 0: '7'"),
        ("a.json", {"info": {}, "licenses": []}, "neither images, scenes, annotations, questions, data nor"),
        ("a.json", "[1", "a.json: not complete JSON"),
        ("a.docx", "x", "a.docx: unknown kind of file"),
        ("a.jsonl", "{\n", "a.jsonl: line 1: '{\\n' is not JSON (Input data was truncated)"),
        ("a.parquet", "x", "a.parquet: not a whole parquet file"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        written(path, content)
    with pytest.raises(RowsError) as caught:
        built(tmp_path, path)
    assert message in str(caught.value)


def command(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["convert", "exclusion", *map(str, arguments)], env={"COLUMNS": "200"})


def test_command(tmp_path: Path) -> None:
    done = command(tmp_path / "list.txt", refs_file(tmp_path), "--split", "val", "--split", "testB")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "from refs(unc).p split val, testB: 4 images, 4 lines",
        f"list: {tmp_path}/list.txt",
    ]
    assert ids_in(tmp_path / "list.txt") == [f"coco:{pictures()[i].number}" for i in (1, 3, 4, 6)]


def test_names_are_compared_with_the_folders_that_both_say(tmp_path: Path) -> None:
    """Other folders hold other images of the same name."""
    built(tmp_path, written(tmp_path / "test.json", [{"file_name": "part_A/images/IMG_1.jpg"}, {"file_name": "b.jpg"}]))
    excluded = read_exclusion(tmp_path / "list.txt")
    for name in ("part_A/images/IMG_1.jpg", "x/part_A/images/IMG_1.jpg", "images\\IMG_1.jpg", "IMG_1.jpg", "any/b.jpg"):
        assert excluded.holds("1", name)
    for name in ("part_B/images/IMG_1.jpg", "train/IMG_1.jpg", "part_A/images/xIMG_1.jpg", "images/IMG_2.jpg"):
        assert not excluded.holds("1", name)


def test_visual_genome_is_known_by_both_of_its_numbers(tmp_path: Path) -> None:
    url = "https://cs.stanford.edu/people/rak248/VG_100K_2/2410408.jpg"
    data = [{"image_id": 2410408, "url": url, "coco_id": 139}, {"image_id": 7, "url": url[:-11] + "7.jpg"}]
    assert built(tmp_path, written(tmp_path / "image_data.json", data)) == ["coco:139", "vg:7", "vg:2410408"]


def test_other_lists(tmp_path: Path) -> None:
    path = written(tmp_path / "old.txt", "# old\ncoco:0139  # a comment\nval2017/000000000285.jpg\nset/a.jpg\n17\n")
    assert built(tmp_path, path) == ["set/a.jpg", "17", "coco:139", "coco:285"]


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        ("coco:00139", "coco:139"),
        ("139# a note", "139"),
        ("139 # a.jpg", "139"),
        ("a.jpg\t# note", "a.jpg"),
        ("a#1.jpg", "a#1.jpg"),
        ("000000000139", "139"),
        ("000000000139.jpg", "coco:139"),
        ("a:b.jpg", "a:b.jpg"),
    ],
)
def test_lines_of_a_list(tmp_path: Path, line: str, entry: str) -> None:
    (tmp_path / "list.txt").write_text(f"#{line}\n  \n{line}\n")
    assert read_exclusion(tmp_path / "list.txt").ids == {entry}


def test_numbers_of_one_set_mean_nothing_in_another() -> None:
    excluded = Exclusion(["vg:139"])
    assert not excluded.holds("139", "COCO_val2014_000000000139.jpg", ["coco:139"])
    assert excluded.holds("139", "139.jpg", ["vg:139"])


def test_a_failure_leaves_the_old_list(tmp_path: Path) -> None:
    built(tmp_path, refs_file(tmp_path))
    before = (tmp_path / "list.txt").read_bytes()
    with pytest.raises(RowsError, match=r"refs\(unc\)\.p: .*split tset.*train, val, testA, testB"):
        built(tmp_path, tmp_path / "refs(unc).p", splits=("tset",))
    assert (tmp_path / "list.txt").read_bytes() == before
    assert not list(tmp_path.glob(".*partial*"))
