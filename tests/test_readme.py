"""README says only what is true: its examples run, and the files and commands it names are there."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_examples_run() -> None:
    examples = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert examples.attempted >= 4
    assert examples.failed == 0


def test_named_files_exist() -> None:
    named = set(re.findall(r"\b(?:recipes|tests|data_preprocess|verl_visionr1)/[\w/.]*\.(?:py|sh|md|yaml)\b", README))
    assert len(named) >= 3
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_tree_names_every_module() -> None:
    """The annotated tree is where a newcomer looks first."""
    package = ROOT / "verl_visionr1"
    modules = [path.name for path in package.glob("*.py") if not path.name.startswith("__")]
    folders = [f"{path.name}/" for path in package.iterdir() if path.is_dir() and not path.name.startswith("__")]
    assert [name for name in sorted(modules + folders) if not re.search(rf"^  {name}\s", README, re.MULTILINE)] == []
