"""visionr1 convert: every declaration of a converter is a command, a script and a function that give the same file."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
from scene_sets import FORMATS
from scene_sets.base import SceneFormat, pictures
from typer.testing import CliRunner

from verl_visionr1.cli import app
from verl_visionr1.conversion.catalog import CONVERTERS, TOOLS
from verl_visionr1.conversion.converter import Converter
from verl_visionr1.rows import read_rows

SCRIPTS = Path(__file__).resolve().parents[2] / "data_preprocess"
FORMS: dict[str, SceneFormat] = {}
for form in FORMATS:
    if isinstance(form.convert, Converter):
        FORMS.setdefault(form.convert.name, form)


def flags_of(options: Any) -> Iterator[str]:
    """Options as a command line gives them."""
    for field in fields(options):
        value = getattr(options, field.name)
        if value == (field.default if field.default_factory is MISSING else field.default_factory()):
            continue
        flag = f"--{field.name.replace('_', '-')}"
        for each in value if isinstance(value, list) else [value]:
            yield from [flag] if each is True else [flag, str(each)]


def write_source(name: str, folder: Path) -> list[str]:
    """Write four scenes for a converter; return its arguments."""
    arguments = FORMS[name].write(pictures()[:4], folder / "source")
    return [str(it) for words in arguments for it in (words if isinstance(words, list) else [words])]


def run(name: str, sources: list[str], out: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["convert", name, *sources, str(out), *flags_of(FORMS[name].options), *options])


def run_script(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The exit code of a script, run as Python runs it, in this process."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    return ended.value.code


NAMELESS = ("vision_r1", "countbench")
"""Converters whose images have no names in the scene sets."""
NO_FILES = ("pixmo", "yolo", "records")
"""Converters that may do without an image file, or whose scene sets name none."""


@pytest.mark.parametrize("name", CONVERTERS)
def test_a_converter(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command, script and help; a missing source, an excluded and a missing image."""
    form, sources, out = FORMS[name], write_source(name, tmp_path), tmp_path / "out.parquet"
    for i in range(len(sources)):
        if not (name == "clevr" and sources[i] == "."):
            done = run(name, [*sources[:i], str(tmp_path / "none"), *sources[i + 1 :]], out)
            assert done.exit_code == 2, done.output
            assert done.stderr.startswith("error: ")
            assert f"{tmp_path}/none" in done.stderr
            assert [path.name for path in tmp_path.iterdir()] == ["source"]

    done = run(name, sources, out)
    assert done.exit_code == 0, done.output
    rows = list(read_rows(out))
    assert {row["ability"] for row in rows} <= set(form.convert.tasks)  # type: ignore[attr-defined]
    out.unlink()
    assert run_script(name, [*sources, str(out), *flags_of(form.options)], monkeypatch) == 0
    assert list(read_rows(out)) == rows

    shown = CliRunner().invoke(app, ["convert", name, "--help"], env={"COLUMNS": "200"}).output
    converter: Any = form.convert
    words = [it.name for it in converter.sources]
    words += [field.name.replace("_", "-") for field in fields(converter.options_type)]
    assert [word for word in words if word not in shown] == []

    if name not in NAMELESS:
        key = "file_name" if rows[0]["extra_info"]["file_name"] else "image_id"
        first = rows[0]["extra_info"][key]
        (tmp_path / "list.txt").write_text(f"{first}\n")
        done = run(name, sources, out, "--exclude-image-ids", str(tmp_path / "list.txt"))
        assert done.exit_code == 0, done.output
        assert "exclusion list" in done.stdout
        others = [row["extra_info"][key] for row in rows if row["extra_info"][key] != first]
        assert [row["extra_info"][key] for row in read_rows(out)] == others

    if not form.embeds and name not in NO_FILES:
        missing = next((tmp_path / "source").rglob(Path(rows[0]["extra_info"]["file_name"]).name))
        missing.unlink()
        done = run(name, sources, out)
        assert done.exit_code == 2
        assert missing.stem in done.stderr
        done = run(name, sources, out, "--on-error", "skip")
        assert done.exit_code == 0, done.output
        assert "skipped as bad: " in done.stdout
        ids = [row["extra_info"]["image_id"] for row in rows]
        assert [row["extra_info"]["image_id"] for row in read_rows(out)] == [it for it in ids if it != ids[0]]


@pytest.mark.parametrize("is_source", [True, False])
def test_a_source_or_a_parquet_of_others_is_not_overwritten(is_source: bool, tmp_path: Path) -> None:
    sources = write_source("countbench", tmp_path)
    out = Path(sources[0]) if is_source else copyfile(sources[0], tmp_path / "other.parquet")
    data = out.read_bytes()
    done = run("countbench", sources, out)
    assert (done.exit_code, done.stderr.startswith(f"error: {out}: ")) == (2, True)
    assert out.read_bytes() == data


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_has_a_script(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_script(name, ["--help"], monkeypatch) == 0


def test_names() -> None:
    assert {path.stem for path in SCRIPTS.glob("*.py")} == {*CONVERTERS, *TOOLS}
    assert set(FORMS) == set(CONVERTERS)
    assert CliRunner().invoke(app, ["convert", "none"]).exit_code == 2


def test_the_list_of_converters_loads_none_and_a_missing_extra_is_named() -> None:
    program = (
        "import json, sys\nfrom typer.testing import CliRunner\nfrom verl_visionr1.cli import app, main\n"
        "done = [CliRunner().invoke(app, words) for words in (['--help'], ['convert', '--help'])]\n"
        "print(json.dumps([[it.exit_code for it in done], sorted({name.partition('.')[0] for name in sys.modules})]))\n"
        "sys.modules['pyarrow'] = None\n"
        "sys.argv = ['visionr1', 'convert', 'coco', 'a.json', 'images', 'out.parquet']\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    codes, loaded = json.loads(done.stdout)
    assert codes == [0, 0]
    assert {"pyarrow", "PIL", "pandas", "matplotlib"}.isdisjoint(loaded)
    assert done.returncode == 2
    assert "verl-visionr1[data]" in done.stderr
    assert "Traceback" not in done.stderr
