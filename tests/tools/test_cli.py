"""What all commands share: exit codes, choices, version."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from verl_visionr1 import PRESETS, cli
from verl_visionr1.cli import app
from verl_visionr1.rewards import find_preset
from verl_visionr1.runtime import check


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


def test_version() -> None:
    done = run("--version")
    assert (done.exit_code, done.stdout.split()[-1]) == (0, version("verl-visionr1"))


def test_a_shell_can_complete() -> None:
    assert run("--show-completion", "bash").exit_code in (0, 1)  # 1: no shell is found where none runs
    assert "--install-completion" in run("--help").output


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("score", "a.jsonl", "--on-error", "cry"), "--on-error"),
        (("explain", "--text", "7", "--target", "{}", "--reasoning", "on"), "--reasoning"),
        (("difficulty", "a.jsonl", "--data", "d.parquet", "--metric", "recall"), "--metric"),
        (("gallery", "a.jsonl", "--limit", "some"), "--limit"),
        (("eval", "--out", "o", "--recompute", "--confidence", "sure"), "--confidence"),
        (("doctor", "a.parquet", "--verl", "maybe"), "--verl"),
        (("plan", "--attention", "x"), "--attention"),
    ],
)
def test_a_choice_that_does_not_exist_is_a_usage_error(words: tuple[str, ...], option: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert option in done.output


@pytest.mark.parametrize(
    "words",
    [
        ("score", "{missing}"),
        ("explain", "{missing}", "--row", "1"),
        ("gallery", "{missing}"),
        ("difficulty", "{missing}", "--data", "{missing}"),
        ("schedule", "--rollouts", "{missing}"),
        ("doctor", "{missing}"),
        ("report", "{missing}"),
        ("watch", "{missing}"),
        ("preset", "{missing}.yaml"),
        ("audit", "{missing}.yaml"),
    ],
)
def test_a_missing_file_exits_2_and_is_named(words: tuple[str, ...], tmp_path) -> None:
    done = run(*(word.format(missing=tmp_path / "missing") for word in words))
    assert done.exit_code == 2
    assert "missing" in done.output.replace("\n", "")


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [("report", "matplotlib.figure", "tools"), ("convert", "PIL", "data"), ("reshard", "torch", "gpu")],
)
def test_a_missing_package_is_one_line(
    command: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("no", name=module)

    monkeypatch.setattr(cli, "app", missing)
    monkeypatch.setattr(sys, "argv", ["visionr1", command])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert f"[{extra}]" in line


def test_a_submodule_that_is_not_there_is_no_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("no", name="verl.trainer.of_another_version")

    monkeypatch.setattr(cli, "app", missing)
    with pytest.raises(ModuleNotFoundError):
        cli.main()


def test_presets_are_listed_in_lines_of_80_characters() -> None:
    lines = run("preset").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert set(PRESETS) <= {line.split()[0] for line in lines}


@pytest.mark.parametrize("name", PRESETS)
def test_a_printed_preset_has_thresholds_only_if_it_uses_them(name: str, tmp_path: Path) -> None:
    file = tmp_path / "preset.yaml"
    file.write_text(run("preset", name).stdout)
    assert find_preset(str(file)) == PRESETS[name]
    has_thresholds = "thresholds" in PRESETS[name].looks_at
    assert ("match_iou" in file.read_text()) is has_thresholds
    assert ("match IoU" in run("schedule", "--preset", name).stdout) is has_thresholds


@pytest.mark.verl
def test_the_check_as_json() -> None:
    found = json.loads(run("check", "--json").stdout)
    assert {"what", "found", "is_fine"} == set(found[0])


def test_the_check_prints_no_warnings(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    def findings() -> list[check.Finding]:
        warnings.warn("no such engine", stacklevel=1)
        logging.getLogger("verl").warning("no such device")
        return [check.Finding("python", "3")]

    monkeypatch.setattr(check, "findings", findings)
    assert run("check").exit_code == 0
    assert (list(recwarn), caplog.records) == ([], [])


@pytest.mark.verl
@pytest.mark.slow  # it imports verl and vLLM again
def test_nor_those_of_what_it_imports() -> None:
    program = ["-c", "from verl_visionr1.cli import main; main()", "check"]
    done = subprocess.run([sys.executable, *program], capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout.split()[1]) == ("", "python")


@pytest.mark.verl
@pytest.mark.parametrize("has_gpu", [True, False])
def test_the_check_names_the_device_that_is_there(has_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.plugin import platform

    from verl_visionr1.runtime.check import _platform

    device = type("Device", (), {"device_name": "cuda", "is_available": lambda self: has_gpu})()
    monkeypatch.setattr(platform, "get_platform", lambda: device)
    for chosen, is_fine in (("", True), ("nvidia", has_gpu)):
        monkeypatch.setenv("VERL_PLATFORM", chosen)
        found = _platform()
        assert (found.found.startswith("cuda"), found.is_fine) == (has_gpu, is_fine)
