"""rows.py: the schema and rows that every project can read; what tools/doctor.py finds; verl's own reader."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from painted import BOX, STORED_WH, a_row, measured, painted, write
from refused import mentions
from scene_sets.base import exif

from verl_visionr1.images import in_upright_frame, prepare_image
from verl_visionr1.row_layouts import EMBED_SCHEMA, PATH_SCHEMA
from verl_visionr1.rows import PLACEHOLDERS, RowError, RowsError, read_rows, target_of
from verl_visionr1.targets import Target, TargetError
from verl_visionr1.tools.doctor import check_parquet


def test_schema_is_frozen() -> None:
    """verl cannot concatenate files whose types differ: a change here breaks every file out there."""
    info = "split: string, index: int64, image_id: string, width: int64, height: int64, task: string"
    info += ", question: string, file_name: string, source_ann: string"
    common = {
        "data_source": "string",
        "prompt": "list<element: struct<role: string, content: string>>",
        "ability": "string",
        "reward_model": "struct<style: string, ground_truth: string>",
        "extra_info": f"struct<{info}>",
    }
    for schema, image in ((PATH_SCHEMA, "string"), (EMBED_SCHEMA, "struct<bytes: binary>")):
        found = {field.name: str(field.type).replace("item:", "element:") for field in schema}
        assert found == {**common, "images": f"list<element: {image}>"}


def test_row_as_written(tmp_path: Path) -> None:
    row = a_row(image_id="7", file_name="a.png", source_ann='{"id":3}', split="val")
    file = write(tmp_path / "a.parquet", [row], provenance={"made_by": "a test"})
    (found,) = read_rows(file)
    index = found["extra_info"].pop("index")
    assert found == {
        "data_source": "test",
        "prompt": [{"role": "user", "content": "<image>Where is it?"}],
        "images": ["/images/a.png"],
        "ability": "grounding",
        "reward_model": {"style": "rule", "ground_truth": row.target.to_json()},
        "extra_info": {
            "split": "val",
            "image_id": "7",
            "width": 160,
            "height": 96,
            "task": "grounding",
            "question": "Where is it?",
            "file_name": "a.png",
            "source_ann": '{"id":3}',
        },
    }
    assert index & 0xFFFFFFFF == 0
    assert json.loads(pq.read_schema(file).metadata[b"visionr1"]) == {"schema": 1, "made_by": "a test"}


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        *(({"question": f"Where is the {it}?"}, (it,)) for it in PLACEHOLDERS),
        ({"target": Target(task="detection", size_wh=(9, 9))}, ((9, 9), (160, 96))),
    ],
)
def test_rows_that_are_refused(changes: dict[str, Any], values: tuple[object, ...]) -> None:
    with pytest.raises(RowError) as caught:
        a_row(**changes)
    assert mentions(caught.value, "/images/a.png: ", *values)


def good_file(folder: Path) -> Path:
    painted().save(folder / "a.png")
    write(folder / "a.parquet", [a_row(str(folder / "a.png"))] * 3)
    return folder / "a.parquet"


def change(path: Path, **columns: Any) -> None:
    """Rewrite the file with other columns: a list of values for the schema's type, an array, or None to drop it."""
    table = pq.read_table(path)
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        if values is None:
            table = table.remove_column(at)
        else:
            array = values if isinstance(values, pa.Array) else pa.array(values, table.schema.field(name).type)
            table = table.set_column(at, name, array)
    pq.write_table(table, path)


def truths(*values: Any) -> list[dict[str, Any]]:
    return [{"style": "rule", "ground_truth": value} for value in values]


def prompts(*values: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": value}] for value in values]


GOOD = a_row().target.to_json()
FINE = "<image>?"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"reward_model": truths(GOOD, "{'a': 1}", GOOD)}, "row 1: reward_model.ground_truth \"{'a': 1}\": JSON is"),
        ({"reward_model": truths(GOOD, GOOD, None)}, "row 2: reward_model.ground_truth is null"),
        ({"reward_model": truths('{"task":"x","size_wh":[1,1]}', GOOD, GOOD)}, "row 0: reward_model"),
        ({"reward_model": [None] * 3}, "row 0: reward_model.ground_truth is null"),
        ({"reward_model": pa.array([{"style": "rule", "ground_truth": 3}] * 3)}, "column 'reward_model' is struct<"),
        ({"reward_model": None}, "no column 'reward_model' (it has data_source, prompt"),
        ({"images": None}, "no column 'images'"),
        ({"images": pa.array([[{"path": "/a"}]] * 3)}, "column 'images' is list<"),
        ({"images": [["/none/b.png"]] * 3}, "row 0: images: '/none/b.png'"),
        ({"images": [["b.png"]] * 3}, "row 0: images: 'b.png'"),
        ({"images": [[]] * 3}, "row 0: prompt has 1 '<image>' for 0 images: '<image>Where"),
        ({"images": [None] * 3}, "row 0: prompt has 1 '<image>' for 0 images"),
        ({"prompt": prompts(FINE, FINE, "no picture")}, "row 2: prompt has 0 '<image>' for 1 images: 'no picture'"),
        ({"prompt": [[]] * 3}, "row 0: prompt = []"),
        ({"data_source": ["a", None, "a"]}, "row 1: data_source = None"),
        ({"extra_info": [{"index": 5}, {"index": 6}, {"index": 5}]}, "row 2: extra_info.index = 5"),
        ({"extra_info": [None] * 3}, "row 0: extra_info.index = None"),
    ],
)
def test_what_check_parquet_finds(columns: dict[str, Any], expected: str, tmp_path: Path) -> None:
    path = good_file(tmp_path)
    assert check_parquet(path) == []
    change(path, **columns)
    problem = str(check_parquet(path)[0])
    assert problem.startswith(f"{path}: {expected}")
    assert "\n" not in problem
    assert "convert it again" in problem


