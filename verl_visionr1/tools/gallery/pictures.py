"""Thumbnails of the prompts' images, found by the path in the dump or by the row of the training data."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path

from PIL import Image, ImageOps

from verl_visionr1.images import FORMATS
from verl_visionr1.rollouts.images import ImageFinder, Key, embedded_images
from verl_visionr1.rollouts.records import Rollout
from verl_visionr1.targets import NO_IMAGE
from verl_visionr1.tools.gallery.census import Settings

NONE = -1
"""Number of a prompt without a picture."""


class Pictures:
    """Numbers the requested images; `encoded` reads each once.

    Attributes:
        n_unknown: prompts whose image is unknown.
        unreadable: reasons why images could not be read.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.n_unknown = 0
        self.unreadable: list[str] = []
        self._numbers: dict[Key, int] = {}
        self._finder = ImageFinder(settings.data, settings.on_error)

    def number_of(self, rollout: Rollout) -> int:
        """Number of the picture of a rollout's prompt, or `NONE`."""
        if tuple(rollout.target.size_wh) == NO_IMAGE:
            return NONE
        keys = self._finder.find(rollout)
        if len(keys) != 1:
            self.n_unknown += 1
            return NONE
        return self._numbers.setdefault(keys.pop(), len(self._numbers))

    def encoded(self) -> list[str]:
        """The pictures as data URLs, in the order of their numbers; "" for an unreadable one."""
        found = [""] * len(self._numbers)
        for key, number in self._numbers.items():
            if isinstance(key, str):
                found[number] = self._encode(Path(key), key)
        known: dict[bytes, str] = {}  # several rows may embed the same image
        for number, file in enumerate(self._settings.data):
            places = [key[1:] for key in self._numbers if isinstance(key, tuple) and key[0] == number]
            for row, index, image in embedded_images(file, places) if places else ():
                digest = hashlib.blake2b(image, digest_size=16).digest()
                if digest not in known:
                    known[digest] = self._encode(io.BytesIO(image), f"{file}: row {row}")
                found[self._numbers[number, row, index]] = known[digest]
        return found

    def _encode(self, source: Path | io.BytesIO, name: str) -> str:
        """An image as a small upright picture in a data URL; "" if it cannot be read."""
        side, buffer = self._settings.side, io.BytesIO()
        try:
            with Image.open(source, formats=FORMATS) as image:
                image.draft("RGB", (side, side))
                picture = ImageOps.exif_transpose(image).convert("RGB")
                picture.thumbnail((side, side), Image.Resampling.LANCZOS)
                picture.save(buffer, "WEBP", quality=78, method=2)  # four times as fast as the default, and as small
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            self.unreadable.append(f"{name}: not a readable image ({error})")
            return ""
        return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
