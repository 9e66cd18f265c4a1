"""rows.py and images.py: the schema, the writer and its promises, the image checks; what tools/doctor.py finds."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, JpegImagePlugin
from scene_sets.base import exif

from verl_visionr1 import row_writer
from verl_visionr1.files import disk_error
from verl_visionr1.images import boxes_to_upright, in_upright_frame, prepare_image, read_size
from verl_visionr1.processed import PROCESSORS, processed_size
from verl_visionr1.row_layouts import EMBED_SCHEMA, PATH_SCHEMA
from verl_visionr1.row_writer import RowWriter
from verl_visionr1.rows import PLACEHOLDERS, Row, RowError, RowImage, RowsError, read_rows, target_of
from verl_visionr1.targets import Target, TargetError
from verl_visionr1.tools.doctor import check_parquet

RED, BLUE, GREY = (255, 0, 0), (0, 0, 255), (128, 128, 128)
BOX = (16, 24, 80, 56)  # in the stored frame, on the 8-pixel grid of JPEG
STORED_WH = (160, 96)


def painted(size_wh: tuple[int, int] = STORED_WH, box: tuple[int, ...] = BOX) -> Image.Image:
    image = Image.new("RGB", size_wh, BLUE)
    x1, y1, x2, y2 = box
    ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), fill=RED)
    return image


def measured(file: Any) -> tuple[int, int, int, int]:
    """Bounds of what is red, as verl opens the file: without looking at EXIF."""
    pixels = np.asarray(Image.open(file).convert("RGB"), dtype=int)
    ys, xs = np.nonzero((pixels[..., 0] > 128) & (pixels[..., 2] < 128))
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def a_row(path: str = "/images/a.png", *, boxes: Any = (BOX,), data: bytes | None = None, **changes: Any) -> Row:
    image = RowImage(path, data, STORED_WH, STORED_WH)
    target = Target(task="grounding", size_wh=STORED_WH, boxes_xyxy=boxes, labels=["red box"] * len(boxes))
    return Row(**{"data_source": "test", "question": "Where is it?", "image": image, "target": target, **changes})


def write(path: Path, made: list[Row], **options: Any) -> tuple[Path, ...]:
    with RowWriter(path, **options) as writer:
        for row in made:
            writer.write(row)
    assert writer.written is not None
    assert writer.written.rows == len(made)
    return writer.written.files


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ------------------------------------------------------------------------------------------------ schema and rows


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
    for schema, images in (
        (PATH_SCHEMA, "list<element: string>"),
        (EMBED_SCHEMA, "list<element: struct<bytes: binary>>"),
    ):
        found = {field.name: str(field.type).replace("item:", "element:") for field in schema}
        assert found == {**common, "images": images}


def test_row_as_written(tmp_path: Path) -> None:
    row = a_row(image_id="7", file_name="a.png", source_ann='{"id":3}', split="val")
    (file,) = write(tmp_path / "a.parquet", [row], provenance={"made_by": "a test"})
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


@pytest.mark.parametrize("placeholder", PLACEHOLDERS)
def test_placeholder_in_a_question_is_refused(placeholder: str) -> None:
    with pytest.raises(RowError, match=f"holds {placeholder}.*rename"):
        a_row(question=f"Where is the {placeholder}?")


def test_target_of_another_size_is_refused() -> None:
    with pytest.raises(RowError, match=r"\(9, 9\), the image has \(160, 96\)"):
        a_row(target=Target(task="detection", size_wh=(9, 9)))


texts = st.text(min_size=1, max_size=8).filter(str.strip)
numbers = st.floats(0, 100, allow_nan=False)


@st.composite
def targets(draw: st.DrawFn) -> Target:
    def boxes(count: int) -> list[tuple[float, ...]]:
        corners = [[sorted(draw(st.tuples(numbers, numbers))) for _ in "xy"] for _ in range(count)]
        return [(x1, y1, x2, y2) for (x1, x2), (y1, y2) in corners if x1 < x2 and y1 < y2]

    things = boxes(draw(st.integers(0, 3)))
    return Target(
        task=draw(st.sampled_from(["detection", "grounding"])),
        size_wh=(100, 100),
        boxes_xyxy=things,
        labels=draw(st.lists(texts, min_size=len(things), max_size=len(things))),
        categories=draw(st.lists(texts, max_size=3)),
        ignore_xyxy=boxes(draw(st.integers(0, 2))),
    )


@settings(max_examples=25, deadline=None)
@given(made=st.lists(targets(), min_size=1, max_size=5))
def test_target_survives_the_file(made: list[Target], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("hypothesis") / "a.parquet"
    image = RowImage("/a.png", None, (100, 100), (100, 100))
    write(path, [a_row(image=image, target=target) for target in made])
    assert [Target.from_json(row["reward_model"]["ground_truth"]) for row in read_rows(path)] == made
    assert check_parquet(path, images=False) == []


# ------------------------------------------------------------------------------------------------ images


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_good_image_is_not_touched(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a b, ü{suffix}"
    painted().save(path)
    by_path = prepare_image(path, embed=False, copies_dir=tmp_path / "up")
    embedded = prepare_image(path, embed=True, copies_dir=tmp_path / "up")
    assert (by_path.path, by_path.data, by_path.changes) == (str(path), None, ())
    assert embedded.data == path.read_bytes()
    assert not (tmp_path / "up").exists()


@pytest.mark.parametrize("annotated", ["stored", "upright"])
@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_exif_box_is_where_the_pixels_are(
    orientation: int, suffix: str, embed: bool, annotated: str, tmp_path: Path
) -> None:
    """The box is measured in the file that the row points at, opened as verl opens it."""
    path = tmp_path / f"a{suffix}"
    painted().save(path, exif=exif(orientation), quality=95)
    image = prepare_image(path, embed=embed, copies_dir=tmp_path / "up")
    assert image.orientation == orientation
    assert image.size_wh == (STORED_WH if orientation < 5 else STORED_WH[::-1])
    seen = measured(io.BytesIO(image.data) if image.data is not None else image.path)
    drawn_in_stored = boxes_to_upright([BOX], orientation, STORED_WH)
    if annotated == "stored" and orientation >= 5:
        assert in_upright_frame([BOX], image, STORED_WH) == drawn_in_stored == (seen,)
    else:  # drawn on the upright picture: nothing to turn
        assert drawn_in_stored == (seen,)
        assert in_upright_frame([seen], image, image.size_wh) == (seen,)


def test_annotated_size_that_fits_neither_frame(tmp_path: Path) -> None:
    painted().save(tmp_path / "a.jpg", exif=exif(6))
    image = prepare_image(tmp_path / "a.jpg", embed=True, copies_dir=tmp_path)
    with pytest.raises(RowError, match=r"say size_wh \(80, 48\).*\(160, 96\) as stored and \(96, 160\) upright"):
        in_upright_frame([BOX], image, (80, 48))


def test_upright_png_is_lossless(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png", exif=exif(6))
    image = prepare_image(tmp_path / "a.png", embed=False, copies_dir=tmp_path / "up")
    assert np.array_equal(np.asarray(Image.open(image.path)), np.rot90(noise, -1))


@pytest.mark.parametrize(
    ("subsampling", "orientation", "kept"), [(0, 6, 0), (2, 6, 2), (2, 3, 2), (1, 3, 1), (1, 6, 0)]
)
def test_upright_jpeg_keeps_its_subsampling(subsampling: int, orientation: int, kept: int, tmp_path: Path) -> None:
    painted().save(tmp_path / "a.jpg", exif=exif(orientation), subsampling=subsampling)
    image = prepare_image(tmp_path / "a.jpg", embed=True, copies_dir=tmp_path)
    assert image.data is not None
    copy = Image.open(io.BytesIO(image.data))
    assert isinstance(copy, JpegImagePlugin.JpegImageFile)
    assert JpegImagePlugin.get_sampling(copy) == kept
    assert copy.getexif().get(0x0112, 1) == 1
    reference = io.BytesIO()
    painted().save(reference, "JPEG", quality=95)
    assert copy.quantization == Image.open(reference).quantization  # type: ignore[attr-defined]


def test_upright_copy_is_written_once(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        painted().save(tmp_path / name, exif=exif(6))
    made = {prepare_image(tmp_path / name, embed=False, copies_dir=tmp_path / "up").path for name in ("a.jpg", "b.jpg")}
    assert [str(path) for path in (tmp_path / "up").iterdir()] == list(made)


def colour_file(mode: str, path: Path) -> None:
    if mode == "RGBA":
        image = Image.new("RGBA", (8, 8), (0, 0, 255, 0))
        image.putpixel((0, 0), (255, 0, 0, 255))
    elif mode == "LA":
        image = Image.new("LA", (8, 8), (0, 0))
    elif mode == "P":
        image = painted((8, 8), (0, 0, 1, 1)).quantize(4)
    elif mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 0x8080, dtype=np.uint16))
    else:
        image = Image.new(mode, (8, 8), {"CMYK": (0, 255, 255, 0), "L": 77, "1": 1}[mode])
    image.save(path)


@pytest.mark.parametrize(
    ("mode", "suffix", "first", "last", "change"),
    [
        ("RGBA", ".png", RED, (255, 255, 255), "RGBA with alpha flattened on white"),
        ("LA", ".png", (255, 255, 255), (255, 255, 255), "LA with alpha flattened on white"),
        ("P", ".png", RED, BLUE, "P converted to RGB"),
        ("P", ".gif", RED, BLUE, "P converted to RGB"),
        ("CMYK", ".jpg", RED, RED, "CMYK converted to RGB"),
        ("I;16", ".png", GREY, GREY, "I;16 converted to RGB"),
        ("L", ".png", (77, 77, 77), (77, 77, 77), None),
        ("L", ".jpg", (77, 77, 77), (77, 77, 77), None),
        ("1", ".png", (255, 255, 255), (255, 255, 255), None),
    ],
)
def test_colour_modes(mode: str, suffix: str, first: Any, last: Any, change: str | None, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    colour_file(mode, path)
    image = prepare_image(path, embed=False, copies_dir=tmp_path / "up")
    assert image.changes == ((change,) if change else ())
    assert (image.path == str(path)) == (change is None)
    seen = Image.open(image.path).convert("RGB")
    for found, expected in ((seen.getpixel((0, 0)), first), (seen.getpixel((7, 7)), last)):
        assert np.abs(np.subtract(found, expected)).max() <= 2  # type: ignore[arg-type]


def test_transparent_colour_of_an_rgb_png(tmp_path: Path) -> None:
    painted().save(tmp_path / "a.png", transparency=BLUE)
    image = prepare_image(tmp_path / "a.png", embed=False, copies_dir=tmp_path / "up")
    assert Image.open(image.path).getpixel((0, 0)) == (255, 255, 255)


def test_picture_with_a_second_one_behind_it(tmp_path: Path) -> None:
    """Phones write JPEGs with a depth map or a preview at the end (MPO)."""
    painted().save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))], exif=exif(6))
    image = prepare_image(tmp_path / "a.jpg", embed=False, copies_dir=tmp_path / "up")
    assert boxes_to_upright([BOX], 6, STORED_WH) == (measured(image.path),)
    assert image.path.endswith(".jpg")


def test_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    painted().save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert prepare_image(tmp_path / "a.jpg", embed=False, copies_dir=tmp_path).changes == ()


def test_orientation_behind_the_pixels_of_a_png(tmp_path: Path) -> None:
    """PIL writes eXIf before the pixels; other programs write it behind them."""
    painted().save(tmp_path / "a.png")
    plain = (tmp_path / "a.png").read_bytes()
    body = exif(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    (tmp_path / "a.png").write_bytes(plain[:-12] + chunk + plain[-12:])
    assert read_size(tmp_path / "a.png") == (STORED_WH, 6)
    image = prepare_image(tmp_path / "a.png", embed=False, copies_dir=tmp_path)
    assert boxes_to_upright([BOX], 6, STORED_WH) == (measured(image.path),)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
@pytest.mark.parametrize("embed", [False, True])
def test_cut_off_image(suffix: str, embed: bool, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(RowError, match=f"a{suffix}: .*again") as caught:
        prepare_image(path, embed=embed, copies_dir=tmp_path)
    assert caught.value.kind == "image unreadable"


def test_trailing_bytes_of_a_jpeg_are_no_defect(tmp_path: Path) -> None:
    painted().save(tmp_path / "a.jpg")
    with open(tmp_path / "a.jpg", "ab") as file:
        file.write(b"some phone's trailer" * 10)
    assert prepare_image(tmp_path / "a.jpg", embed=False, copies_dir=tmp_path).changes == ()


def test_verify_decode_finds_what_the_header_hides(tmp_path: Path) -> None:
    painted().save(tmp_path / "a.png")
    whole = bytearray((tmp_path / "a.png").read_bytes())
    at = whole.index(b"IDAT") + 20
    whole[at : at + 40] = b"\xff" * 40
    (tmp_path / "a.png").write_bytes(whole)
    prepare_image(tmp_path / "a.png", embed=False, copies_dir=tmp_path)
    with pytest.raises(RowError, match="fetch it again"):
        prepare_image(tmp_path / "a.png", embed=False, copies_dir=tmp_path, verify_decode=True)


@pytest.mark.parametrize(
    ("size_wh", "kind"),
    [
        *(((3, 100), "image too small"), ((1000, 4), "image too long"), ((4, 804), "image too long")),
        ((5740, 41), "image too long"),  # 5740 x 28 after the first resize of Qwen2.5-VL
        ((47, 9000), "image too long"),  # 32 x 8992 after that of Qwen3-VL
    ],
)
def test_unusable_sizes(size_wh: tuple[int, int], kind: str, tmp_path: Path) -> None:
    Image.new("RGB", size_wh).save(tmp_path / "a.png")
    with pytest.raises(RowError) as caught:
        prepare_image(tmp_path / "a.png", embed=False, copies_dir=tmp_path)
    assert caught.value.kind == kind
    assert str(size_wh) in str(caught.value)


@pytest.mark.parametrize("size_wh", [(5600, 28), (41, 4000), (800, 4), (9000, 65)])
def test_long_images_that_every_processor_takes(size_wh: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", size_wh).save(tmp_path / "a.png")
    image = prepare_image(tmp_path / "a.png", embed=False, copies_dir=tmp_path)
    assert all(processed_size(image.size_wh, family) for family in PROCESSORS)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    painted().save(tmp_path / "a.png")
    for limit in (10_000, 5_000):  # Pillow itself warns above the limit and raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(RowError, match="shrink it") as caught:
            prepare_image(tmp_path / "a.png", embed=False, copies_dir=tmp_path)
        assert caught.value.kind == "image too large"


def test_files_that_are_no_image(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "header.ppm").write_bytes(b"P6 many 9 255 ")
    (tmp_path / "header.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\4IHDR\0\0\0\1" + bytes(20))
    for name, kind in (
        ("header.ppm", "image unreadable"),
        ("header.png", "image unreadable"),
        ("text.jpg", "image unreadable"),
        ("empty.jpg", "image unreadable"),
        ("folder.jpg", "image unreadable"),
        ("none.jpg", "image file missing"),
    ):
        for embed in (False, True):
            with pytest.raises(RowError, match=name) as caught:
                prepare_image(tmp_path / name, embed=embed, copies_dir=tmp_path)
            assert caught.value.kind == kind


# ------------------------------------------------------------------------------------------------ writer


@pytest.mark.parametrize("embed", [False, True])
def test_same_rows_same_bytes(embed: bool, tmp_path: Path) -> None:
    made = [a_row(f"/{i}.png", data=b"x" * i if embed else None) for i in range(250)]
    first, *others = (
        write(tmp_path / folder / "a.parquet", made, embed=embed, provenance={"seed": seed}, shard_rows=120)
        for folder, seed in (("one", 1), ("two", 1), ("three", 2))
    )
    assert [sha256(file) for file in first] == [sha256(file) for file in others[0]]
    assert [sha256(file) for file in first] != [sha256(file) for file in others[1]]


def test_index_is_unique_across_files(tmp_path: Path) -> None:
    files = [*write(tmp_path / "a.parquet", [a_row()] * 30, provenance={"seed": 1}, shard_rows=7)]
    files += write(tmp_path / "b.parquet", [a_row()] * 30, provenance={"seed": 2})
    found = [row["extra_info"]["index"] for file in files for row in read_rows(file, columns=["extra_info"])]
    assert len(set(found)) == 60
    assert all(0 <= index < 2**63 for index in found)


def test_shards(tmp_path: Path) -> None:
    made = [a_row(f"/{i}.png") for i in range(25)]
    files = write(tmp_path / "a.parquet", made, shard_rows=10)
    assert [file.name for file in files] == [f"a-0000{i}-of-00003.parquet" for i in range(3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name for file in files]
    assert [pq.read_metadata(file).num_rows for file in files] == [10, 10, 5]
    assert [row["images"][0] for file in files for row in read_rows(file)] == [f"/{i}.png" for i in range(25)]
    with pytest.raises(RowsError, match=r"a-00000-of-00003\.parquet: shards of an earlier conversion"):
        RowWriter(tmp_path / "a.parquet", shard_rows=10)
    files[1].unlink()
    (problem,) = check_parquet(files[0], images=False)
    assert "1 of its 3 shards are missing, first a-00001-of-00003.parquet" in str(problem)


def test_finished_shards_are_closed(tmp_path: Path) -> None:
    """A thousand shards would be more open files than a process may have."""
    fds = Path("/proc/self/fd")
    before = len(list(fds.iterdir()))
    with RowWriter(tmp_path / "a.parquet", shard_rows=1) as writer:
        for i in range(40):
            writer.write(a_row(f"/{i}.png"))
        assert len(list(fds.iterdir())) - before < 5
        with pytest.raises(RowsError, match="another conversion is writing it"):
            RowWriter(tmp_path / "a.parquet").__enter__()
    assert writer.written is not None
    assert writer.written.size_bytes == sum(file.stat().st_size for file in writer.written.files)


def test_no_empty_last_shard(tmp_path: Path) -> None:
    assert len(write(tmp_path / "a.parquet", [a_row()] * 20, shard_rows=10)) == 2


@pytest.mark.parametrize(("size", "expected"), [(10, [100, 100, 50]), (1000, [64, 64, 64, 58])])
def test_row_groups_of_images_stay_small(
    size: int, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyarrow cannot read back a group of 2 GB, and the reader's memory is a group."""
    assert row_writer._EMBED_GROUP_BYTES == 64 << 20
    monkeypatch.setattr(row_writer, "_EMBED_GROUP_BYTES", 64_000)
    (file,) = write(tmp_path / "a.parquet", [a_row(data=b"x" * size) for _ in range(250)], embed=True)
    metadata = pq.read_metadata(file)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == expected
    assert sum(1 for _ in read_rows(file)) == 250