def test_check_parquet_names_file_problems(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("not parquet")
    (tmp_path / "empty.parquet").touch()
    good = good_file(tmp_path)
    (tmp_path / "cut.parquet").write_bytes(good.read_bytes()[:-100])
    pq.write_table(PATH_SCHEMA.empty_table(), tmp_path / "norow.parquet")
    for name, expected in (
        ("none.parquet", "no such file; check the path"),
        ("text.parquet", "not a whole parquet file"),
        ("empty.parquet", "not a whole parquet file"),
        ("cut.parquet", "not a whole parquet file"),
        ("norow.parquet", "has no row; convert it again"),
        ("", "is a folder; name its parquet files"),
    ):
        (problem,) = check_parquet(tmp_path / name)
        assert problem.row is None
        assert str(problem).startswith(f"{tmp_path / name}: {expected}")
        assert "\n" not in str(problem)


@pytest.mark.parametrize("reward_model", ["text", {"ground_truth": {"boxes": []}}, {"ground_truth": 7}, {}, None])
def test_ground_truth_of_another_project(reward_model: Any) -> None:
    with pytest.raises(TargetError) as caught:
        target_of({"reward_model": reward_model})
    truth = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    assert mentions(caught.value, "reward_model.ground_truth", truth or "null")


def test_garbled_page_is_named(tmp_path: Path) -> None:
    """The footer is fine, so the file opens; what is wrong shows when the rows are read."""
    path = good_file(tmp_path)
    whole = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(0)
    whole[column.dictionary_page_offset : column.data_page_offset] = b"\xff" * (
        column.data_page_offset - column.dictionary_page_offset
    )
    path.write_bytes(whole)
    with pytest.raises(RowsError) as caught:
        list(read_rows(path))
    assert mentions(caught.value, path, "not a whole parquet file")
    (problem,) = check_parquet(path)
    assert "\n" not in str(problem)


def test_check_parquet_stops_at_its_limit(tmp_path: Path) -> None:
    path = good_file(tmp_path)
    change(path, reward_model=truths("", "", ""))
    assert len(check_parquet(path)) == 3
    assert len(check_parquet(path, limit=2)) == 2


def test_read_rows_names_a_missing_column(tmp_path: Path) -> None:
    with pytest.raises(RowsError) as caught:
        list(read_rows(good_file(tmp_path), columns=["answer"]))
    assert mentions(caught.value, "'answer'", "data_source")


def verl_dataset(files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import datasets
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    processor = type("Processor", (), {"image_processor": type("ImageProcessor", (), {"patch_size": 14})()})()
    config = OmegaConf.create({"filter_overlong_prompts": False, "cache_dir": str(cache)})
    return RLHFDataset([str(file) for file in files], tokenizer=None, config=config, processor=processor)  # type: ignore[arg-type]


@pytest.mark.verl
@pytest.mark.parametrize("embed", [False, True])
def test_verl_reads_our_rows(embed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through verl's dataset and qwen_vl_utils the model gets the upright pixels the target speaks of."""
    made = []
    for i, orientation in enumerate((1, 6)):
        path = tmp_path / f"{i}.jpg"
        painted((280, 168)).save(path, exif=exif(orientation), quality=95)
        image = prepare_image(path, embed=embed, copies_dir=tmp_path / "up")
        boxes = in_upright_frame([BOX], image, (280, 168))
        target = Target(task="grounding", size_wh=image.size_wh, boxes_xyxy=boxes, labels=["red box"])
        made.append(a_row(image=image, target=target))
    dataset = verl_dataset([write(tmp_path / "a.parquet", made, embed=embed)], tmp_path / "cache", monkeypatch)
    assert len(dataset) == 2
    for i in range(2):
        row = dataset[i]
        target = Target.from_json(row["reward_model"]["ground_truth"])
        assert row["index"] == row["extra_info"]["index"]
        assert [part["type"] for part in row["raw_prompt"][0]["content"]] == ["image", "text"]
        (picture,), _, _ = dataset._process_multi_modal_info(row["raw_prompt"], 14, dataset.config)
        assert picture.size == target.size_wh  # multiples of 28: no rescaling
        pixels = io.BytesIO()
        picture.save(pixels, "PNG")
        pixels.seek(0)
        assert measured(pixels) == target.boxes_xyxy[0]


@pytest.mark.verl
def test_verl_concatenates_files_of_both_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    painted().save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    detection = Target(
        task="detection", size_wh=STORED_WH, categories=["a", "b"], ignore_xyxy=[BOX], boxes_xyxy=[], labels=[]
    )
    files = [
        write(tmp_path / "grounding.parquet", [a_row(path)] * 3, provenance={"task": "grounding"}),
        write(tmp_path / "detection.parquet", [a_row(path, target=detection)] * 2, provenance={"task": "detection"}),
    ]
    dataset = verl_dataset(files, tmp_path / "cache", monkeypatch)
    assert [dataset[i]["ability"] for i in range(5)] == ["grounding"] * 3 + ["detection"] * 2
    assert len({dataset[i]["index"] for i in range(5)}) == 5
