"""Reference tables from the code itself, as MyST fragments that pages include.

    python docs/tables.py            # prints the names of the fragments and their lines

Sphinx calls `write` before it reads its pages (`conf.py`); nothing that is written here is committed.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from itertools import takewhile
from pathlib import Path
from typing import Any, get_type_hints

import computed
import typer
from typer.testing import CliRunner

from verl_visionr1.alarms import AlarmRules
from verl_visionr1.answers import FORMATS
from verl_visionr1.cli import app
from verl_visionr1.conversion.flags import Flags
from verl_visionr1.criteria import CRITERIA
from verl_visionr1.frames import FAMILIES, FRAMES, Extent
from verl_visionr1.gate import Gate
from verl_visionr1.rewards import PRESETS, Preset, Score
from verl_visionr1.rewards.composition import CriterionSettings, PresetSettings, ScheduleSettings
from verl_visionr1.rewards.routing import RouteSettings
from verl_visionr1.rewards.run_settings import RewardSettings

CONFIG = Path(inspect.getfile(Preset)).parents[1] / "plugin" / "config.py"
"""Where `Settings` stands. It is read, not imported: the docs are built without verl."""
PLAIN = {"NO_COLOR": "1", "TERM": "dumb", "TERMINAL_WIDTH": "90", "COLUMNS": "90"}
HERE = Path(__file__).parent


def write(folder: Path) -> None:
    """Write every fragment; a file whose text is the same stays as it is, so that Sphinx does not read it again."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in FRAGMENTS.items():
        text = "\n".join(make()) + "\n"
        file = folder / f"{name}.md"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


# --- Markdown --------------------------------------------------------------------------------------------------------


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| " + " | ".join(headings) + " |"
    yield "|" + " --- |" * len(headings)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
    yield ""


def prose(text: str) -> str:
    """A docstring's text in one line, safe in a table."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;").replace("*", "\\*") for part in parts)


def code(text: object) -> str:
    """As inline code."""
    return f"`{text}`" if str(text) else ""


def first_sentence(docstring: str | None) -> str:
    """The first paragraph of a docstring."""
    return prose(inspect.cleandoc(docstring or "").partition("\n\n")[0])


def described(docstring: str | None, section: str = "Attributes") -> dict[str, str]:
    """Name -> text of a Google-style section."""
    body = inspect.cleandoc(docstring or "").partition(f"{section}:\n")[2]
    found: dict[str, str] = {}
    names: list[str] = []
    for line in body.splitlines():
        if line and not line.startswith(" "):
            break
        head = re.match(r"^    (\w+(?:, \w+)*): ?(.*)$", line)
        if head:
            names = head[1].split(", ")
            found |= dict.fromkeys(names, head[2])
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


# --- settings --------------------------------------------------------------------------------------------------------


def settings() -> Iterator[str]:
    """`reward.reward_kwargs.visionr1.*`, from the docstrings and the defaults of the two records that hold it."""
    records = (Path(inspect.getfile(RewardSettings)), "RewardSettings"), (CONFIG, "Settings")
    yield from table(("setting", "default", "meaning"), (row for each in records for row in _fields(*each)))


def _fields(file: Path, name: str) -> Iterator[tuple[str, str, str]]:
    """Name, default and meaning of each field of a record, read from its source."""
    owner = next(
        node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef) and node.name == name
    )
    texts = described(ast.get_docstring(owner))
    for node in owner.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            default = ast.unparse(node.value).strip("'")
            factory = re.search(r"default_factory=(list|dict)", default)
            if factory:
                default = {"list": "[]", "dict": "{}"}[factory[1]]
            default = {"RouteSettings()": "{}", "None": "null"}.get(default, default)
            yield code(node.target.id), code(default), prose(texts.get(node.target.id, ""))


def nested_settings() -> Iterator[str]:
    """The records inside the settings."""
    nested = {
        "schedule": ScheduleSettings,
        "schedule.gate": Gate,
        "criteria.NAME": CriterionSettings,
        "presets.NAME": PresetSettings,
        "routes": RouteSettings,
        "alarms": AlarmRules,
    }
    for key, record in nested.items():
        yield f"### `{key}`\n"
        yield f"{first_sentence(record.__doc__)}\n"
        texts = described(Preset.__doc__ if record is PresetSettings else "") | described(record.__doc__)
        defaults = inspect.signature(record).parameters
        rows = [
            (code(f"{key}.{name}"), code(_default(defaults[name].default)), prose(texts.get(name, "")))
            for name in defaults
        ]
        yield from table(("key", "default", "meaning"), rows)


def _default(value: object) -> str:
    if value is inspect.Parameter.empty:
        return ""
    if value is None:
        return "null"
    return "" if "msgspec" in repr(value) or "factory" in repr(value) else str(value)


# --- presets and criteria --------------------------------------------------------------------------------------------


def presets() -> Iterator[str]:
    """The presets that are meant for training."""
    for preset in PRESETS.values():
        if not preset.name.endswith("-released"):
            yield from (f"### `{preset.name}`\n", *_preset(preset))


def released_presets() -> Iterator[str]:
    """The presets that compute what released code computes, folded."""
    for preset in PRESETS.values():
        if preset.name.endswith("-released"):
            yield from (f":::{{dropdown}} `{preset.name}`\n", *_preset(preset), ":::\n")


def _preset(preset: Preset) -> Iterator[str]:
    """Facts, criteria and source of a preset."""
    value = "weighted sum" if preset.is_sum else "weighted mean"
    facts = (
        f"{', '.join(preset.tasks)}",
        f"format `{preset.answer_format}`",
        f"matching `{preset.matching}`",
        value,
        thresholds_of(preset),
    )
    yield f"{' · '.join(facts)}\n"
    rows = [
        (code(each.name), f"{each.weight:g}", code(call_of(each)), first_sentence(function_of(each, "doc")))
        for each in preset.criteria
    ]
    yield from table(("criterion", "weight", "function", "formula"), rows)
    yield f"Source: {prose(preset.source)}.\n"


def function_of(criterion: Any, what: str = "name") -> str:
    """Name (or docstring) of a criterion's function."""
    function = criterion.fn
    return (function.__doc__ or "") if what == "doc" else function.__name__


