"""Of which image a row speaks, and models that verl cannot train on images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from verl_rows import config_of, judged, manager, model_folder, trajectory, write_rows

from verl_visionr1 import Target
from verl_visionr1.targets import TargetError

PIXELS = Target(task="detection", size_wh=(140, 84), boxes_xyxy=[[14, 14, 70, 42]], labels=["cat"])


def data_of(file: Path) -> dict[str, object]:
    keys = {"image_key": "images", "prompt_key": "prompt"}
    return {"train_files": str(file), "val_files": None, **keys, "max_prompt_length": 4096}


@pytest.mark.verl
@pytest.mark.parametrize("image", [0, 1, 2])
def test_the_target_says_which_image_it_speaks_of(image: int, tmp_path: Path) -> None:
    """Three images, processed to 5x3, 10x6 and 2x2 merged patches of 28 pixels: a perfect answer about each."""
    sizes = ((5, 3), (10, 6), (2, 2))
    reward_manager = manager(frame="auto", model=model_folder(tmp_path))
    from msgspec.structs import replace

    sx, sy = 28 * sizes[image][0] / 140, 28 * sizes[image][1] / 84
    box = [14 * sx, 14 * sy, 70 * sx, 42 * sy]
    text = json.dumps([{"bbox_2d": box, "label": "cat"}])
    result = judged(reward_manager, trajectory(text, replace(PIXELS, image=image), sizes))
    assert result["reward_extra_info"]["iou_mean"] == pytest.approx(1.0)
    assert result["reward_extra_info"]["processed_w"] == 28 * sizes[image][0]
    for unsaid in (PIXELS, replace(PIXELS, image=3)):
        lost = judged(reward_manager, trajectory(text, unsaid, sizes))
        assert (lost["reward_score"], lost["reward_extra_info"]["unscored"]) == (0.0, 1.0)
    one = judged(
        reward_manager, trajectory(json.dumps([{"bbox_2d": [14, 14, 70, 42], "label": "cat"}]), PIXELS, sizes[:1])
    )
    assert one["reward_extra_info"]["iou_mean"] == pytest.approx(1.0)


@pytest.mark.verl
@pytest.mark.parametrize(
    ("model", "is_refused"),
    [("Qwen/Qwen3-VL-8B-Instruct", False), ("Qwen/Qwen2.5-VL-7B-Instruct", True), ("mine/of-unknown-family", True)],
)
def test_a_model_of_the_hub_is_told_by_its_name(
    model: str, is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from verl_visionr1.runtime.run_rows import row_problems

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    file = write_rows(tmp_path / "rows.parquet", [("x", PIXELS.to_json(), "<image><image>Where is the cat?")])
    config = config_of(frame="auto", model=model)
    config.data = data_of(file)
    assert len(row_problems(config)) == is_refused


def test_the_image_of_a_target_survives_json() -> None:
    of_text = Target(task="text", answer="B", image=1)
    assert Target.from_json(of_text.to_json()) == of_text
    assert "image" not in Target(task="text", answer="B").to_json()
    for bad in (-1, 1.5, True):
        with pytest.raises(TargetError, match="image = "):
            Target(task="text", answer="B", image=bad)


@pytest.mark.verl
@pytest.mark.parametrize(
    ("model_type", "frame", "is_refused"),
    [
        ("qwen2_5_vl", "auto", True),
        ("qwen3_vl", "auto", False),
        ("qwen2_5_vl", "qwen3-vl", False),
        ("new_vl", "auto", True),
    ],
)
def test_rows_of_several_images_are_refused_before_training(
    model_type: str, frame: str, is_refused: bool, tmp_path: Path
) -> None:
    from msgspec.structs import replace

    from verl_visionr1.runtime.run_rows import row_problems

    two = "<image><image>Where is the cat in the second?"
    of_text = Target(task="text", answer="B")
    truths = [(PIXELS, "<image>?"), (replace(PIXELS, image=1), two), (of_text, two), (PIXELS, two)]
    file = write_rows(tmp_path / "rows.parquet", [("x", truth.to_json(), question) for truth, question in truths])
    config = config_of(frame=frame, model=model_folder(tmp_path, model_type))
    config.data = data_of(file)
    found = row_problems(config)
    assert len(found) == is_refused
    assert all(problem.startswith(f"data.train_files: {file}: row 3 has 2 images") for problem in found)
    too_far = write_rows(tmp_path / "far.parquet", [("x", replace(PIXELS, image=2).to_json(), two)])
    config.data.train_files = str(too_far)
    assert len(row_problems(config)) == is_refused


@pytest.mark.verl
@pytest.mark.parametrize(
    ("model_type", "name"),
    [("internvl_chat", "InternVL"), ("paligemma", "PaliGemma"), ("molmo", "Molmo"), ("qwen2_vl", None)],
)
def test_a_family_that_verl_cannot_train_is_refused(model_type: str, name: str | None, tmp_path: Path) -> None:
    from verl_visionr1.runtime.model_checks import model_problems

    config = config_of(model=model_folder(tmp_path, model_type))
    (Path(config.actor_rollout_ref.model.path) / "preprocessor_config.json").write_text("{}")
    found = model_problems(config)
    assert len(found) == (name is not None)
    assert all(f"no processor for {name}" in problem and "Qwen3.5" in problem for problem in found)
    config.data = {"custom_cls": {"path": "own.py"}}
    assert model_problems(config) == []


@pytest.mark.verl
@pytest.mark.parametrize("path", ["my models/Qwen VL", "outputs/-x-", "a..b/c"])
def test_a_path_that_is_no_name_of_the_hub_is_not_looked_up(path: str) -> None:
    from verl_visionr1.runtime.model_checks import model_type_of

    assert model_type_of(path) is None


@pytest.mark.verl
def test_the_family_of_a_model_on_hdfs_is_read_from_verls_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from verl_visionr1.plugin.config import settings_of
    from verl_visionr1.plugin.run_facts import family_of

    copy = model_folder(tmp_path)
    monkeypatch.setattr("verl.utils.fs.copy_to_local", lambda path: copy if path == "hdfs://x/model" else path)
    config = config_of(frame="auto", model="hdfs://x/model")
    assert family_of(config, settings_of(config)) == "qwen2.5-vl"


@pytest.mark.verl
def test_a_model_without_a_processor_is_refused_where_there_are_images(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from verl_visionr1.runtime.model_checks import processor_problems

    config = config_of(model=model_folder(tmp_path, "new_vl"))
    file = tmp_path / "a.parquet"
    config.data = {"train_files": str(file), "image_key": "images"}
    pq.write_table(pa.table({"images": [["a.png"]]}), file)
    (problem,) = processor_problems(config)
    assert "hf_processor gives None" in problem
    pq.write_table(pa.table({"prompt": ["a"]}), file)
    assert processor_problems(config) == []
    shipped = Path(__file__).parents[2] / "recipes" / "tiny" / "qwen3_vl_scenes"
    config.actor_rollout_ref.model.path = str(shipped)
    pq.write_table(pa.table({"images": [["a.png"]]}), file)
    assert processor_problems(config) == []
