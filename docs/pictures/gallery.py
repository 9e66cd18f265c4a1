"""Screenshots of the gallery of the saved run, light and dark, by a headless Chromium.

python docs/pictures/gallery.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent / "example"), str(ROOT / "tests")]

import restore
from browser import opened_browser

SIZE_WH = (980, 700)
SHOWN = "performance.getEntriesByName('gallery-shown').length > 0"
FILTER = "#curves=none"


def main() -> None:
    """Write gallery-light.png and gallery-dark.png."""
    with tempfile.TemporaryDirectory() as folder, opened_browser() as page:
        run = Path(folder) / "tiny_visionr1_cpu"
        restore.restore(run)
        out = Path(folder) / "gallery.html"
        words = [run, "--out", out]
        subprocess.run(["visionr1", "gallery", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
        for theme in ("light", "dark"):
            page.look(*SIZE_WH, theme)
            page.open(out, FILTER, SHOWN)
            page.wait("[...document.images].every(image => image.complete)")
            file = HERE / f"gallery-{theme}.png"
            page.screenshot(file)
            Image.open(file).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)


if __name__ == "__main__":
    main()