def call_of(criterion: Any) -> str:
    """A criterion's function with the options that the preset sets."""
    options = ", ".join(f"{name}={value!r}" for name, value in criterion.options.items())
    return f"{function_of(criterion)}({options})" if options else function_of(criterion)


def thresholds_of(preset: Preset) -> str:
    """The match threshold of each stage in words."""
    if "thresholds" not in preset.looks_at:
        return "no thresholds"
    stages = [f"{at:g}: IoU {thresholds.match_iou:g}" for at, thresholds in preset.schedule.points]
    return "no schedule" if len(stages) == 1 else f"schedule {', '.join(stages)}"


def counting_rewards() -> Iterator[str]:
    """What each counting preset gives for a count that is off by 1 or 2."""
    headings = [f"{count}: off by {off}" for count in computed.COUNTS for off in computed.OFF_BY]
    yield from table(("preset", *headings), ((code(name), *row) for name, row in computed.counting_rewards()))


def causes() -> Iterator[str]:
    """What `visionr1 explain` says first of typical answers, and what it says to do: one line per remedy."""
    words: dict[str, list[str]] = {}
    for first_words, finding in computed.causes():
        words.setdefault(finding.fix, []).append(code(first_words))
    yield from table(("first words", "what to do"), ((", ".join(names), prose(fix)) for fix, names in words.items()))


def model_sizes() -> Iterator[str]:
    """What `visionr1 plan` chooses for models of several sizes."""
    yield from table(("model", *computed.MACHINES), ((code(name), *row) for name, row in computed.model_sizes()))


def criteria() -> Iterator[str]:
    """Every criterion, by module, with its whole docstring."""
    module = ""
    for name, function in CRITERIA.items():
        if function.__module__ != module:
            module = function.__module__
            yield f"## {module.rpartition('.')[2].replace('_', ' ').capitalize()}\n"
            yield f"{prose(inspect.getmodule(function).__doc__.partition(chr(10) * 2)[0])}\n"  # type: ignore[union-attr]
        yield "```{eval-rst}"
        yield f".. autofunction:: {module}.{name}"
        yield "```\n"


# --- formats, frames, families ---------------------------------------------------------------------------------------


def formats() -> Iterator[str]:
    """Every answer format with an answer in it."""
    rows = [
        (code(each.name), _inline(each.example), ", ".join(each.tasks) or "any", ", ".join(map(code, each.frames)))
        for each in FORMATS.values()
    ]
    yield from table(("`answer_format`", "a well-formed answer", "tasks", "usual `frame`"), rows)


def _inline(example: str) -> str:
    text = " ".join(example.split())
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def frames() -> Iterator[str]:
    """Every coordinate frame."""
    rows = []
    for frame in FRAMES.values():
        edge = f"{frame.side:g}" if frame.extent is Extent.FIXED else frame.extent.value
        rows.append((code(frame.name), edge, f"{frame.step:g}", ", ".join(_types_of(frame.name)) or "-"))
    yield from table(("`frame`", "right and bottom edge of the image", "smallest step", "`model_type`"), rows)


