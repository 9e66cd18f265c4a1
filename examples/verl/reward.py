"""The reward as a file, for verl versions that take a reward function by its path (0.5 and newer).

    bash examples/verl/train.sh

`compute_score` takes its settings from `custom_reward_function.reward_kwargs`. Add rewards of your own here.
"""

from verl_visionr1.integrations.verl_function import compute_score

__all__ = ["compute_score"]
