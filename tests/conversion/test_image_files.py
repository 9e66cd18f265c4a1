"""Names of image files as other programs write them: found below the folder of images, never outside it."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from verl_visionr1.conversion.datasets import records
from verl_visionr1.conversion.image_files import find_below, find_image
from verl_visionr1.files import RowError

WH = (160, 96)
NFC, NFD = "caf\u00e9.png", unicodedata.normalize("NFD", "caf\u00e9.png")


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((WH[1], WH[0], 3), shade, dtype=np.uint8)).save(path)
    return path


# name in an annotation file ({root}: the folder of images) -> the file that it means
FOUND = {
    "as it is": ("train/a.png", "train/a.png"),
    "a folder too much": ("images/v1/a.png", "a.png"),
    "backslashes": (r"train\a.png", "train/a.png"),
    "Label Studio on Windows": (r"..\..\label-studio\data\media\upload\1\a.png", "upload/1/a.png"),
    "Label Studio in Docker": ("/label-studio/data/media/upload/1/a.png", "1/a.png"),
    "Label Studio's local files": ("/data/local-files/?d=train%5Ca.png", "train/a.png"),
    "a drive": (r"C:\Users\me\train\a.png", "train/a.png"),
    "a share": (r"\\server\data\train\a.png", "a.png"),
    "absolute, inside": ("{root}/train/a.png", "train/a.png"),
    "absolute, of another machine": ("/home/me/train/a.png", "train/a.png"),
    "up and down again": ("train/../val/a.png", "val/a.png"),
    "up and out": ("../../x/a.png", "a.png"),
    "a URL": ("https://x.org/d/train/a%20b.png", "train/a b.png"),
    "a signed URL": ("https://x.org/d/train/a.png?Expires=9&Signature=a/b.png#c", "train/a.png"),
    "file://": ("file:///home/me/a.png", "a.png"),
    "blanks around it": ("train/a.png ", "train/a.png"),
    "percent-encoded": ("train/my%20image%231.png", "train/my image#1.png"),
    "percent-encoded on disk alone": ("my image.png", "my%20image.png"),
    "percent-encoded on both sides": ("my%20image.png", "my%20image.png"),
    "a percent sign": ("x/100%.png", "100%.png"),
    "composed, decomposed on disk": (f"train/{NFC}", f"train/{NFD}"),
    "decomposed, composed on disk": (f"x/train/{NFD}", f"train/{NFC}"),
    "another case": ("Train/A.PNG", "train/a.png"),
    "a backslash on disk": (r"a\b.png", r"a\b.png"),
}


@pytest.mark.parametrize(("name", "path"), FOUND.values(), ids=FOUND)
def test_names_of_other_programs(name: str, path: str, tmp_path: Path) -> None:
    root = tmp_path / "images"
    meant = picture(root / path)
    picture(root / "other.png")
    assert find_image(root, name.format(root=root), "entry 1") == meant


def test_exact_names_win(tmp_path: Path) -> None:
    lower, upper = picture(tmp_path / "a.png"), picture(tmp_path / "A.png")
    assert find_below(tmp_path, "x/A.png") == upper
    assert find_below(tmp_path, "x/a.png") == lower
    assert find_below(tmp_path, "a.PNG") is None, "which of the two?"
    nested = picture(tmp_path / "b" / "b" / "a.png")
    assert find_below(nested.parent.parent, f"{nested.parent.parent}/a.png") is not None
    assert find_below(tmp_path, f"{tmp_path}/b/b/a.png") == nested


def test_folders_that_change_are_listed_again(tmp_path: Path) -> None:
    assert find_below(tmp_path, "A.png") is None
    picture(tmp_path / "sub" / "a.png")
    assert find_below(tmp_path, "x/SUB/A.png") == tmp_path / "sub" / "a.png"


LEADING_OUT = {
    "up": ("../secret.png", "'..'"),
    "up, in the middle": ("a/../../secret.png", "'..'"),
    "up, by backslashes": (r"..\secret.png", "backslashes"),
    "absolute": ("{root}/../secret.png", "an absolute path"),
    "a drive": (r"D:\secret.png", "the drive 'D:', with backslashes"),
    "a URL": ("https://x.org/../../secret.png", "'..'"),
    "an absolute path in a URL": ("https://x.org//../secret.png", "'..'"),
    "percent-encoded": ("https://x/..%2Fsecret.png", None),
    "NUL": ("secret.png\0", "a NUL character"),
    "another's file": ("/etc/hostname", "an absolute path"),
}


@pytest.mark.parametrize(("name", "way"), LEADING_OUT.values(), ids=LEADING_OUT)
def test_names_that_lead_out(name: str, way: str | None, tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    picture(tmp_path / "secret.png")
    name = name.format(root=root)
    assert find_below(root, name) is None
    if way is None:  # it is one file name, of which there is none
        assert not find_image(root, name, "entry 1").exists()
        return
    with pytest.raises(RowError) as caught:
        find_image(root, name, "entry 1")
    assert caught.value.kind == "file_name outside the images folder"
    assert f"entry 1: file_name {name!r}" in str(caught.value)
    assert way in str(caught.value)


_PARTS = st.sampled_from(["..", ".", "", "a", "b.png", "%2e%2e", "..%2F", "C:", "~", "https:", "?d=", "\u212a", "\0"])


@pytest.fixture(scope="module")
def some_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set")
    for place in ("b.png", "a/b.png", "images/b.png", "images/a/b.png"):
        picture(root / place)
    return root / "images"


@given(parts=st.lists(_PARTS, max_size=6), separator=st.sampled_from(["/", "\\", "//"]))
def test_what_is_found_is_inside(some_images: Path, parts: list[str], separator: str) -> None:
    name = separator.join(parts)
    found = find_below(some_images, name)
    assert found is None or (found.is_file() and found.resolve().is_relative_to(some_images))


def test_two_cases_of_one_name_are_two_images(tmp_path: Path) -> None:
    """Of two images that differ by case only, one is missing: its boxes do not go to the other."""
    picture(tmp_path / "a.png")
    one = {"what": "cat", "box": [8, 16, 48, 40]}
    lines = [json.dumps({"file": name, **one}) for name in ("A.png", "a.png")]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    options = records.Options(column=["image=file", "phrase=what", "boxes=box"], box_format="xyxy-abs")
    with pytest.raises(RowError) as caught:
        records.convert(tmp_path / "a.jsonl", tmp_path / "out.parquet", options)
    assert caught.value.kind == "two names of one image file"