def test_embed_mode_needs_bytes(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match=r"/images/a.png: embed mode needs"):
        write(tmp_path / "a.parquet", [a_row()], embed=True)


def test_name_without_parquet(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match=r"names that end in \.parquet"):
        RowWriter(tmp_path / "a")


@pytest.mark.parametrize("shard_rows", [None, 5])
def test_exception_leaves_nothing(shard_rows: int | None, tmp_path: Path) -> None:
    def breaks() -> None:
        with RowWriter(tmp_path / "a.parquet", shard_rows=shard_rows) as writer:
            for _ in range(12):
                writer.write(a_row())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        breaks()
    assert list(tmp_path.iterdir()) == []


def test_no_row_is_an_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    (file,) = write(tmp_path / "a.parquet", [a_row()])
    before = sha256(file)
    with pytest.raises(RowsError, match="no row to write"):
        write(file, [])
    assert sha256(file) == before
    assert list(tmp_path.iterdir()) == [file]


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    with RowWriter(tmp_path / "a.parquet") as first:
        first.write(a_row())
        with pytest.raises(RowsError, match="another conversion is writing it"):
            RowWriter(tmp_path / "a.parquet").__enter__()
    assert sum(1 for _ in read_rows(tmp_path / "a.parquet")) == 1


SCRIPT = """
import sys
from verl_visionr1.rows import Row, RowImage
from verl_visionr1.row_writer import RowWriter
from verl_visionr1.targets import Target
{prelude}
image = RowImage("/a.png", b"x" * 100_000, (9, 9), (9, 9))
row = Row(data_source="t", question="?", image=image, target=Target(task="detection", size_wh=(9, 9)))
with RowWriter(sys.argv[1], embed=True, shard_rows={shard_rows}) as writer:
    for number in range({count}):
        writer.write(row)
        if number == 399:
            print("written", flush=True)
"""


