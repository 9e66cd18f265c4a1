"""
Score, explain, draw, audit, schedule
=====================================

You look at the saved answers of a real run: what they earned, why, and whether the reward can be gamed.
No training, no GPU. Run it with ``python docs/tutorials/score_and_explain.py``, or download the notebook at the end.
"""

# %%
# Score one answer
# ----------------
# A target is what is really in the image, in pixels of the original image. The model answers in its own coordinates:
# Qwen3-VL divides the image into 1000 x 1000.

from verl_visionr1 import Target, score

target = Target(
    task="detection",
    size_wh=(640, 480),
    boxes_xyxy=[[64, 48, 320, 240], [400, 240, 600, 440]],
    labels=["cat", "dog"],
)
answer = '[{"bbox_2d": [100, 100, 500, 500], "label": "cat"}, {"bbox_2d": [630, 480, 900, 900], "label": "dog"}]'
result = score(answer, target, frame="qwen3-vl")
print("reward", round(result.value, 3))
result.metrics

# %%
# The same answer in the wrong frame is worth almost nothing. This is the most common cause of a reward of 0.

print("reward", round(score(answer, target, frame="original").value, 3))

# %%
# Load a finished run
# -------------------
# ``docs/example`` holds the held-out answers of a run of ``recipes/tiny_visionr1_cpu.sh``, before training (step 0) and
# after it (step 22). verl writes such files for every run with ``trainer.validation_data_dir=DIR``.

import gzip
import json
from pathlib import Path

here = Path(__file__).parent if "__file__" in globals() else Path.cwd()
example = next(folder / "example" for folder in (here, *here.parents) if (folder / "example" / "22.jsonl.gz").exists())


def load(step: int) -> list[dict]:
    with gzip.open(example / f"{step}.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


before, after = load(0), load(22)
print(len(before), "prompts;", after[0]["output"])

# %%
# Every row holds the answer (``output``), the ground truth (``gts``), the reward (``score``) and the criteria.
# Scored again, each answer gets the reward that the run gave. Validation uses the thresholds of the last stage:
# ``progress=1.0``.


def rescore(row: dict, preset: str = "visionr1") -> float:
    return score(row["output"], Target.from_json(row["gts"]), preset=preset, frame="qwen3-vl", progress=1.0).value


difference = max(abs(rescore(row) - row["score"]) for row in before + after)
print(f"largest difference {difference:.1e}")
assert difference < 1e-6

# %%
# Explain the worst answer
# ------------------------
# ``visionr1 explain`` does this on the command line. The cause comes first, with what to do.

from verl_visionr1 import FRAMES, PRESETS
from verl_visionr1.rewards import ResponseContext
from verl_visionr1.tools.explain.explanation import explain

worst = min(before, key=lambda row: row["f1_50"])
explanation = explain(
    worst["output"],
    Target.from_json(worst["gts"]),
    PRESETS["visionr1"],
    ResponseContext(FRAMES["qwen3-vl"]),
    progress=1.0,
)
print(worst["output"])
print(explanation.cause)

# %%
# Draw it
# -------
# Objects are dashed, predictions are solid. The colour says what a prediction was counted as.

import matplotlib.pyplot as plt

from verl_visionr1.tools.explain.drawing import draw

crowded = max(before, key=lambda row: (row["n_target"], row["n_predicted"]))
figure, axes = plt.subplots(1, 2, figsize=(8, 4.6))
same_prompt = next(row for row in after if row["gts"] == crowded["gts"])
for panel, row, title in ((axes[0], crowded, "before"), (axes[1], same_prompt, "after 22 steps")):
    picture = Path("explained.png")
    explained = explain(
        row["output"],
        Target.from_json(row["gts"]),
        PRESETS["visionr1"],
        ResponseContext(FRAMES["qwen3-vl"]),
        progress=1.0,
    )
    draw(explained, picture)
    panel.imshow(plt.imread(picture))
    panel.set_title(f"{title}: reward {explained.value:.2f}")
    panel.axis("off")
    picture.unlink()
figure.tight_layout()

# %%
# Can the reward be gamed?
# ------------------------
# ``visionr1 audit PRESET`` tries about 200 bad answers on drawn scenes and lists those that score too well. The default
# preset passes. The formula of the released code does not.

from verl_visionr1.tools.audit import Limits, Subject, audit

for name in ("visionr1", "visionr1-released"):
    report = audit(Subject(name), ["detection"], limits=Limits(ms=1e6), is_quick=True, isolated=False)
    print(f"{name}: checks that failed: {', '.join(report.failed) or 'none'}")

# %%
# What the thresholds do
# ----------------------
# The progressive rule tightens what counts as a match. The same answers earn less in stage 1.

schedule = PRESETS["visionr1"].schedule
for progress in (0.0, 0.25, 0.5, 1.0):
    thresholds = schedule(progress)
    rewards = [
        score(row["output"], Target.from_json(row["gts"]), frame="qwen3-vl", progress=progress).value for row in after
    ]
    mean = sum(rewards) / len(rewards)
    print(f"progress {progress:4}: a match needs IoU {thresholds.match_iou}, mean reward {mean:.3f}")
