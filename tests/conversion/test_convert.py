"""visionr1 convert: every declaration of a converter is a command, a script and a function that give the same file."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
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


def words_of(options: Any) -> Iterator[str]:
    """Options as a command line gives them."""
    for field in fields(options):
        value = getattr(options, field.name)
        if value == (field.default if field.default_factory is MISSING else field.default_factory()):
            continue
        flag = f"--{field.name.replace('_', '-')}"
        for each in value if isinstance(value, list) else [value]:
            yield from [flag] if each is True else [flag, str(each)]


def words_of_sources(arguments: tuple[Any, ...]) -> Iterator[str]:
    for argument in arguments:
        yield from map(str, argument if isinstance(argument, list) else [argument])


def run_script(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The exit code of a script, run as Python runs it, in this process."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    return ended.value.code


def test_every_command_has_its_script() -> None:
    assert {path.stem for path in SCRIPTS.glob("*.py")} == {*CONVERTERS, *TOOLS}
    assert set(FORMS) == set(CONVERTERS)


@pytest.mark.parametrize("name", CONVERTERS)
def test_command_and_script_write_the_same_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form = FORMS[name]
    given = form.write(pictures()[:4], tmp_path / "source")
    sources, options = [*words_of_sources(given)], [*words_of(form.options)]
    first, second = (tmp_path / by / "out.parquet" for by in ("command", "script"))
    done = CliRunner().invoke(app, ["convert", name, *sources, str(first), *options])
    assert done.exit_code == 0, done.output
    assert run_script(name, [*sources, str(second), *options], monkeypatch) == 0
    rows, others = ([*read_rows(path)] for path in (first, second))
    for row in (*rows, *others):  # copies of images lie beside their parquet
        row["images"] = [Path(image).name for image in row["images"]]
    assert rows == others
    assert {row["ability"] for row in rows} <= set(form.convert.tasks)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_has_a_script(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_script(name, ["--help"], monkeypatch) == 0


@pytest.mark.parametrize("name", [*CONVERTERS, *TOOLS])
def test_help_of_each(name: str) -> None:
    done = CliRunner().invoke(app, ["convert", name, "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    if name in CONVERTERS:
        converter = FORMS[name].convert
        assert isinstance(converter, Converter)
        options = [field.name.replace("_", "-") for field in fields(converter.options_type)]  # type: ignore[arg-type]
        assert [word for word in (*(it.name for it in converter.sources), *options) if word not in done.output] == []


def test_unknown_converter() -> None:
    assert CliRunner().invoke(app, ["convert", "none"]).exit_code == 2


def test_list_of_converters_loads_none_of_them() -> None:
    program = (
        "import json, sys\nfrom typer.testing import CliRunner\nfrom verl_visionr1.cli import app\n"
        "done = [CliRunner().invoke(app, words) for words in (['--help'], ['convert', '--help'])]\n"
        "print(json.dumps([[it.exit_code for it in done], sorted({name.partition('.')[0] for name in sys.modules})]))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    codes, loaded = json.loads(printed)
    assert codes == [0, 0]
    assert {"pyarrow", "PIL", "pandas", "matplotlib"}.isdisjoint(loaded)


def test_without_the_extra_it_names_the_extra() -> None:
    program = (
        "import sys\nsys.modules['pyarrow'] = None\nsys.argv = ['visionr1', *sys.argv[1:]]\n"
        "from verl_visionr1.cli import main\nmain()"
    )
    words = ["convert", "coco", "a.json", "images", "out.parquet"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "verl-visionr1[data]" in done.stderr
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------------------------------------- faults of any source


def converted(name: str, words: list[str], out: Path, *options: str) -> Any:
    """The result of the command of a converter on its first scene set."""
    return CliRunner().invoke(app, ["convert", name, *words, str(out), *words_of(FORMS[name].options), *options])


@pytest.mark.parametrize("name", CONVERTERS)
def test_one_source_is_missing(name: str, tmp_path: Path) -> None:
    words = [*words_of_sources(FORMS[name].write(pictures()[:2], tmp_path / "source"))]
    for i in range(len(words)):
        if name == "clevr" and words[i] == ".":
            continue
        done = converted(name, [*words[:i], str(tmp_path / "none"), *words[i + 1 :]], tmp_path / "out.parquet")
        assert done.exit_code == 2, done.output
        assert done.stderr.startswith("error: ")
        assert f"{tmp_path}/none" in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["source"]


NAMELESS = ("vision_r1", "countbench")
"""Converters whose images have no names in the scene sets."""


@pytest.mark.parametrize("name", [name for name in CONVERTERS if name not in NAMELESS])
def test_one_image_is_left_out(name: str, tmp_path: Path) -> None:
    """By the exclusion list, as `file_name` or `image_id` of its rows."""
    words, out = [*words_of_sources(FORMS[name].write(pictures()[:4], tmp_path / "source"))], tmp_path / "out.parquet"
    assert converted(name, words, out).exit_code == 0
    rows = list(read_rows(out))
    first = rows[0]["extra_info"]
    key = "file_name" if first["file_name"] else "image_id"
    (tmp_path / "ids.txt").write_text(f"{first[key]}\n")
    done = converted(name, words, out, "--exclude-image-ids", str(tmp_path / "ids.txt"))
    assert done.exit_code == 0, done.output
    assert "on the exclusion list" in done.stdout
    kept = [row["extra_info"][key] for row in read_rows(out)]
    assert kept == [row["extra_info"][key] for row in rows if row["extra_info"][key] != first[key]]


FILES = {name: form for name, form in FORMS.items() if not form.embeds and name not in ("pixmo", "yolo", "records")}
"""Converters whose sources name image files, each of which has to be there."""


@pytest.mark.parametrize("name", FILES)
def test_one_image_is_missing(name: str, tmp_path: Path) -> None:
    words, out = [*words_of_sources(FILES[name].write(pictures()[:4], tmp_path / "source"))], tmp_path / "out.parquet"
    assert converted(name, words, out).exit_code == 0
    rows = list(read_rows(out))
    missing = next((tmp_path / "source").rglob(Path(rows[0]["extra_info"]["file_name"]).name))
    missing.unlink()
    done = converted(name, words, out)
    assert done.exit_code == 2
    assert missing.stem in done.stderr
    done = converted(name, words, out, "--on-error", "skip")
    assert done.exit_code == 0, done.output
    assert "skipped as bad: " in done.stdout
    kept = [row["extra_info"]["image_id"] for row in read_rows(out)]
    image_id = rows[0]["extra_info"]["image_id"]
    assert kept == [it["extra_info"]["image_id"] for it in rows if it["extra_info"]["image_id"] != image_id]
