"""THE parquet schema of a row, its writer and reader, and the image checks that every converter shares.

A row is one question about one image, in the layout that verl's `RLHFDataset` reads:

    data_source   string                                       groups verl's validation metrics
    prompt        list<struct<role, content>>                  content starts with a literal "<image>"
    images        list<string> | list<struct<bytes>>           path mode (absolute paths) | embed mode (raw file bytes)
    ability       string                                       the task
    reward_model  struct<style, ground_truth>                  ground_truth is `Target.to_json()`
    extra_info    struct<split, index, image_id, width, height, task, question, file_name, source_ann>

Both schemas are frozen: verl concatenates files, and a column of another type stops the trainer at its start.
Path-mode and embed-mode files cannot be mixed in one run. Road of a row: `prepare_image` -> `in_upright_frame` ->
`Target` -> `Row` -> `RowWriter`; `check_parquet` looks at the result, or at anybody's file, before a training run.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from verl_visionr1.targets import Box, Target, TargetError

PLACEHOLDERS = ("<image>", "<video>", "<audio>")
"""Texts that verl cuts a prompt at; a question must not hold one."""
METADATA_KEY = b"visionr1"
"""Key of the provenance (JSON) in the parquet metadata."""
SCHEMA_VERSION = 1

_FORMATS = tuple(  # explicit, or Pillow would also try formats that start another program
    str(plugin.format)
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        BmpImagePlugin.BmpImageFile,
        GifImagePlugin.GifImageFile,
        TiffImagePlugin.TiffImageFile,
        PpmImagePlugin.PpmImageFile,
    )
)
_MIN_SIDE = 4  # Qwen's processors enlarge from here; below it nothing is left to see
_MAX_ASPECT = 200  # qwen_vl_utils raises above it, in the middle of a training step
_PATH_GROUP_ROWS = 10_000
_EMBED_GROUP_ROWS = 100
_EMBED_GROUP_BYTES = 64 << 20  # pyarrow cannot read back a nested column of 2 GB in one row group
_DISK_ERRORS = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EFBIG: "file limit"}


class RowsError(ValueError):
    """A file that cannot be read or written; one line that says what to do."""


class RowError(RowsError):
    """One row that cannot be used.

    Attributes:
        kind: short text, the same for all rows with this defect, to count by.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(slots=True)
class Ledger:
    """What happened to the rows of one conversion: nothing is lost without a line here.

    Attributes:
        fail: raise at the first bad row (else count it and go on).
        skipped: kind of defect -> how many; `listed` holds a line for each.
        left_out: filter asked for by an option -> how many rows or images it took.
        notes: change that lost nothing (a clipped box, a converted image) -> how many.
    """

    fail: bool
    skipped: Counter[str] = field(default_factory=Counter)
    listed: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def skip(self, error: RowError) -> None:
        """Count a bad row and list its message.

        Raises:
            RowError: `error` itself, where the policy is to fail.
        """
        if self.fail:
            raise error
        self.skipped[error.kind] += 1
        self.listed.append(str(error))


# ------------------------------------------------------------------------------------------------ schema and row


def _schema(image: pa.DataType) -> pa.Schema:
    text, whole = pa.string(), pa.int64()
    return pa.schema(
        [
            ("data_source", text),
            ("prompt", pa.list_(pa.struct([("role", text), ("content", text)]))),
            ("images", pa.list_(image)),
            ("ability", text),
            ("reward_model", pa.struct([("style", text), ("ground_truth", text)])),
            (
                "extra_info",
                pa.struct(
                    [
                        ("split", text),
                        ("index", whole),
                        ("image_id", text),
                        ("width", whole),
                        ("height", whole),
                        ("task", text),
                        ("question", text),
                        ("file_name", text),
                        ("source_ann", text),
                    ]
                ),
            ),
        ]
    )


