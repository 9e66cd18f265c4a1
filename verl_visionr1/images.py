"""Image files for training: check, size, orientation, and an upright RGB copy if needed.

The *stored* frame is that of the pixels in the file. The *upright* frame is what a viewer shows, after the file's EXIF
orientation. verl ignores EXIF, so an image that is not stored upright is copied upright, and boxes drawn on the stored
pixels are rotated with it.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from verl_visionr1.boxes import Box
from verl_visionr1.files import RowError, write_whole
from verl_visionr1.processed import MAX_ASPECT, PROCESSORS, SizeError, processed_size

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that are read: without a list, Pillow would also try those that start another program."""
_OTHER_FORMATS = {
    **dict.fromkeys((b"ftypavif", b"ftypavis"), "AVIF"),
    **dict.fromkeys((b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1"), "HEIC"),
    b"JXL ": "JPEG XL",
    b"jP  ": "JPEG 2000",
}
"""Bytes after the first four of a file -> its unsupported format."""
_JPEG = ("JPEG", "MPO")  # MPO: a JPEG followed by further pictures, written by phones
_INTEGERS_OF_16_BITS = ("PNG", "PPM")  # their mode I has 16 bits; that of TIFF has 32, of any range
_MIN_SIDE = 4  # Qwen's processors enlarge images from this side on; smaller ones show nothing
_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class RowImage:
    """One image as the trainer sees it."""

    path: str  # absolute; of an upright RGB (or 8-bit grey) file
    data: bytes | None  # of that file, in embed mode
    size_wh: tuple[int, int]  # the frame of all geometry
    stored_wh: tuple[int, int]  # of the source, before its EXIF orientation
    orientation: int = 1  # EXIF, of the source: 1..8
    changes: tuple[str, ...] = ()  # of the source, for the report


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """The bytes of an image file embedded in a source; `name` replaces the path in messages."""

    name: str
    data: bytes


def prepare_image(
    source: str | Path | EmbeddedImage, *, embed: bool, copies_dir: Path, verify_decode: bool = False
) -> RowImage:
    """Check one image file and copy it for training only if needed.

    A good file is used unchanged. An image is copied only if verl would show it to the model differently from a viewer:
    EXIF orientation other than 1, alpha (flattened on white), palette, CMYK and other colour spaces, 16 bits (scaled to
    8), 32 bits (up to 255). The copy of a JPEG is a JPEG of quality 95 with its subsampling, any other a PNG. An
    `EmbeddedImage` becomes a file in path mode.

    Args:
        source: image file: JPEG, PNG, WebP, BMP, GIF (first frame), TIFF or PPM, with any suffix; or its bytes.
        embed: fill `RowImage.data`.
        copies_dir: folder of copies in path mode, which are named by content; created when first needed.
        verify_decode: decode all pixels of every image. Without it, a truncated file is found by its missing end.

    Raises:
        RowError: missing, unreadable or truncated file; a side below 4 pixels; an aspect above 200, originally or
            after the resize of a model's processor; too many pixels.
        RowsError: a copy cannot be written.
    """
    with _opened(source, verify_decode) as (name, file, image, orientation):
        stored_wh = image.size
        changes = (f"EXIF orientation {orientation} applied",) if orientation != 1 else ()
        changes += _colour_changes(image)
        if not changes and not embed and not isinstance(source, EmbeddedImage):
            return RowImage(name, None, stored_wh, stored_wh)
        if changes:
            data, suffix = _encode_upright(name, image, orientation)
        else:
            file.seek(0)
            data, suffix = file.read(), ".jpg" if image.format in _JPEG else f".{str(image.format).lower()}"
    size_wh = upright_size(stored_wh, orientation)
    if embed:
        return RowImage(name, data, size_wh, stored_wh, orientation, changes)
    return RowImage(_store_copy(data, suffix, copies_dir), None, size_wh, stored_wh, orientation, changes)


def read_size(source: str | Path | EmbeddedImage) -> tuple[tuple[int, int], int]:
    """Read stored width and height, and EXIF orientation (1..8), of an image file; raises as `prepare_image`."""
    with _opened(source, verify_decode=False) as (_, _, image, orientation):
        return image.size, orientation


def upright_size(stored_wh: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return width and height as a viewer shows an image of this EXIF orientation."""
    return stored_wh if orientation < 5 else (stored_wh[1], stored_wh[0])


def boxes_to_upright(
    boxes_xyxy: Sequence[Sequence[float]], orientation: int, stored_wh: tuple[int, int]
) -> tuple[Box, ...]:
    """Rotate boxes with their image, from the stored frame to the EXIF-upright one.

    Args:
        boxes_xyxy: N boxes in pixels of the stored image, whose size is `stored_wh`.
        orientation: EXIF orientation, 1..8.

    >>> boxes_to_upright([(10, 20, 30, 60)], 6, (320, 160))
    ((100, 10, 140, 30),)
    """
    width, height = stored_wh
    turned = []
    for x1, y1, x2, y2 in boxes_xyxy:
        if orientation in (2, 3, 7, 8):
            x1, x2 = width - x2, width - x1
        if orientation in (3, 4, 6, 7):
            y1, y2 = height - y2, height - y1
        turned.append((y1, x1, y2, x2) if orientation >= 5 else (x1, y1, x2, y2))
    return tuple(turned)


def in_upright_frame(
    boxes_xyxy: Sequence[Sequence[float]], image: RowImage, annotated_wh: tuple[int, int]
) -> tuple[Box, ...]:
    """Convert boxes to the frame of `image.size_wh`; the annotated size identifies their frame.

    If stored and upright size are equal (half turn, mirror, square), the upright frame is assumed, since viewers show
    it. `RowError` if `annotated_wh` is neither of them.
    """
    if annotated_wh == image.size_wh:
        return boxes_to_upright(boxes_xyxy, 1, image.size_wh)
    if annotated_wh == image.stored_wh:
        return boxes_to_upright(boxes_xyxy, image.orientation, image.stored_wh)
    sizes = f"the annotations have size_wh {annotated_wh}, the file has {image.stored_wh}"
    if image.orientation != 1:
        sizes += f" as stored and {image.size_wh} upright (EXIF orientation {image.orientation})"
    advice = "use the images that were annotated, or correct width and height"
    raise RowError("annotated size differs", f"{image.path}: {sizes}; {advice}")


@contextmanager
def _opened(
    source: str | Path | EmbeddedImage, verify_decode: bool
) -> Iterator[tuple[str, BinaryIO, Image.Image, int]]:
    """Yield (name, file, image, EXIF orientation); name the file in errors of Pillow and the system."""
    name = source.name if isinstance(source, EmbeddedImage) else os.path.abspath(source)
    head = b""
    try:
        with io.BytesIO(source.data) if isinstance(source, EmbeddedImage) else open(name, "rb") as file:
            head = file.read(12)
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                yield name, file, image, _check_image(name, image, file, verify_decode)
    except RowError:
        raise
    except FileNotFoundError:
        raise RowError("image file missing", f"{name}: no such image file; check the images folder") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RowError("image too large", f"{name}: {error}; shrink it") from None
    except UnidentifiedImageError:
        if other := next((kind for start, kind in _OTHER_FORMATS.items() if head[4:].startswith(start)), ""):
            advice = f"convert it to JPEG or PNG ({', '.join(FORMATS)} are read)"
            raise RowError("image of another format", f"{name}: it is {other}; {advice}") from None
        raise RowError("image unreadable", f"{name}: not an image of a known format; fetch it again") from None
    except (OSError, SyntaxError, ValueError, struct.error, EOFError) as error:  # raised by Pillow for broken files
        raise RowError("image unreadable", f"{name}: {error}; fetch it again") from None


def _check_image(source: str, image: Image.Image, file: BinaryIO, verify_decode: bool) -> int:
    """Raise if an opened image is unfit; return its EXIF orientation."""
    _check_size(source, image.size)
    is_whole, late_metadata = _look_ahead(image.format, file)
    orientation = _orientation(image, late_metadata)
    if orientation != 1 and image.format == "TIFF":  # Pillow versions differ in how they rotate it
        raise RowError("turned TIFF", f"{source}: TIFF with orientation {orientation}; convert it to PNG")
    if verify_decode or not is_whole:
        image.load()
    return orientation


def _check_size(source: str, size_wh: tuple[int, int]) -> None:
    """Raise for a size that a model's processor would refuse in the middle of training."""
    if min(size_wh) < _MIN_SIDE:
        raise RowError("image too small", f"{source}: size_wh {size_wh}: needs {_MIN_SIDE} pixels a side; leave it out")
    if max(size_wh) > MAX_ASPECT / 2 * min(size_wh):  # the first resize at most doubles the aspect
        for family in PROCESSORS:
            try:
                processed_size(size_wh, family)
            except SizeError as error:
                reason = f"size_wh {size_wh} is too long for the processor of {family} ({error})"
                raise RowError("image too long", f"{source}: {reason}; crop it") from None
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and size_wh[0] * size_wh[1] > limit:
        raise RowError("image too large", f"{source}: size_wh {size_wh} has more than {limit} pixels; shrink it")


def _look_ahead(kind: str | None, file: BinaryIO) -> tuple[bool, bool]:
    """Return whether the file is complete, and whether a PNG has metadata after its pixels."""
    position = file.tell()
    try:
        if kind == "PNG":
            return _walk_png(file)
        if kind in _JPEG:
            file.seek(-min(32, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return file.read().rstrip(b"\0\r\n").endswith(b"\xff\xd9"), False
        return False, False
    finally:
        file.seek(position)


def _walk_png(file: BinaryIO) -> tuple[bool, bool]:
    file.seek(8)
    pixels = late = False
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind == b"IEND":
            return True, late
        pixels |= kind == b"IDAT"
        late |= pixels and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
        file.seek(length + 4, os.SEEK_CUR)
    return False, late


def _orientation(image: Image.Image, late_metadata: bool) -> int:
    try:
        # PngImageFile.getexif decodes the whole image to find late metadata; call it only if there is some
        exif = image.getexif() if late_metadata else Image.Image.getexif(image)
        value = exif.get(_ORIENTATION_TAG, 1)
    except (SyntaxError, ValueError, KeyError, TypeError, IndexError, struct.error):  # broken EXIF is ignored
        return 1
    return value if isinstance(value, int) and value in _TRANSPOSE else 1


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info


def _colour_changes(image: Image.Image) -> tuple[str, ...]:
    if _has_alpha(image):
        return (f"{image.mode} with alpha flattened on white",)
    return () if image.mode in ("RGB", "L", "1") else (f"{image.mode} converted to RGB",)


def _to_rgb(source: str, image: Image.Image) -> Image.Image:
    """Return an RGB or grey image unchanged; any other as the RGB that a viewer shows."""
    if not _colour_changes(image):
        return image
    if _has_alpha(image):
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image, dtype=np.float64)  # convert("RGB") would clip 16 bits at 255
    is_16_bits = image.mode.startswith("I;16") or image.format in _INTEGERS_OF_16_BITS
    highest = 65535 if is_16_bits else 255
    if image.mode == "F" or values.min() < 0 or values.max() > highest:
        reason = f"mode {image.mode} with values {values.min():g}..{values.max():g} has no known range"
        raise RowError("image of unknown range", f"{source}: {reason}; convert it to 8 bits")
    return Image.fromarray(np.round(values * 255 / highest).astype(np.uint8)).convert("RGB")


def _encode_upright(source: str, image: Image.Image, orientation: int) -> tuple[bytes, str]:
    """Return the bytes of an upright copy in RGB or grey, and the suffix of its format."""
    jpeg = image.format in _JPEG
    sampling = max(JpegImagePlugin.get_sampling(image), 0) if jpeg else 0
    if sampling == 1 and orientation >= 5:  # Pillow has no rotated 4:2:2
        sampling = 0
    upright = _to_rgb(source, image)
    if orientation != 1:
        upright = upright.transpose(_TRANSPOSE[orientation])
    buffer = io.BytesIO()
    if jpeg:
        upright.save(buffer, "JPEG", quality=95, subsampling=sampling)
    else:
        upright.info.clear()  # Pillow writes it into a PNG
        upright.save(buffer, "PNG")
    return buffer.getvalue(), ".jpg" if jpeg else ".png"


def _store_copy(data: bytes, suffix: str, copies_dir: Path) -> str:
    """Write a copy named by its content, so that re-runs and duplicates share one file."""
    path = copies_dir.absolute() / (hashlib.sha256(data).hexdigest()[:20] + suffix)
    if not os.path.exists(path):
        write_whole(path, data)
    return str(path)
