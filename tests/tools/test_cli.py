"""What all commands share: exit codes, choices, version."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from importlib.metadata import version

import pytest
from click.testing import Result
from typer.testing import CliRunner

from verl_visionr1 import cli
from verl_visionr1.cli import app
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


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("no", name="matplotlib.figure")

    monkeypatch.setattr(cli, "app", missing)
    monkeypatch.setattr(sys, "argv", ["visionr1", "report"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert capsys.readouterr().err == "visionr1: this needs matplotlib: pip install 'verl-visionr1[tools]'\n"


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
