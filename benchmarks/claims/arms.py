"""The arms of the study: method, start model and settings of each. Everything else is as in the tiny recipe.

An arm is run with seeds 1 to `seeds`. Arms are compared with their baseline prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]
STARTS = {"habits": "qwen3_vl_scenes", "able": "qwen3_vl_scenes_able"}
"""Name of a start -> its folder in recipes/tiny. "habits" stops early and draws boxes too large; "able" does not."""
Task = Literal["detection", "counting"]
EASY, STRICT = "[[0.5,0.5,0.75]]", "[[0.75,0.75,0.9]]"
BOTH = "[[0.5,0.5,0.75],[0.75,0.75,0.9]]"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train.

    Attributes:
        name: name of its results.
        shows: description for tables.
        claims: the claims (keys of `CLAIMS`) whose tables include it.
        method: "rl" runs the recipe, "sft" trains on the right answers, "none" evaluates the start.
        start: a key of `STARTS`.
        variables: settings of the recipe (recipes/settings.sh).
        overrides: settings of verl.
        seeds: number of seeds.
        task: what it is trained and evaluated on.
    """

    name: str
    shows: str
    claims: tuple[str, ...]
    method: Literal["rl", "sft", "none"] = "rl"
    start: str = "habits"
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    overrides: tuple[str, ...] = ()
    seeds: int = 3
    task: Task = "detection"

    @property
    def model_dir(self) -> Path:
        """The model that it starts from."""
        return ROOT / "recipes" / "tiny" / STARTS[self.start]


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The expected difference of two arms under a claim.

    Attributes:
        arm, baseline: names of arms.
        metric: a held-out metric.
        sets: "in" domain or "out".
        expected: whether the arm should be higher or lower.
    """

    arm: str
    baseline: str
    metric: str = "f1_50"
    sets: Literal["in", "out"] = "in"
    expected: Literal["higher", "lower"] = "higher"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the papers.

    Attributes:
        sentence: its text.
        contrasts: it holds if all of these do.
        baseline: the arm with which the others of its table are compared.
        task: what its arms are evaluated on.
    """

    sentence: str
    contrasts: tuple[Contrast, ...]
    baseline: str = "rl"
    task: Task = "detection"


CLAIMS = {
    "rl-vs-start": Claim(
        sentence="RL improves localisation over its start, in and out of domain",
        contrasts=(
            Contrast(arm="rl", baseline="start"),
            Contrast(arm="rl", baseline="start", sets="out"),
        ),
        baseline="start",
    ),
    "rl-vs-able": Claim(
        sentence="RL improves a model without planted habits, in and out of domain",
        contrasts=(
            Contrast(arm="rl-able", baseline="able"),
            Contrast(arm="rl-able", baseline="able", sets="out"),
        ),
        baseline="able",
    ),
    "rl-vs-sft": Claim(
        sentence="RL generalises better than supervised fine-tuning on the same questions",
        contrasts=(
            Contrast(arm="rl", baseline="sft"),
            Contrast(arm="rl", baseline="sft", sets="out"),
            Contrast(arm="rl-able", baseline="sft-able", sets="out"),
        ),
    ),
    "schedule": Claim(
        sentence="Thresholds that tighten as training proceeds help",
        contrasts=tuple(Contrast(arm="rl", baseline=each, metric="AP") for each in ("off", "easy", "strict")),
    ),
    "schedule-able": Claim(
        sentence="Thresholds that tighten help a model that finds the objects already",
        contrasts=tuple(
            Contrast(arm="rl-able", baseline=each, metric="AP") for each in ("off-able", "easy-able", "strict-able")
        ),
        baseline="rl-able",
    ),
    "criteria": Claim(
        sentence="Precision and recall both matter, and so does matching by label",
        contrasts=tuple(
            Contrast(arm="rl", baseline=each) for each in ("format", "format-precision", "format-recall", "boxes-only")
        ),
    ),
    "hacking": Claim(
        sentence="Average precision as the reward is gamed by many boxes; rewards that count boxes are not",
        contrasts=(
            Contrast(arm="ap-released", baseline="rl", expected="lower"),
            Contrast(arm="ap-released", baseline="rl", metric="boxes_per_target"),
            Contrast(arm="ap-released", baseline="od-length-released", metric="boxes_per_target"),
            Contrast(arm="recall-alone", baseline="rl", expected="lower"),
        ),
    ),
    "counting": Claim(
        sentence="A count is learned better if near misses earn something",
        contrasts=(
            Contrast(arm="count-fuzzy", baseline="count-exact", metric="exact"),
            Contrast(arm="count-both", baseline="count-exact", metric="exact"),
        ),
        baseline="count-start",
        task="counting",
    ),
    "kl": Claim(
        sentence="A KL penalty costs accuracy in a run of this length",
        contrasts=(Contrast(arm="rl", baseline="kl-.04"), Contrast(arm="rl", baseline="kl-.2")),
    ),
    "groups": Claim(
        sentence="Larger groups help, with as many answers per step",
        contrasts=(Contrast(arm="rl", baseline="groups-4"), Contrast(arm="groups-16", baseline="rl")),
    ),
    "dynamic": Claim(
        sentence="Dynamic sampling helps: groups of equal rewards are replaced",
        contrasts=(Contrast(arm="dynamic", baseline="rl"),),
    ),
}
"""The claims that the study tests."""