PATH_SCHEMA = _schema(pa.string())
"""Images as absolute paths: small files, and the images stay out of Ray's messages."""
EMBED_SCHEMA = _schema(pa.struct([("bytes", pa.binary())]))
"""Images as the raw bytes of their files: one file to ship. No further key may stand beside `bytes` (verl)."""


@dataclass(frozen=True, slots=True)
class RowImage:
    """One image as the trainer will see it.

    Attributes:
        path: absolute path of an upright RGB (or 8-bit grey) file.
        data: the bytes of that file in embed mode, else None.
        size_wh: its width and height: the frame of all geometry.
        stored_wh: width and height of the source as it is stored, before its EXIF orientation.
        orientation: EXIF orientation of the source, 1..8.
        changes: what was done to the source, for the report; empty where the file is used as it is.
    """

    path: str
    data: bytes | None
    size_wh: tuple[int, int]
    stored_wh: tuple[int, int]
    orientation: int = 1
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One question about one image.

    Attributes:
        question: the user's turn without "<image>", which the writer puts first.
        target: ground truth, in the frame of `image.size_wh`.
        image_id, file_name, source_ann: where it came from (`source_ann`: JSON).

    Raises:
        RowError: a placeholder of verl in the question, or a target of another size than the image.
    """

    data_source: str
    question: str
    image: RowImage
    target: Target
    split: str = "train"
    image_id: str = ""
    file_name: str = ""
    source_ann: str = "{}"

    def __post_init__(self) -> None:
        found = [text for text in PLACEHOLDERS if text in self.question]
        if found:
            reason = f"{self.image.path}: the question {self.question!r} holds {found[0]}, which verl takes for a file"
            raise RowError("placeholder in the question", f"{reason}; rename the category or mend the template")
        if tuple(self.target.size_wh) != self.image.size_wh:
            reason = f"{self.image.path}: the target is for size_wh {tuple(self.target.size_wh)}"
            raise RowError("target of another size", f"{reason}, the image has {self.image.size_wh}")


# ------------------------------------------------------------------------------------------------ images

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def boxes_to_upright(
    boxes_xyxy: Sequence[Sequence[float]], orientation: int, stored_wh: tuple[int, int]
) -> tuple[Box, ...]:
    """Turn boxes with their image: from the stored frame to the EXIF-upright one.

    Args:
        boxes_xyxy: N boxes in pixels of the stored image.
        orientation: EXIF orientation, 1..8.
        stored_wh: size of the stored image.

    >>> boxes_to_upright([(10, 20, 30, 60)], 6, (320, 160))
    ((100, 10, 140, 30),)
    >>> boxes_to_upright([(10, 20, 30, 60)], 1, (320, 160))
    ((10, 20, 30, 60),)
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
    """Bring boxes into the frame of `image.size_wh`; the annotated size tells in which frame they were drawn.

    Where stored and upright size are equal (a half turn, a mirror, a square), the upright frame is taken: it is what
    viewers show.

    Args:
        boxes_xyxy: N boxes in pixels of the frame whose size is `annotated_wh`.

    Raises:
        RowError: `annotated_wh` is neither the upright nor the stored size.
    """
    if annotated_wh == image.size_wh:
        return boxes_to_upright(boxes_xyxy, 1, image.size_wh)
    if annotated_wh == image.stored_wh:
        return boxes_to_upright(boxes_xyxy, image.orientation, image.stored_wh)
    sizes = f"the annotations say size_wh {annotated_wh}, the file has {image.stored_wh}"
    if image.orientation != 1:
        sizes += f" as stored and {image.size_wh} upright (EXIF orientation {image.orientation})"
    advice = "use the images that the annotations were made on, or mend width and height"
    raise RowError("annotated size differs", f"{image.path}: {sizes}; {advice}")


