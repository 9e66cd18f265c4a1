"""The pages of the documentation, their blocks of code, and a folder in which their commands can be run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MADE = {"_build", "generated", "tutorial"}
"""Folders that a build writes."""
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(page for page in DOCS.rglob("*.md") if not MADE & set(page.relative_to(DOCS).parts)),
)
_FENCE = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<language>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its page and line, and the comment on the line before it ("" for none)."""

    page: str
    line: int
    language: str
    note: str
    body: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, without comments; continued lines are one."""
        lines = self.body.replace("\\\n", " ").splitlines()
        return [words for words in (shlex.split(line, comments=True) for line in lines) if words]

    @property
    def exit_code(self) -> int:
        """What the last command is to end with."""
        said = re.fullmatch(r"exit code (\d)", self.note)
        return int(said[1]) if said else 0


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text, name = page.read_text(), str(page.relative_to(ROOT))
    return [
        Block(name, text[: one.start("language")].count("\n") + 1, one["language"], one["note"] or "", one["body"])
        for one in _FENCE.finditer(text)
    ]


BASH = [block for page in PAGES for block in blocks_of(page) if block.language == "bash"]


def make_workspace(folder: Path) -> Path:
    """A folder with the files that the pages' commands name."""
    sys.path.insert(0, str(DOCS / "example"))
    import restore

    run = folder / "outputs" / "tiny_visionr1_cpu"
    restore.restore(run)
    scenes = run / "data" / "scenes"
    shutil.copytree(scenes / "val", folder / "images")
    coco = json.loads((scenes / "annotations" / "instances_val.json").read_text())
    for name, images in (("annotations", coco["images"][:150]), ("annotations_val", coco["images"][150:])):
        kept = {image["id"] for image in images}
        annotations = [each for each in coco["annotations"] if each["image_id"] in kept]
        (folder / f"{name}.json").write_text(json.dumps({**coco, "images": images, "annotations": annotations}))
    _write_records(folder / "mine.jsonl", coco)
    restore.convert(folder / "annotations.json", folder / "images", folder / "train.parquet")
    restore.convert(folder / "annotations_val.json", folder / "images", folder / "val.parquet", "--split", "val")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    return folder


def _write_records(file: Path, coco: dict) -> None:
    """Phrases with one box each, as people write them down."""
    images = {image["id"]: image for image in coco["images"]}
    names = {category["id"]: category["name"] for category in coco["categories"]}
    n_same = Counter((each["image_id"], each["category_id"]) for each in coco["annotations"])
    lines: list[str] = []
    for each in coco["annotations"][:60]:
        if n_same[each["image_id"], each["category_id"]] == 1:
            image = images[each["image_id"]]
            record = {"image": image["file_name"], "caption": names[each["category_id"]], "box": each["bbox"]}
            lines.append(json.dumps({**record, "width": image["width"], "height": image["height"]}))
    file.write_text("\n".join(lines) + "\n")


def is_collected(test: str) -> bool:
    """Whether a test (`tests/file.py` or `tests/file.py::name`) exists."""
    file, _, name = test.partition("::")
    path = ROOT / file
    return path.is_file() and (not name or re.search(rf"^def {name}\(", path.read_text(), re.MULTILINE) is not None)


def run_sphinx(out: Path, builder: str = "html") -> subprocess.CompletedProcess[str]:
    """Build the site, warnings as errors."""
    words = [sys.executable, "-m", "sphinx", "-b", builder, "-W", "--keep-going", "-q", str(DOCS), str(out)]
    return subprocess.run(words, capture_output=True, text=True, check=False)
