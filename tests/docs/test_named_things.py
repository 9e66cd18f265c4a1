"""What README, CONTRIBUTING and the tables of the reference name is there, and is as they say."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from test_docs import DOCS, is_collected
from test_verl_versions import VERSIONS
from typer.testing import CliRunner

from verl_visionr1.cli import app
from verl_visionr1.conversion.catalog import CONVERTERS as CATALOG
from verl_visionr1.tools.explain.diagnosis.writing import WORDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TREE = (ROOT / "CONTRIBUTING.md").read_text()
CONVERTERS = (DOCS / "reference" / "converters.md").read_text()
FRAMEWORKS = (DOCS / "reference" / "frameworks.md").read_text()
EXAMPLES = re.findall(r"^\| `(\w+)` .*\| `(\w+ .+)` \|$", CONVERTERS, re.MULTILINE)
ROWS = dict(re.findall(r"^\| `(\w+)` \| .* \| ([^|]*) \| `\w+ .+` \|$", CONVERTERS, re.MULTILINE))


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 130


def test_named_files_exist() -> None:
    folders = "recipes|tests|data_preprocess|verl_visionr1|docs|benchmarks|examples"
    text = README + FRAMEWORKS + (DOCS / "howto" / "other-frameworks.md").read_text()
    named = set(re.findall(rf"\b(?:{folders})/[\w/.]*\.(?:py|sh|md|yaml)\b", text))
    assert len(named) >= 8
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_tree_names_every_module() -> None:
    """The annotated tree is where a newcomer looks first."""
    there = [path for path in (ROOT / "verl_visionr1").iterdir() if not path.name.startswith("__")]
    names = [path.name + "/" * path.is_dir() for path in there if path.is_dir() or path.suffix == ".py"]
    assert [name for name in sorted(names) if not re.search(rf"^  {name}\s", TREE, re.MULTILINE)] == []


def test_every_converter_is_listed() -> None:
    assert [name for name, _ in EXAMPLES] == list(CATALOG)


@pytest.mark.parametrize("name", CATALOG)
def test_rows_of_each_converter_are_those_that_it_declares(name: str) -> None:
    declared = import_module(f"verl_visionr1.conversion.datasets.{name}").convert.tasks
    assert sorted(ROWS[name].split(", ")) == sorted(declared)


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_example_of_each_converter_is_understood(
    name: str, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its arguments fit; then it misses the data set, and says which file."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(example.replace("OUT", "out.parquet").replace("...", "file.csv").replace("*", "0"))
    done = CliRunner().invoke(app, ["convert", *words])
    assert done.exit_code == 2, done.output
    assert re.match(r"error: \S+: .*\w+", done.stderr), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_causes_of_explain_have_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but those that need criteria of your own, or texts beyond the limits of parsers."""
    monkeypatch.syspath_prepend(str(DOCS))
    import computed

    sources = (ROOT / "verl_visionr1" / "tools" / "explain" / "diagnosis").glob("*.py")
    named = {cause for file in sources for cause in re.findall(r'Finding\(\s*"([^"]+)"', file.read_text())}
    named |= {words.partition(":")[0] for words, _ in WORDS.values()}
    rare = {"criterion", "criterion out of range", "reasoning opened in the prompt"}
    rare |= {"too long", "too many", "no text", "wrong kind"}
    assert named - {finding.cause for _, finding in computed.causes()} == rare | {"nothing wrong", "unexplained"}


def table(heading: str) -> list[list[str]]:
    """The cells of the table whose first line this is."""
    _, _, rest = FRAMEWORKS.partition(heading)
    rows = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in rows]


def test_each_version_of_verl_has_a_row_that_says_what_is_tested() -> None:
    rows = [row for row in table("| framework | rewards |") if row[0].startswith("verl ")]
    told = {row[0].removeprefix("verl "): ("manager" in row[1], row[2].startswith("yes")) for row in rows}
    assert told == {version: (tells_step, tells_step) for version, tells_step in VERSIONS.items()}


def test_each_cell_names_a_test() -> None:
    tests = {row[0].strip("`"): row[1].strip("`") for row in table("| | test |")}
    named = [re.findall(r"`([a-z])`", " ".join(row)) for row in table("| framework | rewards |")]
    assert {letter for letters in named for letter in letters} == tests.keys()
    assert [place for place in tests.values() if not is_collected(place)] == []