def prepare_image(path: str | Path, *, embed: bool, upright_dir: Path, verify_decode: bool = False) -> RowImage:
    """Check one image file and make it fit for training, touching as little as possible.

    A good file is used as it is: its header is read, not its pixels, and its bytes are never re-encoded. A copy is
    made only of an image that verl would show the model otherwise than a viewer does: EXIF orientation other than 1,
    alpha (flattened on white), palette, CMYK and other colour spaces, 16 bits (scaled to 8). A JPEG's copy is a JPEG
    of quality 95 with its subsampling, any other's a PNG (lossless).

    Args:
        path: image file: JPEG, PNG, WebP, BMP, GIF (first frame), TIFF or PPM, whatever its suffix.
        embed: fill `RowImage.data`.
        upright_dir: where copies go in path mode; named by content; made when first needed.
        verify_decode: decode all pixels of every image. Without it, a cut-off file is found by its missing end.

    Raises:
        RowError: missing, unreadable or cut-off file; a side below 4 pixels; aspect above 200; too many pixels.
    """
    source = os.path.abspath(path)
    with _image_errors(source):
        data = Path(source).read_bytes() if embed else None
        with (
            io.BytesIO(data) if data is not None else open(source, "rb") as file,
            Image.open(file, formats=_FORMATS) as image,
        ):
            orientation = _check_header(source, image, file, verify_decode)
            stored_wh = image.size
            changes = (f"EXIF orientation {orientation} applied",) if orientation != 1 else ()
            changes += _colour_changes(image)
            if not changes:
                return RowImage(source, data, stored_wh, stored_wh)
            copied, suffix = _encode_upright(source, image, orientation)
    size_wh = stored_wh if orientation < 5 else (stored_wh[1], stored_wh[0])
    if embed:
        return RowImage(source, copied, size_wh, stored_wh, orientation, changes)
    return RowImage(_store_copy(copied, suffix, upright_dir), None, size_wh, stored_wh, orientation, changes)


def read_size(path: str | Path) -> tuple[tuple[int, int], int]:
    """Stored width and height, and EXIF orientation (1..8), of an image file.

    Raises:
        RowError: as `prepare_image`.
    """
    source = os.path.abspath(path)
    with _image_errors(source), open(source, "rb") as file, Image.open(file, formats=_FORMATS) as image:
        return image.size, _check_header(source, image, file, verify_decode=False)


@contextmanager
def _image_errors(source: str) -> Iterator[None]:
    """Name the file in whatever Pillow and the system raise about it."""
    try:
        yield
    except FileNotFoundError:
        raise RowError("image file missing", f"{source}: no such image file; check the images folder") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RowError("image too large", f"{source}: {error}; shrink it") from None
    except UnidentifiedImageError:
        raise RowError("image unreadable", f"{source}: not an image of a known format; fetch it again") from None
    except (OSError, SyntaxError, struct.error, EOFError) as error:
        raise RowError("image unreadable", f"{source}: {error}; fetch it again") from None


def _check_header(source: str, image: Image.Image, file: BinaryIO, verify_decode: bool) -> int:
    _check_size(source, image.size)
    whole, late_metadata = _look_ahead(image.format, file)
    orientation = _orientation(image, late_metadata)
    if orientation != 1 and image.format == "TIFF":  # Pillow versions differ in who turns it, and when
        raise RowError("turned TIFF", f"{source}: TIFF with orientation {orientation}; convert it to PNG")
    if verify_decode or not whole:
        image.load()
    return orientation


def _check_size(source: str, size_wh: tuple[int, int]) -> None:
    if min(size_wh) < _MIN_SIDE:
        raise RowError("image too small", f"{source}: size_wh {size_wh}, needs {_MIN_SIDE} pixels a side; leave it out")
    if max(size_wh) > _MAX_ASPECT * min(size_wh):
        reason = f"size_wh {size_wh} is longer than {_MAX_ASPECT}:1, which Qwen's processors refuse"
        raise RowError("image too long", f"{source}: {reason}; cut it")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and size_wh[0] * size_wh[1] > limit:
        raise RowError("image too large", f"{source}: size_wh {size_wh} has more than {limit} pixels; shrink it")


