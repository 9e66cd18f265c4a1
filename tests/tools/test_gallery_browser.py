"""The page of `visionr1 gallery` in a real browser: `apt-get install chromium`, or `VISIONR1_BROWSER`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from browser import Page, opened_browser
from gallery_pages import JUDGING, dump, embedded
from gallery_runs import make_run, write_lines
from PIL import Image

from verl_visionr1 import FRAMES, PRESETS, Target
from verl_visionr1.rollouts.judging import Judging, Moment
from verl_visionr1.tools.gallery.page import Settings, write_gallery

SHOWN = "performance.getEntriesByName('gallery-shown').length > 0"
MAX_SECONDS = 20.0
"""Until the page of 2,000 rollouts is drawn, on a machine that may be busy: 0.3 s on a calm one."""


class Gallery(NamedTuple):
    file: Path
    payload: dict[str, Any]
    n_images: int


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with opened_browser() as opened:
        opened.look(1400, 1000)
        yield opened


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return make_gallery(tmp_path_factory.mktemp("run"), n_prompts=40)


def make_gallery(folder: Path, n_prompts: int) -> Gallery:
    """Prompts of 8 rollouts over 10 steps, and a little validation."""
    run = make_run(folder, n_prompts=n_prompts, n_samples=8, n_steps=10)
    last = run.folder / "validation" / "9.jsonl"
    row = json.loads(last.read_text().splitlines()[-1])
    with last.open("a") as file:  # a reward of other weights
        file.write(json.dumps(row | {"uid": "other_0_0", "score": 0.123}) + "\n")
    out = run.folder / "gallery.html"
    judging = Judging(PRESETS["visionr1"], FRAMES["original"], Moment(total_steps=10))
    written = write_gallery([run.folder], out, Settings(judging, data=(run.data,), options="--frame original"))
    return Gallery(out, embedded(out.read_text(), "payload"), written.n_images)


def counts(page: Page) -> tuple[int, int]:
    """Prompts and rollouts that the page says it shows."""
    said = page.evaluate("[...document.querySelectorAll('#status b')].map((b) => b.textContent)")
    prompts, rollouts = (int(text.split()[0].replace(",", "")) for text in said)
    return prompts, rollouts


def asked(page: Page, gallery: Gallery, **state: str) -> tuple[int, int]:
    """The same, for a state in the address."""
    page.open(gallery.file, "#" + urlencode(state), SHOWN)
    assert page.complaints == []
    return counts(page)


def groups_of(gallery: Gallery) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    samples = gallery.payload["samples"]
    return [(group, samples[group["first"] : group["first"] + group["n"]]) for group in gallery.payload["groups"]]


@pytest.mark.slow
@pytest.mark.nightly
def test_two_thousand_rollouts_are_there_at_once(page: Page, tmp_path: Path) -> None:
    gallery = make_gallery(tmp_path, n_prompts=250)
    page.open(gallery.file, until=SHOWN)
    seconds = page.evaluate("performance.getEntriesByName('gallery-shown')[0].startTime") / 1000
    size, n = gallery.file.stat().st_size, len(gallery.payload["samples"])
    print(f"\ngallery: {n} rollouts, {size / 1e6:.2f} MB, drawn after {seconds:.2f} s")  # noqa: T201 - seen with -s
    assert (n > 2000, gallery.n_images, size < 5_000_000, seconds < MAX_SECONDS) == (True, 250, True, True)
    assert page.complaints == []
    assert page.requests == [gallery.file.resolve().as_uri()], "nothing else is asked for"
    assert counts(page) == (page.evaluate("document.querySelectorAll('.card').length"), n)
    assert 2 <= page.evaluate("document.querySelectorAll('.card.filled').length") < 20, "only what is near is drawn"


def test_a_tile_says_what_its_rollout_scored(page: Page, gallery: Gallery) -> None:
    page.open(gallery.file, until=SHOWN)
    group, samples = groups_of(gallery)[0]
    tiles = page.evaluate(
        "[...document.querySelectorAll('.card')[0].querySelectorAll('.tile')].map((tile) => "
        "[tile.querySelector('.numbers b').textContent, tile.querySelector('.adv').textContent,"
        " tile.querySelectorAll('rect.prediction').length, tile.querySelectorAll('rect.object').length,"
        " [...tile.querySelectorAll('.bar span:last-child')].map((span) => span.textContent)])"
    )
    n_objects = len(gallery.payload["prompts"][group["prompt"]]["objects"])
    for tile, sample in zip(tiles, samples, strict=True):
        assert float(tile[0]) == pytest.approx(sample["reward"], abs=6e-4)
        assert float(tile[1].replace("\u2212", "-")) == pytest.approx(sample["advantage"], abs=6e-3)
        assert tile[2:4] == [len(sample["predictions"]), n_objects]
        assert [float(text) for text in tile[4]] == pytest.approx(sample["metrics"][:3], abs=6e-3)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")  # cards are drawn when they come near
    page.wait("[...document.querySelectorAll('.card')].at(-1).matches('.filled')")
    page.wait("!document.querySelector('.card').firstChild")
    page.wait("[...document.querySelectorAll('.card img')].every((img) => img.complete && img.naturalWidth === 320)")


def test_prompts_with_one_answer_stand_side_by_side(page: Page, gallery: Gallery, tmp_path: Path) -> None:
    tops = "[...document.querySelectorAll('.card')].slice(0, 2).map((card) => card.offsetTop)"
    page.open(gallery.file, until=SHOWN)
    assert len(set(page.evaluate(tops))) == 2
    rows = [{"input": f"Locate {i}.", "uid": f"{i}"} for i in range(3)]
    write_gallery([dump(tmp_path / "1.jsonl", *rows)], tmp_path / "page.html", Settings(JUDGING))
    page.open(tmp_path / "page.html", until=SHOWN)
    assert len(set(page.evaluate(tops))) == 1


def test_filters_in_the_address(page: Page, gallery: Gallery) -> None:
    payload = gallery.payload
    trained = [(group, samples) for group, samples in groups_of(gallery) if group["n_all"] > 1]
    recall = payload["presets"][0]["metrics"].index("recall")
    kinds = [kind["name"] for kind in payload["kinds"]]
    duplicate = payload["causes"].index("duplicate")
    prompts = payload["prompts"]

    def hits(fits: Callable[[dict[str, Any], dict[str, Any]], bool]) -> tuple[int, int]:
        kept = [n for group, samples in trained if (n := sum(1 for sample in samples if fits(group, sample)))]
        return len(kept), sum(kept)

    cases: list[tuple[dict[str, str], Callable[[dict[str, Any], dict[str, Any]], bool]]] = [
        ({}, lambda group, sample: True),
        ({"flat": "1"}, lambda group, sample: group["is_flat"]),
        ({"against": "1"}, lambda group, sample: group["against"] > 0),
        ({"from": "2", "to": "4"}, lambda group, sample: 2 <= group["step"] <= 4),
        ({"min": "0.9"}, lambda group, sample: sample["reward"] >= 0.9),
        ({"criterion": "recall", "high": "0.25"}, lambda group, sample: sample["metrics"][recall] <= 0.25),
        ({"source": payload["sources"][1]}, lambda group, sample: prompts[group["prompt"]]["source"] == 1),
        ({"task": "grounding"}, lambda group, sample: prompts[group["prompt"]]["task"] == "grounding"),
        ({"cause": "duplicate"}, lambda group, sample: sample["cause"] == duplicate),
        ({"kind": "junk"}, lambda group, sample: any(kinds[it[0]] == "junk" for it in sample["predictions"])),
        ({"kind": "missed"}, lambda group, sample: kinds.index("missed") in sample["objects"]),
        ({"q": "LET ME KNOW"}, lambda group, sample: "let me know" in sample["text"].lower()),
    ]
    for state, fits in cases:
        assert asked(page, gallery, dump="rollouts", **state) == hits(fits), state
    assert hits(cases[0][1]) == (40, 320)
    assert asked(page, gallery, differs="1")[1] == sum(sample["differs"] for sample in payload["samples"]) > 0
    assert asked(page, gallery, q="no such words") == (0, 0)
    assert page.evaluate("document.querySelector('.empty').textContent")
    asked(page, gallery, dump="rollouts", sort="spread")
    facts = page.evaluate("[...document.querySelectorAll('.card.filled .facts')].map((f) => f.children[1].textContent)")
    values = [float(text.removeprefix("std ")) for text in facts]
    assert (len(values) > 1, values) == (True, sorted(values, reverse=True))
    everything = asked(page, gallery)
    assert asked(page, gallery, nonsense="1", min="x", sort="constructor", open="-1") == everything


def test_the_form_writes_the_address_and_reset_clears_it(page: Page, gallery: Gallery) -> None:
    everything = asked(page, gallery)
    page.evaluate(
        "(() => { const box = document.querySelector('[name=q]'); box.value = 'sorry';"
        " box.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )
    page.wait("location.hash === '#q=sorry'")
    assert 0 < counts(page)[1] < everything[1]
    page.evaluate("document.querySelector('[type=reset]').click()")
    page.wait("location.hash === ''")
    assert counts(page) == everything
    page.evaluate("location.hash = '#dump=validation'")
    page.wait("document.querySelector('[name=dump]').value === 'validation'")
    n = sum(group["n_all"] == 1 for group, _ in groups_of(gallery))
    assert counts(page) == (8, n), "the rollouts of a prompt, one a step, are side by side"
    page.wait("document.querySelector('.card.filled .step') !== null")  # cards are filled when they come into view
    steps = "[...document.querySelector('.card.filled').querySelectorAll('.step')].map((e) => e.textContent)"
    assert page.evaluate(steps) == ["step 0", "step 3", "step 6", "step 9"]


def test_keys_walk_through_rollouts(page: Page, gallery: Gallery) -> None:
    page.open(gallery.file, until=SHOWN)
    page.key("j")
    page.key("j")
    assert page.evaluate("document.activeElement.dataset.place") == "1"
    page.key("Enter")
    first = gallery.payload["groups"][1]["first"]
    page.wait(f"location.hash === '#open={first}' && document.getElementById('detail').open")
    page.key("ArrowRight")
    page.wait(f"location.hash === '#open={first + 1}'")
    page.key("k")
    page.wait("location.hash === '#open=0'")
    page.key("Escape")
    page.wait("!document.getElementById('detail').open && location.hash === ''")
    assert page.evaluate("document.activeElement.dataset.place") == "0"
    assert page.complaints == []


def test_the_large_view_holds_all_of_a_rollout(page: Page, gallery: Gallery) -> None:
    number, sample = next((i, s) for i, s in enumerate(gallery.payload["samples"]) if len(s["predictions"]) >= 3)
    page.open(gallery.file, f"#open={number}", SHOWN)
    assert page.evaluate("document.querySelector('#detail .completion').textContent") == sample["text"]
    text = page.evaluate("document.getElementById('detail').textContent")
    assert sample["why"] in text
    file = gallery.payload["files"][sample["file"]]
    assert f"visionr1 explain {file} --row {sample['line']} --frame original --progress 0" in text
    row = page.evaluate(
        "(() => { const b = document.querySelector('#detail tr[data-i=\"1\"]').getBoundingClientRect();"
        " return [b.left + 20, b.top + b.height / 2]; })()"
    )
    page.pointer("mouseMoved", *row)
    page.wait("document.querySelectorAll('#detail .hot').length >= 2")
    hot = page.evaluate("[...document.querySelectorAll('#detail .hot')].map((e) => [e.tagName, e.dataset.i])")
    assert {("rect", "1"), ("TR", "1")} <= {(name, i) for name, i in hot}
    assert {i for _, i in hot} == {"1"}
    assert page.evaluate("document.querySelector('.said').textContent").startswith("2 ")


def test_a_curve_leads_to_its_step(page: Page, gallery: Gallery) -> None:
    page.open(gallery.file, until=SHOWN)
    left, top, width, height = page.evaluate(
        "(() => { const b = document.querySelector('.curve > svg').getBoundingClientRect();"
        " return [b.left, b.top, b.width, b.height]; })()"
    )
    at = (left + 0.96 * width, top + height / 2)
    page.pointer("mouseMoved", *at)
    page.wait("document.querySelector('.told').textContent.startsWith('step 10')")
    for kind in ("mousePressed", "mouseReleased"):
        page.pointer(kind, *at)
    page.wait("location.hash === '#from=10&to=10'")
    assert counts(page) == (4, 32)


HOSTILE = (
    "</script><script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "<svg onload='window.pwned = 1'><style>* { display: none }</style>",
    "--><!--<script>window.pwned = 1</script>",
    "\u2028\u2029window.pwned = 1\u0000\u0007\ud800 half \udfff, \u202eright to left\u202c, \u200bnothing",
    "${window.pwned = 1} {{ 7 * 7 }} {% raw %} &lt;b&gt; &amp; \\u003cb>",
    "<iframe srcdoc='<script>parent.pwned = 1</script>'></iframe><base href='https://example.org/'>",
    "x" * 1_000_000,
)
UNSEEN = re.compile("[\u0000-\u0008\u000b-\u001f\u200b-\u200f\u2028-\u202e\ud800-\udfff]")


def spelled(text: str) -> str:
    return UNSEEN.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of which every text, label, source, question and name is one of `HOSTILE`."""
    folder = tmp_path_factory.mktemp("hostile") / "<img src=x onerror=alert(1)>"
    rows: list[dict[str, Any]] = []
    for i, text in enumerate(HOSTILE):
        label, whole = text[:60], text[:60].encode(errors="replace").decode()
        box = Target(task="detection", size_wh=(64, 48), boxes_xyxy=[[4, 4, 30, 30]], labels=[whole])
        said = text + json.dumps([{"bbox_2d": [4, 4, 30, 30], "label": label}])
        rows.append({"input": text, "data_source": label, "output": said, "gts": box.to_json(), "uid": f"{i}_0_0"})
    truth = Target(task="text", answer=HOSTILE[0]).to_json()
    rows.append({"input": "?", "output": f"<answer>{HOSTILE[0]}</answer>", "gts": truth, "uid": "t_0_0"})
    write_lines(folder / "1.jsonl", rows)
    out = folder.parent / "hostile.html"
    written = write_gallery([folder], out, Settings(Judging(PRESETS["visionr1"], FRAMES["original"]), title=HOSTILE[0]))
    assert written.n_rollouts == len(rows)
    assert written.n_bytes < 1_000_000, "a long text is shortened"
    return out


