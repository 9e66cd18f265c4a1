"""The rewards of verl-visionr1 as a reward function of EasyR1. See train.sh; rewards of your own can be added here."""

from verl_visionr1.integrations.easyr1 import REWARD_NAME, REWARD_TYPE, compute_score

__all__ = ["REWARD_NAME", "REWARD_TYPE", "compute_score"]