_FROM_HABITS = tuple(name for name, claim in CLAIMS.items() if claim.task == "detection" and "-able" not in name)
_FROM_ABLE = ("rl-vs-able", "rl-vs-sft", "schedule-able")
_WEIGHTED = "{{format:{0},recall:{1},precision:{2}}}"
_LONG = {"MAX_RESPONSE": "140"}  # enough tokens for a flood of boxes
_ONE_TO_THREE = {"OBJECTS_MIN": "1", "TOTAL_STEPS": "24", "TEST_FREQ": "12"}
_CRITERION = "++reward.reward_kwargs.visionr1.criteria.{0}={{fn:{1}:{0},weight:1.0}}"


def _released(reward: str, shows: str) -> Arm:
    """Build an arm with format and a reward of VLM-R1 instead of recall and precision, without thresholds."""
    return Arm(
        name=f"{reward.replace('_', '-')}-released",
        shows=shows,
        claims=("hacking",),
        variables={**_LONG, "WEIGHTS": _WEIGHTED.format(1, 0, 0)},
        overrides=(_CRITERION.format(f"released_{reward}", Path(__file__).with_name("released_rewards.py")),),
    )


def _counting(name: str, shows: str, exact: int, near: int) -> Arm:
    """Build an arm that counts: format and these weights."""
    weights = f"{{format:0.5,exact:{exact},near:{near}}}"
    variables = {"TASK": "counting", "MAX_RESPONSE": "140", "TEST_FREQ": "22", "WEIGHTS": weights}
    return Arm(name=f"count-{name}", shows=shows, claims=("counting",), variables=variables, task="counting")


