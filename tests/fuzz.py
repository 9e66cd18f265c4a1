"""Throw a great many odd completions at every preset: nothing may raise, hang, or give a number that is not finite.

    python tests/fuzz.py --count 1000000 --workers 2        # prints, for each preset, CPU time a completion
    python tests/fuzz.py --count 1000000 --presets visionr1 counting
    kill -USR1 PID                                          # prints the table of what is done so far

The texts: answers in every format, mutated (cut, repeated, swapped, numbers and brackets replaced); random JSON;
adversarial numbers; scraps of tags and markup; random Unicode; one in some thousands tens of kilobytes long. The same
seed gives the same texts. `tests/core/test_fuzz.py` runs a few of them with every test run.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from verl_visionr1 import PRESETS, Target, score
from verl_visionr1.answers import FORMATS

NUMBERS = (
    *("0", "-0", "1", "7", "-1", "0.5", "1e3", "1e308", "1e309", "-1e309", "NaN", "Infinity", "-Infinity", "null"),
    *("true", "9" * 30, "9" * 400, "0x10", "1_000", "1,000", "½", "٣", "01", "1.", ".5", "1e-400", "2147483648"),
    *("'3'", '"3"'),
)
SCRAPS = (
    *("<|channel>", "<channel|>", "thought\n", "```xml", ', "label": "a "b" {c}"', "\\frac{1}{2}", "2^10", "3!"),
    *("<think>", "</think>", "<answer>", "</answer>", "```json", "```", "<|begin_of_box|>", "<|end_of_box|>", "<box>"),
    *("<|box_start|>", "<|box_end|>", "<|object_ref_start|>", "<ref>", "</ref>", "<loc0001>", "<point x="),
    *('"bbox_2d":', '"label":', '"point_2d":', "[", "]", "{", "}", "[[", "]]", "{{", "\\boxed{", "$", "&", "-", ";"),
    *("None", "[]", "yes", "no", "A", "(B)", "three", "twenty-one", "9^9^9^9", "\\frac{1}{0}", "\u202e", "\u0000"),
    *("\ud800", "e\u0301", "\n", "\t"),
)
TARGETS = (
    Target(
        task="detection", size_wh=(640, 480), boxes_xyxy=[[10, 20, 30, 40], [100, 100, 200, 220]], labels=["cat", "dog"]
    ),
    Target(task="grounding", size_wh=(640, 480), boxes_xyxy=[[10, 20, 30, 40]], labels=["cat"]),
    Target(task="detection", size_wh=(1, 1), categories=["cat", "dog"]),
    Target(task="counting", size_wh=(640, 480), count=7),
    Target(task="counting", size_wh=(640, 480), count=0),
    Target(task="pointing", size_wh=(640, 480), boxes_xyxy=[[5, 5, 50, 50]], labels=["cat"]),
    Target(task="pointing", size_wh=(640, 480)),
    Target(task="text", answer="B", choices=["a cat", "a dog"]),
    Target(task="text", answer="yes"),
    Target(task="text", answer="3.5"),
)


CHUNK = 5_000
"""Completions a job; Ctrl-C shows what whole jobs have found."""


def answer(rng: random.Random) -> str:
    """A well-formed answer of some format."""
    if rng.random() < 0.4:
        return rng.choice(list(FORMATS.values())).example
    boxes = [[rng.randint(-5, 650) for _ in range(4)] for _ in range(rng.randint(0, 12))]
    if rng.random() < 0.7:
        boxes = [[min(x1, x2), min(y1, y2), max(x1, x2) + 1, max(y1, y2) + 1] for x1, y1, x2, y2 in boxes]
    key = rng.choice(["bbox_2d", "bbox_2d", "point_2d", "bbox", "box"])
    items = [
        {key: box[:2] if key == "point_2d" else box, "label": rng.choice(["cat", "dog", "", "CAT "])} for box in boxes
    ]
    text = json.dumps(items)
    return rng.choice(["{}", "```json\n{}\n```", "<think>x</think><answer>{}</answer>", "Here: {}"]).replace("{}", text)


def mutated(rng: random.Random, text: str) -> str:
    """The text after one small accident."""
    i, j = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
    kind = rng.randrange(6)
    if kind == 0:
        return text[:i] + text[j:]
    if kind == 1:
        return text[:j] + text[i:]
    if kind == 2:
        return text[:i] + rng.choice(SCRAPS) + text[i:]
    if kind == 3:
        return text[:i] + rng.choice(NUMBERS) + text[j:]
    if kind == 4:
        return text[j:] + text[i:j] + text[:i]
    digits = [k for k, character in enumerate(text) if character.isdigit()]
    k = rng.choice(digits) if digits else i
    return text[:k] + rng.choice(NUMBERS) + text[k + 1 :]


def value(rng: random.Random, depth: int = 0) -> object:
    """Some JSON."""
    kind = rng.randrange(7 if depth < 4 else 5)
    if kind < 5:
        return (None, True, rng.uniform(-1e3, 1e3), rng.randint(-9, 10**20), rng.choice(SCRAPS))[kind]
    if kind == 5:
        return [value(rng, depth + 1) for _ in range(rng.randrange(5))]
    return {rng.choice(["bbox_2d", "label", "point_2d", "x"]): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def completion(rng: random.Random) -> str:
    """One odd text."""
    kind = rng.random()
    if kind < 0.6:
        text = answer(rng)
        for _ in range(rng.randrange(1, 5)):
            text = mutated(rng, text)
    elif kind < 0.75:
        text = json.dumps(value(rng))
    elif kind < 0.85:
        text = "[" + ", ".join(rng.choice(NUMBERS) for _ in range(rng.randrange(9))) + "]"
    elif kind < 0.95:
        text = "".join(rng.choice(SCRAPS) for _ in range(rng.randrange(20)))
    else:
        text = "".join(chr(rng.choice((rng.randrange(0xD7FF), rng.randrange(0x80)))) for _ in range(rng.randrange(60)))
    return text * rng.randint(50, 500) if rng.random() < 0.0003 else text


def completions(seed: int, count: int) -> Iterator[str]:
    """`count` odd texts."""
    rng = random.Random(seed)
    return (completion(rng) for _ in range(count))


def run(seed: int, count: int, names: list[str]) -> dict[str, np.ndarray]:
    """Preset -> microseconds of CPU for each text; raises with the text where a preset fails."""
    import scipy.optimize  # noqa: F401 - or the first assignment would be charged with loading it

    rng = random.Random(seed)
    spent = {name: np.zeros(count, dtype=np.float32) for name in names}
    targets = {name: [target for target in TARGETS if target.task in PRESETS[name].tasks] for name in names}
    sums = {name for name in names if PRESETS[name].is_sum}
    for i, text in enumerate(completions(seed, count)):
        pick, progress, frame = (
            rng.random(),
            rng.choice([None, 0.0, 0.3, 1.0]),
            rng.choice(["original", "qwen3-vl", "unit"]),
        )
        for name in names:
            target = targets[name][int(pick * len(targets[name]))]
            start = time.thread_time_ns()
            try:
                result = score(text, target, preset=name, frame=frame, progress=progress, max_tokens=512)
            except Exception as error:
                raise AssertionError(f"{name} raised on {text[:2000]!r} (seed {seed}, text {i})") from error
            spent[name][i] = (time.thread_time_ns() - start) / 1000
            # A sum is finite only if all of its terms are; one call is several times cheaper than a dozen.
            assert math.isfinite(result.value + sum(result.metrics.values())), f"{name}: {result} on {text[:2000]!r}"
            assert name in sums or 0.0 <= result.value <= 1.0, f"{name} gave {result.value} on {text[:2000]!r}"
    return spent


def print_table(done: list[dict[str, np.ndarray]]) -> None:
    """Print the CPU time a completion of each preset, over the jobs that are done."""
    print(f"\n{'preset':32}{'median':>10}{'p99.9':>10}{'maximum':>12}   microseconds of CPU")
    n_scores = 0
    for name in done[0] if done else ():
        spent = np.concatenate([found[name] for found in done])
        n_scores += len(spent)
        print(f"{name:32}{np.median(spent):10.1f}{np.percentile(spent, 99.9):10.0f}{spent.max():12.0f}")
    print(f"{n_scores:,} scores, none raised, all finite", flush=True)


def main() -> None:
    """Fuzz in `workers` processes, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="completions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--presets", nargs="*", default=list(PRESETS))
    options = parser.parse_args()
    jobs = [(options.seed * 1_000_003 + i, min(CHUNK, options.count - i)) for i in range(0, options.count, CHUNK)]
    done: list[dict[str, np.ndarray]] = []
    signal.signal(signal.SIGUSR1, lambda *_: print_table(done))
    pool = ProcessPoolExecutor(options.workers, mp_context=get_context("spawn"))
    try:
        for found in pool.map(run, *zip(*jobs, strict=True), [options.presets] * len(jobs)):
            done.append(found)
            print(f"\r{CHUNK * len(done):,} completions", end="", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("\ninterrupted: what was done until here", file=sys.stderr)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    print_table(done)


if __name__ == "__main__":
    main()
