"""images.py: what is done to an image before a row points at it, and which images are refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from painted import BLUE, BOX, GREY, RED, STORED_WH, measured, painted
from PIL import Image, JpegImagePlugin
from scene_sets.base import exif

from verl_visionr1.images import EmbeddedImage, boxes_to_upright, in_upright_frame, prepare_image, read_size
from verl_visionr1.rows import RowError


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
@pytest.mark.parametrize(("suffix", "embed"), [(".png", False), (".jpg", True)])
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
    with pytest.raises(RowError, match=r"\(80, 48\).*\(160, 96\).*\(96, 160\)"):
        in_upright_frame([BOX], image, (80, 48))


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


def colour_file(mode: str, path: Path) -> None:
    if mode == "RGBA":
        image = Image.new("RGBA", (8, 8), (0, 0, 255, 0))
        image.putpixel((0, 0), (255, 0, 0, 255))
    elif mode == "LA":
        image = Image.new("LA", (8, 8), (0, 0))
    elif mode == "P":
        image = painted((8, 8), (0, 0, 1, 1)).quantize(4)
    elif mode == "I":
        image = Image.fromarray(np.full((8, 8), 77 if path.suffix == ".tif" else 0x8080, dtype=np.int32))
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
        ("I;16", ".tif", GREY, GREY, "I;16 converted to RGB"),
        ("I", ".pgm", GREY, GREY, "I converted to RGB"),
        ("I", ".tif", (77, 77, 77), (77, 77, 77), "I converted to RGB"),
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


@pytest.mark.parametrize(("value", "dtype"), [(256, np.int32), (-1, np.int32), (0.5, np.float32)])
def test_values_of_unknown_range(value: float, dtype: Any, tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), value, dtype=dtype)).save(tmp_path / "a.tif")
    with pytest.raises(RowError) as caught:
        prepare_image(tmp_path / "a.tif", embed=False, copies_dir=tmp_path)
    assert caught.value.kind == "image of unknown range"


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
    for name, start in (
        ("a.heic", b"ftypheic"),
        ("a.avif", b"ftypavif"),
        ("a.jxl", b"JXL \r\n"),
        ("a.mp4", b"ftypisom"),
    ):
        (tmp_path / name).write_bytes(b"\0\0\0 " + start + bytes(40))
    for name, kind in (
        ("a.heic", "image of another format"),
        ("a.avif", "image of another format"),
        ("a.jxl", "image of another format"),
        ("a.mp4", "image unreadable"),
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
        if kind == "image of another format":
            with pytest.raises(RowError) as caught:
                read_size(EmbeddedImage("row 1", (tmp_path / name).read_bytes()))
            assert caught.value.kind == kind


def test_upright_copy_is_written_once(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        painted().save(tmp_path / name, exif=exif(6))
    made = {prepare_image(tmp_path / name, embed=False, copies_dir=tmp_path / "up").path for name in ("a.jpg", "b.jpg")}
    assert [str(path) for path in (tmp_path / "up").iterdir()] == list(made)


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