def _look_ahead(kind: str | None, file: BinaryIO) -> tuple[bool, bool]:
    """Whether the file ends as its format must, and whether a PNG holds metadata behind its pixels."""
    position = file.tell()
    try:
        if kind == "PNG":
            return _walk_png(file)
        if kind in ("JPEG", "MPO"):
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
        # PngImageFile.getexif decodes the whole image to look behind the pixels; go there only where something is
        exif = image.getexif() if late_metadata else Image.Image.getexif(image)
        value = exif.get(0x0112, 1)
    except (SyntaxError, ValueError, KeyError, TypeError, IndexError, struct.error):  # broken EXIF turns nothing
        return 1
    return value if isinstance(value, int) and value in _TRANSPOSE else 1


def _colour_changes(image: Image.Image) -> tuple[str, ...]:
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        return (f"{image.mode} with alpha flattened on white",)
    return () if image.mode in ("RGB", "L", "1") else (f"{image.mode} converted to RGB",)


def _to_rgb(source: str, image: Image.Image) -> Image.Image:
    if not _colour_changes(image):
        return image
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image, dtype=np.float64)  # convert("RGB") would clip 16 bits at 255
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        reason = f"mode {image.mode} with values {values.min():g}..{values.max():g} has no known range"
        raise RowError("image of unknown range", f"{source}: {reason}; convert it to 8 bits")
    return Image.fromarray(np.round(values / 257).astype(np.uint8)).convert("RGB")


def _encode_upright(source: str, image: Image.Image, orientation: int) -> tuple[bytes, str]:
    jpeg = image.format in ("JPEG", "MPO")
    sampling = max(JpegImagePlugin.get_sampling(image), 0) if jpeg else 0
    if sampling == 1 and orientation >= 5:  # 4:2:2 on its side has no name in Pillow
        sampling = 0
    upright = _to_rgb(source, image)
    if orientation != 1:
        upright = upright.transpose(_TRANSPOSE[orientation])
    buffer = io.BytesIO()
    if jpeg:
        upright.save(buffer, "JPEG", quality=95, subsampling=sampling)
    else:
        upright.info.clear()  # a PNG keeps what stands here
        upright.save(buffer, "PNG")
    return buffer.getvalue(), ".jpg" if jpeg else ".png"


def _store_copy(data: bytes, suffix: str, upright_dir: Path) -> str:
    """Write under a name made of the content, so that a re-run and a duplicate image meet the same file."""
    path = upright_dir.absolute() / (hashlib.sha256(data).hexdigest()[:20] + suffix)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        upright_dir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return str(path)
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise _disk_error(path, error) from error
    return str(path)


# ------------------------------------------------------------------------------------------------ writer


@dataclass(frozen=True, slots=True)
class Written:
    """What a finished `RowWriter` left on disk: the files in order, their rows and bytes."""

    files: tuple[Path, ...]
    rows: int
    size_bytes: int