def test_what_a_model_wrote_is_shown_and_never_obeyed(page: Page, hostile: Path) -> None:
    unseen = f"/{UNSEEN.pattern.encode('unicode_escape').decode()}/.test(document.body.innerText)"
    own = "document.querySelectorAll('iframe, base, object, embed, body style, [onerror], [onload], [style*=url]')"
    for i, text in enumerate((*HOSTILE, HOSTILE[0])):
        page.open(hostile, f"#open={i}", SHOWN)
        assert (page.complaints, page.requests) == ([], [hostile.resolve().as_uri()])
        shown = page.evaluate("document.querySelector('#detail .completion').textContent")
        assert shown.removeprefix("<answer>").startswith(spelled(text[:5000]))
        assert ("characters left out" in shown) == (len(text) > 100_000)
        assert page.evaluate(unseen) is False
        assert page.evaluate(f"{own}.length + document.querySelectorAll('script').length") == 3
        assert page.evaluate("window.pwned") is None
    page.evaluate("document.querySelectorAll('#list details').forEach((details) => { details.open = true; })")
    page.evaluate("new Promise((done) => setTimeout(done, 50))")
    assert page.evaluate("window.pwned") is None


def test_the_policy_refuses_scripts_and_the_network(page: Page, hostile: Path) -> None:
    page.open(hostile, until=SHOWN)
    page.evaluate(
        "(() => { const script = document.createElement('script'); script.textContent = 'window.pwned = 1';"
        " document.body.append(script);"
        " const link = document.createElement('a'); link.setAttribute('onclick', 'window.pwned = 1');"
        " document.body.append(link); link.click();"
        " new Image().src = 'https://example.org/x.png'; })()"
    )
    assert page.evaluate("fetch('https://example.org/').then(() => 'fetched', () => 'refused')") == "refused"
    assert page.evaluate("window.pwned") is None
    assert sum("Content Security Policy" in complaint for complaint in page.complaints) >= 4
    assert page.requests == [hostile.resolve().as_uri()]