@pytest.mark.parametrize("shard_rows", [None, 150])
def test_kill_leaves_no_final_file(shard_rows: int | None, tmp_path: Path) -> None:
    out = tmp_path / "a.parquet"
    script = SCRIPT.format(prelude="", shard_rows=shard_rows, count=10**9)
    with subprocess.Popen([sys.executable, "-c", script, str(out)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    left = [path.name for path in tmp_path.iterdir()]
    assert left  # it was killed in the middle, not before
    assert not list(tmp_path.glob("*.parquet"))
    assert all(name.startswith(".") and name.endswith(".partial") for name in left)
    assert "was killed" in str(check_parquet(out)[0])
    write(out, [a_row()])
    assert list(tmp_path.iterdir()) == [out]  # what the killed run left is taken over or removed
    assert check_parquet(out, images=False) == []


@pytest.mark.parametrize("limit", [5_000_000, 21_000_000])
def test_no_room_for_the_file(limit: int, tmp_path: Path) -> None:
    """A limit on the file's size stops a write just as a full disk does; the second value stops the last flush."""
    prelude = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    script = SCRIPT.format(prelude=prelude, shard_rows=None, count=250)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.parquet")], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("verl_visionr1.files.RowsError: ")
    assert "a.parquet: file limit; nothing was left behind: free space or write elsewhere" in last
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_named() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        Path("/dev/full").write_bytes(b"x")
    message = str(disk_error(Path("/out/a.parquet"), caught.value))
    assert message.startswith("/out/a.parquet: the disk is full; nothing was left behind: free space")


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RowsError, match="cannot write"):
        write(tmp_path / "file" / "a.parquet", [a_row()])
    painted().save(tmp_path / "a.jpg", exif=exif(6))
    with pytest.raises(RowsError, match="cannot write"):
        prepare_image(tmp_path / "a.jpg", embed=False, copies_dir=tmp_path / "file" / "up")


# ------------------------------------------------------------------------------------------------ reader


def good_file(folder: Path) -> Path:
    painted().save(folder / "a.png")
    write(folder / "a.parquet", [a_row(str(folder / "a.png"))] * 3)
    return folder / "a.parquet"


def changed(path: Path, **columns: Any) -> None:
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
        ({"reward_model": truths(GOOD, "{'a': 1}", GOOD)}, "row 1: reward_model.ground truth \"{'a': 1}\": JSON is"),
        ({"reward_model": truths(GOOD, GOOD, None)}, "row 2: reward_model.ground truth is null"),
        ({"reward_model": truths('{"task":"x","size_wh":[1,1]}', GOOD, GOOD)}, "row 0: reward_model"),
        ({"reward_model": [None] * 3}, "row 0: reward_model.ground truth is null"),
        ({"reward_model": pa.array([{"style": "rule", "ground_truth": 3}] * 3)}, "column 'reward_model' is struct<"),
        ({"reward_model": None}, "no column 'reward_model' (it has data_source, prompt"),
        ({"images": None}, "no column 'images'"),
        ({"images": pa.array([[{"path": "/a"}]] * 3)}, "column 'images' is list<"),
        ({"images": [["/none/b.png"]] * 3}, "row 0: images: '/none/b.png': no such image file"),
        ({"images": [["b.png"]] * 3}, "row 0: images: 'b.png': needs an absolute path"),
        ({"images": [[]] * 3}, "row 0: prompt holds 1 '<image>' for 0 images: '<image>Where"),
        ({"images": [None] * 3}, "row 0: prompt holds 1 '<image>' for 0 images"),
        ({"prompt": prompts(FINE, FINE, "no picture")}, "row 2: prompt holds 0 '<image>' for 1 images: 'no picture'"),
        ({"prompt": [[]] * 3}, "row 0: prompt = []"),
        ({"data_source": ["a", None, "a"]}, "row 1: data_source = None"),
        ({"extra_info": [{"index": 5}, {"index": 6}, {"index": 5}]}, "row 2: extra_info.index = 5"),
        ({"extra_info": [None] * 3}, "row 0: extra_info.index = None"),
    ],
)
def test_what_check_parquet_finds(columns: dict[str, Any], expected: str, tmp_path: Path) -> None:
    path = good_file(tmp_path)
    assert check_parquet(path) == []
    changed(path, **columns)
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
        ("norow.parquet", "holds no row; convert it again"),
        ("", "is a folder; name its parquet files"),
    ):
        (problem,) = check_parquet(tmp_path / name)
        assert problem.row is None
        assert str(problem).startswith(f"{tmp_path / name}: {expected}")
        assert "\n" not in str(problem)