ARMS = (
    Arm(name="start", shows="the start", claims=_FROM_HABITS, method="none", seeds=1),
    Arm(name="able", shows="the able model", claims=_FROM_ABLE, method="none", start="able", seeds=1),
    Arm(name="rl", shows="RL: the first command as it is", claims=_FROM_HABITS, seeds=5),
    Arm(name="rl-able", shows="RL from the able model", claims=_FROM_ABLE, start="able", seeds=5),
    Arm(name="sft", shows="SFT on the same questions", claims=("rl-vs-sft",), method="sft", seeds=5),
    Arm(name="sft-able", shows="SFT from the able model", claims=("rl-vs-sft",), method="sft", start="able", seeds=3),
    # The progressive rule
    Arm(name="off", shows="rule off: xi .5/.5/1", claims=("schedule",), variables={"SCHEDULE": "off"}),
    Arm(name="easy", shows="easy to the end", claims=("schedule",), variables={"SCHEDULE": "constant", "STAGES": EASY}),
    Arm(
        name="strict",
        shows="strict from the start",
        claims=("schedule",),
        variables={"SCHEDULE": "constant", "STAGES": STRICT},
    ),
    Arm(name="third", shows="staged at 1/3", claims=("schedule",), variables={"SWITCH_AT": "0.3333"}),
    Arm(
        name="linear", shows="linear from easy to strict", claims=("schedule",),
        variables={"SCHEDULE": "linear", "STAGES": BOTH},
    ),
    Arm(
        name="gated",
        shows="gated: strict once the mean IoU of 4 steps is .55",
        claims=("schedule",),
        variables={"SCHEDULE": "gated", "STAGES": BOTH},
        overrides=("++reward.reward_kwargs.visionr1.schedule.gate={metric:iou_mean,bar:0.55,window:4,patience:1}",),
    ),
    *(
        Arm(
            name=f"{name}-able", shows=f"{shows}, from the able model", claims=("schedule-able",), start="able",
            variables=variables,
        )
        for name, shows, variables in (
            ("off", "rule off: xi .5/.5/1", {"SCHEDULE": "off"}),
            ("easy", "easy to the end", {"SCHEDULE": "constant", "STAGES": EASY}),
            ("strict", "strict from the start", {"SCHEDULE": "constant", "STAGES": STRICT}),
        )
    ),
    # Scenes of 1 to 3 objects: the recipe's settings before it drew 2 or 3
    Arm(
        name="single", shows="scenes of 1 to 3 objects, 24 steps, staged at 1/2", claims=("schedule",), seeds=5,
        variables=_ONE_TO_THREE,
    ),
    Arm(
        name="early", shows="1 to 3 objects, staged at .4, 22 steps at temperature .52", claims=("schedule",), seeds=4,
        variables={"OBJECTS_MIN": "1", "SWITCH_AT": "0.4", "TEMPERATURE": "0.52"},
    ),
    Arm(
        name="several", shows="16 steps, staged at 1/2", claims=("schedule",), seeds=1,
        variables={"TOTAL_STEPS": "16", "TEST_FREQ": "8", "SAVE_FREQ": "4"},
    ),
    # The criteria
    Arm(
        name="format", shows="format alone", claims=("criteria",),
        variables={"WEIGHTS": _WEIGHTED.format(1, 0, 0)},
    ),
    Arm(
        name="format-precision", shows="format and precision", claims=("criteria",),
        variables={"WEIGHTS": _WEIGHTED.format(1, 0, 1)},
    ),
    Arm(
        name="format-recall", shows="format and recall", claims=("criteria",),
        variables={"WEIGHTS": _WEIGHTED.format(1, 1, 0)},
    ),
    Arm(
        name="boxes-only", shows="matching by boxes alone", claims=("criteria",),
        overrides=("reward.reward_kwargs.visionr1.matching=class_agnostic",),
    ),
    # Rewards that can be gamed
    Arm(
        name="recall-alone", shows="recall alone", claims=("hacking",),
        variables={**_LONG, "WEIGHTS": _WEIGHTED.format(0, 1, 0)},
    ),
    Arm(
        name="recall-alone-single", shows="recall alone, scenes of 1 to 3 objects", claims=("hacking",), seeds=1,
        variables={**_LONG, **_ONE_TO_THREE, "WEIGHTS": _WEIGHTED.format(0, 1, 0)},
    ),
    _released("ap", "od_ap and format, as VLM-R1 released it"),
    _released("od_length", "odLength and format, as VLM-R1 released it"),
    _released("weighted_sum", "weighted_sum and format, as VLM-R1 released it"),
    # Counting: how many objects of one category, 0 to 4
    Arm(name="count-start", shows="the start", claims=("counting",), method="none", seeds=1, task="counting"),
    _counting("exact", "exact count alone", 1, 0),
    _counting("fuzzy", "nearness alone (CrowdVLM-R1)", 0, 1),
    _counting("both", "both, the default of `counting-list`", 1, 1),
    # What to set first; every arm trains on 256 answers per step
    *(
        Arm(name=f"kl-{coef}", shows=f"KL penalty {coef}", claims=("kl",), variables={"KL_COEF": coef})
        for coef in (".04", ".2")
    ),
    *(
        Arm(
            name=f"groups-{size}", shows=f"{prompts} groups of {size}", claims=("groups",),
            variables={"ROLLOUT_N": str(size), "TRAIN_BATCH": str(prompts)},
        )
        for size, prompts in ((4, 64), (16, 16))
    ),
    Arm(
        name="dynamic", shows="dynamic sampling", claims=("dynamic",), variables={"FILTER_GROUPS": "reward"},
    ),
)  # fmt: skip
