"""The documentation: every command runs or says why not, examples give what they show, the site builds and is whole."""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
import yaml
from typer.testing import CliRunner

from verl_visionr1.cli import app

ROOT = Path(__file__).parents[2]
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
    counts = [f"{image['file_name']},red circle,{number % 3}" for number, image in enumerate(coco["images"])]
    (folder / "counts.csv").write_text("\n".join(["image,label,count", *counts]))
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


IMPORTS_VERL = {"check", "dry-run", "doctor"}
RUN = [block for block in BASH if not block.note or block.note.startswith("exit code")]
NOT_RUN = [block for block in BASH if block not in RUN]
NOTES = re.compile(r"not run: .{10,}|run by (tests/[\w/]+\.py(?:::\w+)?)")
SITE_PAGES = [
    page for page in PAGES if DOCS in page.parents and page.name not in ("index.md", "changelog.md", "contributing.md")
]
EXTERNAL_LINKS = sorted({link for page in PAGES for link in re.findall(r"\]\((https?://[^)\s]+)\)", page.read_text())})


def _id(block: Block) -> str:
    return f"{block.page}:{block.line}"


def _with_marks(block: Block) -> object:
    needs_verl = any(words[0] == "visionr1" and words[1] in IMPORTS_VERL for words in block.commands)
    return pytest.param(block, id=_id(block), marks=[pytest.mark.verl] if needs_verl else [])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("docs"))


@cache
def exit_code_of(*words: str) -> int:
    """How a command ends; pages that show the same one need no second run."""
    return CliRunner().invoke(app, words).exit_code


@pytest.mark.parametrize("block", [_with_marks(block) for block in RUN])
def test_commands_run(block: Block, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only commands of ours are run; of others, the comment before them says why not."""
    monkeypatch.chdir(workspace)
    assert {words[0] for words in block.commands} == {"visionr1"}
    codes = [exit_code_of(*words[1:]) for words in block.commands]
    assert codes == [0] * (len(codes) - 1) + [block.exit_code]


@pytest.mark.parametrize("block", NOT_RUN, ids=_id)
def test_what_is_not_run_says_why(block: Block) -> None:
    note = NOTES.fullmatch(block.note)
    assert note is not None
    assert note[1] is None or is_collected(note[1])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_give_what_they_show(page: Path) -> None:
    assert doctest.testfile(str(page), module_relative=False).failed == 0


def test_the_tutorial_runs(tmp_path: Path) -> None:
    script = DOCS / "tutorials" / "score_and_explain.py"
    environment = {**os.environ, "MPLBACKEND": "agg"}
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("page", SITE_PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_begins_with_an_example(page: Path) -> None:
    """What the reader gets, then code, within one screen."""
    before, fence, _ = page.read_text().partition("\n```")
    assert fence, "no block of code"
    assert before.startswith("# ")
    assert len(re.findall(r"\S+", before)) <= 90


def test_the_reference_has_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the file that the flag loads, and their meaning."""
    monkeypatch.syspath_prepend(str(DOCS))
    import tables

    config = yaml.safe_load((ROOT / "verl_visionr1" / "config" / "visionr1" / "progressive.yaml").read_text())
    rows = {line.split("|")[1].strip(" `"): line.split("|")[3].strip() for line in tables.settings() if line}
    assert [name for name in config["reward"]["reward_kwargs"]["visionr1"] if not rows.get(name)] == []


def test_links_between_files() -> None:
    missing: list[str] = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text):
            place = (link[0] or link[1]).partition("#")[0]
            if place and not place.startswith("http") and not (page.parent / place).exists():
                missing.append(f"{page.relative_to(ROOT)}: {place}")
    assert missing == []


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("link", EXTERNAL_LINKS)
def test_external_links_answer(link: str) -> None:
    """Skipped where the network reaches no web site at all; 403, 405 and 429 turn away programs, not readers."""
    try:
        status = urlopen(Request(link, method="HEAD", headers={"User-Agent": "Mozilla/5.0"}), timeout=60).status
    except HTTPError as error:
        status = error.code
    except URLError as error:
        try:
            urlopen("https://www.python.org", timeout=60)
        except OSError:
            # a nightly test; a dead link fails only where another site answers
            pytest.skip(f"no web site can be reached from here: {error.reason}")
        raise
    assert status < 400 or status in (403, 405, 429)


def test_pictures_are_small_and_in_both_themes() -> None:
    pictures = {file.name for kind in ("svg", "png") for file in (DOCS / "pictures").glob(f"*.{kind}")}
    assert {name.replace("-light", "-dark") for name in pictures if "-light" in name} == {
        n for n in pictures if "-dark" in n
    }
    used = "".join(page.read_text() for page in PAGES)
    assert [name for name in sorted(pictures) if name not in used] == []
    assert [name for name in sorted(pictures) if (DOCS / "pictures" / name).stat().st_size > 150_000] == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="extra docs")
    words = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", str(DOCS), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(SITE_PAGES)
    fetched = re.compile(r"<(?:script|link|img)\b[^>]*(?:src|href)=\"(?:https?:)?//")
    assert [page.name for page in pages if fetched.search(page.read_text())] == []


def test_spelling() -> None:
    pytest.importorskip("codespell_lib", reason="extra docs")
    files = [*map(str, PAGES), str(DOCS / "tutorials" / "score_and_explain.py")]
    command = [sys.executable, "-m", "codespell_lib", "--ignore-words-list", "wieghts", *files]
    assert subprocess.run(command, capture_output=True, text=True).stdout == ""


def test_every_page_is_looked_at() -> None:
    assert len(blocks_of(ROOT / "README.md")) >= 4
    assert len(RUN) > 20