@pytest.mark.parametrize("reward_model", ["text", {"ground_truth": {"boxes": []}}, {"ground_truth": 7}, {}, None])
def test_ground_truth_of_another_project(reward_model: Any) -> None:
    with pytest.raises(TargetError, match=r"ground truth (is null|.* is of type \w+: needs a JSON text)"):
        target_of({"reward_model": reward_model})


def test_garbled_page_is_named(tmp_path: Path) -> None:
    """The footer is fine, so the file opens; what is wrong shows when the rows are read."""
    path = good_file(tmp_path)
    whole = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(0)
    whole[column.dictionary_page_offset : column.data_page_offset] = b"\xff" * (
        column.data_page_offset - column.dictionary_page_offset
    )
    path.write_bytes(whole)
    with pytest.raises(RowsError, match="not a whole parquet file"):
        list(read_rows(path))
    (problem,) = check_parquet(path)
    assert "\n" not in str(problem)


def test_check_parquet_stops_at_its_limit(tmp_path: Path) -> None:
    path = good_file(tmp_path)
    changed(path, reward_model=truths("", "", ""))
    assert len(check_parquet(path)) == 3
    assert len(check_parquet(path, limit=2)) == 2


def test_read_rows_names_a_missing_column(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match="no column 'answer'; it has data_source"):
        list(read_rows(good_file(tmp_path), columns=["answer"]))


# ------------------------------------------------------------------------------------------------ verl's own reader


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
    dataset = verl_dataset([*write(tmp_path / "a.parquet", made, embed=embed)], tmp_path / "cache", monkeypatch)
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
        *write(tmp_path / "grounding.parquet", [a_row(path)] * 3, shard_rows=2, provenance={"task": "grounding"}),
        *write(tmp_path / "detection.parquet", [a_row(path, target=detection)] * 2, provenance={"task": "detection"}),
    ]
    dataset = verl_dataset(files, tmp_path / "cache", monkeypatch)
    assert [dataset[i]["ability"] for i in range(5)] == ["grounding"] * 3 + ["detection"] * 2
    assert len({dataset[i]["index"] for i in range(5)}) == 5
