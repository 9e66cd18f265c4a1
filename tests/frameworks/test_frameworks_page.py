"""The table of frameworks: its rows are the versions that are tested, and each cell names a test that there is."""

from __future__ import annotations

import re
from pathlib import Path

from docs_pages import DOCS, is_collected
from test_verl_versions import VERSIONS

PAGE = (DOCS / "reference" / "frameworks.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The cells of the table whose first line this is."""
    _, _, rest = PAGE.partition(heading)
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


def test_paths_of_examples_exist() -> None:
    text = PAGE + (DOCS / "howto" / "other-frameworks.md").read_text()
    places = set(re.findall(r"examples/\w+/\w+\.\w+", text))
    assert len(places) >= 5
    assert [place for place in places if not (Path(DOCS).parent / place).is_file()] == []
