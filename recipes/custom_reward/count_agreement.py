"""A criterion of your own: a plain function, nothing to inherit, nothing to register.

Its positional parameters name what it wants to see (fields of
`verl_visionr1.rewards.CriterionInput`: completion, answer, target, matching, thresholds, accuracy, n_tokens ...); its
keyword-only ones are options that a preset may set. It must return a finite float, ideally in [0, 1]. What it raises
costs the row its reward and is named in the log; the run goes on.

    visionr1 audit recipes/custom_reward/preset.yaml       # can it be gamed?
    visionr1 preset recipes/custom_reward/preset.yaml      # what is it made of?

In training: reward.reward_kwargs.visionr1.preset=/path/to/preset.yaml, or without a file
++reward.reward_kwargs.visionr1.criteria.count_agreement={fn:/path/to/count_agreement.py:count_agreement,weight:0.5}
"""

from __future__ import annotations

from verl_visionr1 import Target
from verl_visionr1.answers import Answer


def count_agreement(answer: Answer, target: Target, *, slack: int = 0) -> float:
    """How near the number of boxes is to the number of objects: 1 / (1 + boxes too many or too few, beyond `slack`).

    >>> count_agreement(Answer(), Target(task="detection", size_wh=(64, 64)))
    1.0
    """
    off_by = abs(answer.n_predicted - target.n_objects)
    return 1.0 / (1.0 + max(off_by - slack, 0))