def _types_of(frame: str) -> list[str]:
    return [code(each) for family in FAMILIES if family.frame == frame for each in family.model_types]


def families() -> Iterator[str]:
    """What is known of each model family."""
    rows = [
        (
            family.name,
            ", ".join(map(code, family.model_types)) or "-",
            code(family.frame) or "-",
            code(family.answer_format) or "-",
            "yes" if family.is_trained else "no",
            prose(family.source),
        )
        for family in FAMILIES
    ]
    yield from table(("family", "`model_type`", "frame", "format", "trained by verl 0.9.1", "source"), rows)


# --- metrics ---------------------------------------------------------------------------------------------------------


def score_record() -> Iterator[str]:
    """What `Score` holds."""
    yield from table(
        ("field", "meaning"), [(code(name), prose(text)) for name, text in described(Score.__doc__).items()]
    )


def alarms() -> Iterator[str]:
    """The alarms with their limits."""
    texts, parameters = described(AlarmRules.__doc__), inspect.signature(AlarmRules).parameters
    rows = [(code(name), code(parameters[name].default), prose(text)) for name, text in texts.items()]
    yield from table(("alarm or setting", "default", "meaning"), rows)


# --- command line ----------------------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    """Every command with what its `--help` prints."""
    root = typer.main.get_command(app)
    paths = list(_paths(root, ()))
    top = [(path, command) for path, command in paths if len(path) == 1]
    rows = [(f"[`visionr1 {path[0]}`](#visionr1-{path[0]})", _summary(command)) for path, command in top]
    yield from table(("command", "what it does"), rows)
    for path, _ in paths:
        yield f"(visionr1-{'-'.join(path)})=\n{'#' * (len(path) + 1)} `visionr1 {' '.join(path)}`\n"
        yield f"```none\n{help_of(path)}\n```\n"


def _paths(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, each in getattr(command, "commands", {}).items():
        yield (*path, name), each
        yield from _paths(each, (*path, name))


def _summary(command: Any) -> str:
    return first_sentence(command.help)


def help_of(path: Sequence[str]) -> str:
    """What `visionr1 PATH --help` prints in a terminal of 90 columns without colours."""
    done = CliRunner().invoke(app, [*path, "--help"], prog_name="visionr1", env=PLAIN)
    lines = [line.rstrip() for line in done.output.splitlines()]
    return "\n".join(lines).strip("\n")


def converter_options() -> Iterator[str]:
    """The options that every converter has."""
    hints = get_type_hints(Flags, include_extras=True)
    rows = []
    for field in fields(Flags):
        default = "" if field.default in (MISSING, None, False) else getattr(field.default, "value", field.default)
        name = f"--{field.name.replace('_', '-')}"
        rows.append((code(name), code(default), prose(hints[field.name].__metadata__[0])))
    yield from table(("option", "default", "meaning"), rows)


def report() -> Iterator[str]:
    """What `visionr1 report` prints of the saved run."""
    sys.path.insert(0, str(HERE / "example"))
    import restore

    with tempfile.TemporaryDirectory() as folder:
        restore.unpack(Path(folder))
        done = CliRunner().invoke(app, ["report", folder], env=PLAIN)
    for line in takewhile(lambda line: not line.startswith("figure:"), done.output.splitlines()):
        yield from textwrap.wrap(line, 90) if len(line.rstrip()) > 90 else [line.rstrip()]


def result_pages() -> Iterator[str]:
    """The pages that `benchmarks/claims/report.py` has written."""
    pages = sorted((HERE / "results").glob("*.md"))
    if pages:
        yield from ("```{toctree}", *(f"/results/{page.stem}" for page in pages), "```")
    else:
        yield "The study is in progress; `bash benchmarks/claims/run.sh` runs it."


FRAGMENTS: Mapping[str, Callable[[], Iterator[str]]] = {
    each.__name__: each
    for each in (
        *(settings, nested_settings, presets, released_presets, counting_rewards, criteria, causes),
        *(formats, frames, families, score_record, alarms),
        *(commands, converter_options, model_sizes, report, result_pages),
    )
}
"""File name -> what writes its lines."""

if __name__ == "__main__":
    write(HERE / "reference" / "generated")
    for name, make in FRAGMENTS.items():
        print(f"{name}: {len(list(make()))} lines")