def test_every_task_has_its_tile(page: Page, tmp_path: Path) -> None:
    cat = {"size_wh": (480, 360), "boxes_xyxy": [[50, 50, 120, 120]], "labels": ["cat"]}
    rows = [
        (Target(task="counting", size_wh=(480, 360), count=3), "5"),
        (Target(task="pointing", **cat), '[{"point_2d": [80, 80], "label": "cat"}]'),
        (Target(task="text", answer="a dog"), "the dog"),
    ]
    made = [{"output": said, "gts": target.to_json(), "uid": target.task} for target, said in rows]
    write_gallery([dump(tmp_path / "1.jsonl", *made)], tmp_path / "tasks.html", Settings(JUDGING))
    tiles = []
    for i in range(3):
        page.open(tmp_path / "tasks.html", f"#open={i}", SHOWN)
        assert page.complaints == []
        assert not re.search(r"\b(null|undefined|NaN|object Object)\b", page.evaluate("document.body.innerText"))
        tiles.append(page.evaluate(f"document.querySelectorAll('.tile')[{i}].innerText"))
    assert page.evaluate("document.querySelectorAll('.tile circle.prediction, .tile rect.object').length") == 2
    detail = page.evaluate("document.getElementById('detail').innerText")
    assert ("'the dog'" in detail, "'a dog'" in detail, "count off by 2" in tiles[0]) == (True, True, True)


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (900, "dark"), (420, "light")])
def test_it_fits_and_can_be_read(page: Page, gallery: Gallery, width: int, scheme: str, tmp_path: Path) -> None:
    page.look(width, 900, scheme)
    unlabelled = (
        "[...document.querySelectorAll('input, select, button')].filter((element) =>"
        " !element.labels?.length && !element.textContent && !element.getAttribute('aria-label')).length"
    )
    try:
        for fragment in ("#curves=all", "#open=3", ""):
            page.open(gallery.file, fragment, SHOWN)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
        page.screenshot(tmp_path / "seen.png")
        with Image.open(tmp_path / "seen.png") as seen:
            assert seen.size == (width, 900)
            corner = seen.convert("L").getpixel((2, 2))
        assert (corner < 60) if scheme == "dark" else (corner > 200)
        assert page.evaluate(unlabelled) == 0
    finally:
        page.look(1400, 1000)