class RowWriter:
    """Streams rows into parquet with bounded memory; the files appear whole, or not at all.

    Rows go to hidden `.<name>.partial` files, which no `*.parquet` pattern finds; they are flushed to disk and renamed
    when the `with` block ends well. After an exception they are removed; after a kill they stay, and the next writer
    to the same name takes them over. The same rows and provenance give the same bytes.

    Args:
        out: `<name>.parquet`. With `shard_rows`: `<name>-00000-of-00003.parquet` and so on.
        embed: store image bytes (every `RowImage.data` must be set), else absolute paths.
        provenance: JSON-able facts of where the rows come from; kept in the metadata under "visionr1".
        shard_rows: rows a file.

    Raises:
        RowsError: a name without `.parquet`; shards of an earlier run under this name; another writer at work on it;
            no row written; the disk full.

    `extra_info.index` is unique within the file, and across files of different provenance: its upper 31 bits are a
    hash of the provenance, its lower 32 count the rows.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        embed: bool = False,
        provenance: Mapping[str, Any] | None = None,
        shard_rows: int | None = None,
    ) -> None:
        self.out = Path(out)
        self.written: Written | None = None
        if self.out.suffix != ".parquet":
            raise RowsError(f"{out}: verl reads only names that end in .parquet; add it")
        if shard_rows is not None and shard_rows < 1:
            raise RowsError(f"shard_rows = {shard_rows}: needs at least 1")
        if shard_rows and (old := sorted(self.out.parent.glob(f"{escape(self.out.stem)}-[0-9]*-of-[0-9]*.parquet"))):
            raise RowsError(f"{old[0]}: shards of an earlier conversion are there; remove them or choose another name")
        facts = json.dumps({"schema": SCHEMA_VERSION, **(provenance or {})}, sort_keys=True, ensure_ascii=False)
        self._schema = (EMBED_SCHEMA if embed else PATH_SCHEMA).with_metadata({METADATA_KEY: facts.encode()})
        self._first_index = (int.from_bytes(hashlib.sha256(facts.encode()).digest()[:4], "big") >> 1) << 32
        self._embed = embed
        self._shard_rows = shard_rows
        self._rows = 0
        self._buffer: list[Row] = []
        self._buffer_bytes = 0
        self._partials: list[tuple[Path, BinaryIO]] = []
        self._parquet: pq.ParquetWriter | None = None

    def __enter__(self) -> RowWriter:
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._open_shard()  # takes the lock
            for left in self.out.parent.glob(f".{escape(self.out.stem)}-{'[0-9]' * 5}.parquet.partial"):
                if left != self._partials[0][0]:  # by a killed run with shards
                    left.unlink()
        except OSError as error:
            self._abort()
            raise _disk_error(self.out, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
        except OSError as failure:
            raise _disk_error(self.out, failure) from failure
        finally:
            self._abort()  # after a commit nothing is left to remove

    def write(self, row: Row) -> None:
        """Take one row.

        Raises:
            RowsError: the disk is full, or an image without bytes in embed mode.
        """
        if self._embed and row.image.data is None:
            raise RowsError(f"{row.image.path}: embed mode needs the image's bytes; prepare_image(..., embed=True)")
        self._buffer.append(row)
        self._buffer_bytes += len(row.image.data or b"")
        self._rows += 1
        shard_full = self._shard_rows is not None and self._rows % self._shard_rows == 0
        group_rows = _EMBED_GROUP_ROWS if self._embed else _PATH_GROUP_ROWS
        try:
            if shard_full or len(self._buffer) >= group_rows or self._buffer_bytes >= _EMBED_GROUP_BYTES:
                self._flush()
            if shard_full:
                self._close_shard()
        except OSError as error:
            raise _disk_error(self.out, error) from error

    def _open_shard(self) -> None:
        path = self.out.with_name(f".{self.out.stem}-{len(self._partials):05d}.parquet.partial")
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError):
            file.close()
            raise RowsError(f"{self.out}: another conversion is writing it; wait, or choose another name") from None
        except OSError:  # a file system without locks
            pass
        file.truncate(0)
        self._partials.append((path, file))
        self._parquet = pq.ParquetWriter(
            file,
            self._schema,
            # statistics and dictionaries of image bytes would hold whole images, and JPEG does not compress further
            compression="none" if self._embed else "zstd",
            use_dictionary=not self._embed,
            write_statistics=not self._embed,
        )

    def _flush(self) -> None:
        if not self._buffer:
            return
        if self._parquet is None:
            self._open_shard()
        assert self._parquet is not None
        first = self._first_index + self._rows - len(self._buffer)
        self._parquet.write_batch(_record_batch(self._buffer, first, self._schema))
        self._buffer, self._buffer_bytes = [], 0

    def _close_shard(self) -> None:
        if self._parquet is not None:
            self._parquet.close()
            self._parquet = None
            file = self._partials[-1][1]
            file.flush()
            os.fsync(file.fileno())

    def _commit(self) -> None:
        self._flush()
        if self._rows == 0:
            raise RowsError(f"{self.out}: no row to write; look at the filters and at what was skipped")
        self._close_shard()
        names = [self.out]
        if self._shard_rows is not None:
            total = len(self._partials)
            names = [self.out.with_name(f"{self.out.stem}-{i:05d}-of-{total:05d}.parquet") for i in range(total)]
        size_bytes = sum(os.fstat(file.fileno()).st_size for _, file in self._partials)
        for (partial, _), name in zip(self._partials, names, strict=True):
            os.replace(partial, name)
        _sync_folder(self.out.parent)
        self._drop_partials()
        self.written = Written(tuple(names), self._rows, size_bytes)

    def _drop_partials(self) -> None:
        for _, file in self._partials:
            with suppress(OSError):  # closing flushes: on a full disk that fails again
                file.close()
        self._partials.clear()

    def _abort(self) -> None:
        for path, _ in self._partials:
            path.unlink(missing_ok=True)
        if self._parquet is not None:
            with suppress(OSError):  # closing writes a footer
                self._parquet.close()
            self._parquet = None
        self._drop_partials()


def _record_batch(rows: Sequence[Row], first_index: int, schema: pa.Schema) -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {
        "data_source": [row.data_source for row in rows],
        "prompt": [[{"role": "user", "content": "<image>" + row.question}] for row in rows],
        "images": [[{"bytes": row.image.data}] if row.image.data is not None else [row.image.path] for row in rows],
        "ability": [row.target.task for row in rows],
        "reward_model": [{"style": "rule", "ground_truth": row.target.to_json()} for row in rows],
        "extra_info": [_extra_info(row, first_index + i) for i, row in enumerate(rows)],
    }
    return pa.RecordBatch.from_arrays([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def _extra_info(row: Row, index: int) -> dict[str, Any]:
    return {
        "split": row.split,
        "index": index,
        "image_id": row.image_id,
        "width": row.image.size_wh[0],
        "height": row.image.size_wh[1],
        "task": row.target.task,
        "question": row.question,
        "file_name": row.file_name,
        "source_ann": row.source_ann,
    }


def _sync_folder(folder: Path) -> None:
    """Make the renames themselves survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_error(path: Path, error: OSError) -> RowsError:
    reason = _DISK_ERRORS.get(error.errno or 0)
    if reason is None:
        return RowsError(f"{path}: cannot write: {error.strerror or error}")
    return RowsError(f"{path}: {reason}; nothing was left behind: free space or write elsewhere, and run again")


