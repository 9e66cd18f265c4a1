"""Whether verl asks the reward manager at all."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.plugin.delegation import KEY

OWN_MANAGERS = ("visionr1", "VisionR1RewardManager")
"""`reward.reward_manager.name` of the plug-in's manager, as registered and as a class."""


def reward_model_problem(config: DictConfig) -> str | None:
    """Why a reward model beside the manager cannot be meant; None where there is none, or another manager.

    verl's `RewardLoopWorker.compute_score` asks the reward model instead of the manager, unless a custom reward
    function is set; then it asks the manager. That hands the model's address to the function for rows that `delegate`
    leaves to it, and has no use for the model itself.
    """
    if not OmegaConf.select(config, "reward.reward_model.enable"):
        return None
    name = OmegaConf.select(config, "reward.reward_manager.name")
    if name is not None and name not in OWN_MANAGERS:
        return None
    custom = OmegaConf.select(config, "reward.custom_reward_function.path")
    if custom and OmegaConf.select(config, KEY):
        return None
    if custom:
        reason = "nothing asks the reward model, which takes memory and GPUs"
    else:
        reason = "verl asks the reward model, and never visionr1"
    return f"reward.reward_model.enable=True: {reason}; set reward.reward_model.enable=False"
