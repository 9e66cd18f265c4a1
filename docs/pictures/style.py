"""The colours of the drawings, light and dark, and how they are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from PIL import Image

HERE = Path(__file__).parent
THEMES: Mapping[str, Mapping[str, str]] = {
    "light": {"ink": "#1f2328", "faint": "#8b949e", "line": "#d0d7de", "box": "#f6f8fa", "ground": "#ffffff"},
    "dark": {"ink": "#e6edf3", "faint": "#8b949e", "line": "#484f58", "box": "#21262d", "ground": "#131416"},
}
BLUE, ORANGE, GREEN, PINK, SKY, RED = "#3b82d6", "#e08a1e", "#12a47c", "#cc79a7", "#56b4e9", "#e5484d"
"""Told apart by colour-blind people, and visible on white and on black."""


@contextmanager
def themed(theme: str) -> Iterator[Mapping[str, str]]:
    """Matplotlib in the colours of a theme, on a transparent ground."""
    colours = THEMES[theme]
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "verl-visionr1",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": colours["faint"],
        "grid.color": colours["line"],
        "legend.frameon": False,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), colours["ink"]),
        **dict.fromkeys(("xtick.color", "ytick.color"), colours["ink"]),
    }
    with mpl.rc_context(settings):
        yield colours


def save(figure: Any, name: str, theme: str) -> None:
    """Write `NAME-THEME.svg`, the same bytes each time."""
    figure.savefig(HERE / f"{name}-{theme}.svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def save_photo(figure: Any, name: str, theme: str) -> None:
    """Write `NAME-THEME.png` in few colours: pictures of scenes are large as SVG."""
    file = HERE / f"{name}-{theme}.png"
    figure.savefig(file, dpi=95, facecolor=THEMES[theme]["ground"])
    plt.close(figure)
    Image.open(file).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)