# ------------------------------------------------------------------------------------------------ reader


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a file cannot be trained on; `row` is None where it is the whole file's.

    >>> print(Problem("train.parquet", 3, "reward_model.ground_truth is empty"))
    train.parquet: row 3: reward_model.ground_truth is empty
    """

    file: str
    row: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}" if self.row is None else f"{self.file}: row {self.row}: {self.reason}"


def read_rows(path: str | Path, *, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file as dictionaries, one row group in memory at a time.

    Args:
        columns: top-level columns to read; None reads all, image bytes included.

    Raises:
        RowsError: missing file, not a parquet file, or a column that is not there.
    """
    with _open_parquet(path) as parquet:
        missing = [name for name in columns or () if name not in parquet.schema_arrow.names]
        if missing:
            raise RowsError(f"{path}: no column {missing[0]!r}; it has {', '.join(parquet.schema_arrow.names)}")
        for batch in parquet.iter_batches(batch_size=1000, columns=list(columns) if columns is not None else None):
            yield from batch.to_pylist()


def check_parquet(path: str | Path, *, images: bool = True, limit: int = 20) -> list[Problem]:
    """What would stop or spoil a training run on this file; an empty list for a good one.

    Reads no pixels, and no image bytes.

    Args:
        path: one parquet file.
        images: in path mode, look whether every image file is there.
        limit: stop after so many problems.
    """
    try:
        return _check_parquet(Path(path), images, limit)
    except RowsError as error:
        return [Problem(str(path), None, str(error).removeprefix(f"{path}: "))]


_ADVICE = "convert it again with a script of data_preprocess/"


def _check_parquet(path: Path, images: bool, limit: int) -> list[Problem]:
    with _open_parquet(path) as parquet:
        schema = parquet.schema_arrow
    problems = [Problem(str(path), None, reason) for reason in _schema_problems(schema)]
    problems += [Problem(str(path), None, reason) for reason in _shard_problems(path)]
    if problems:
        return problems[:limit]
    path_mode = schema.field("images").type == PATH_SCHEMA.field("images").type
    columns = ["data_source", "prompt", "reward_model", "extra_info"] + ["images"] * path_mode
    indexes: set[int] = set()
    number = -1
    for number, row in enumerate(read_rows(path, columns=columns)):
        reasons = list(_row_problems(row, images))
        index = (row["extra_info"] or {}).get("index")
        if index is None or index in indexes:
            reasons.append(f"extra_info.index = {index}: needs a number that no other row has; {_ADVICE}")
        else:
            indexes.add(index)
        problems += [Problem(str(path), number, reason) for reason in reasons]
        if len(problems) >= limit:
            return problems[:limit]
    return problems if number >= 0 else [Problem(str(path), None, f"holds no row; {_ADVICE}")]


def _open_parquet(path: str | Path) -> pq.ParquetFile:
    path = Path(path)
    if path.is_dir():
        raise RowsError(f"{path}: is a folder; name its parquet files (verl takes no folder)")
    if not path.exists():
        partials = sorted(path.parent.glob(f".{escape(path.stem)}-*.parquet.partial"))
        hint = f"a conversion to it was killed ({partials[0].name}); run it again" if partials else "check the path"
        raise RowsError(f"{path}: no such file; {hint}")
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise RowsError(f"{path}: not a whole parquet file ({reason}); {_ADVICE}, or copy it again") from None


def _schema_problems(schema: pa.Schema) -> Iterator[str]:
    for field_ in PATH_SCHEMA:
        if field_.name not in schema.names:
            yield f"no column {field_.name!r} (it has {', '.join(schema.names)}); {_ADVICE}"
        elif schema.field(field_.name).type not in (field_.type, EMBED_SCHEMA.field(field_.name).type):
            yield f"column {field_.name!r} is {schema.field(field_.name).type}, needs {field_.type}; {_ADVICE}"


def _shard_problems(path: Path) -> Iterator[str]:
    stem, _, total = path.stem.rpartition("-of-")
    name, _, number = stem.rpartition("-")
    if not (name and number.isdigit() and total.isdigit()):
        return
    shards = [path.with_name(f"{name}-{i:05d}-of-{total}.parquet") for i in range(int(total))]
    missing = [shard.name for shard in shards if not shard.exists()]
    if missing:
        yield f"{len(missing)} of its {int(total)} shards are missing, first {missing[0]}; {_ADVICE}, or copy them too"


def _row_problems(row: Mapping[str, Any], images: bool) -> Iterator[str]:
    if not row["data_source"]:
        yield f"data_source = {row['data_source']!r}: needs a text; {_ADVICE}"
    truth = (row["reward_model"] or {}).get("ground_truth")
    try:
        if truth is None:
            raise TargetError("ground truth is null")
        Target.from_json(truth)
    except TargetError as error:
        yield f"reward_model.{error}; {_ADVICE}"
    content = "".join(turn["content"] or "" for turn in row["prompt"] or ())
    placeholders = content.count("<image>")
    paths = row.get("images", [None])  # embed mode: the bytes are not read; every row has one image
    if placeholders != len(paths or ()):
        yield f"prompt holds {placeholders} '<image>' for {len(paths or ())} images: {content[:80]!r}; {_ADVICE}"
    for file in paths or ():
        if images and file is not None and not (os.path.isabs(file) and os.path.exists(file)):
            reason = "no such image file" if os.path.isabs(file) else "needs an absolute path"
            yield f"images: {file!r}: {reason}; convert it again where the images are"
