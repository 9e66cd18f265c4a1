"""Settings of a run that do nothing, keys that were not meant, and a model that is shared among workers."""

from __future__ import annotations

import pytest
from run_configs import config_of

from verl_visionr1.runtime import agreement, composing, idle_settings

pytestmark = pytest.mark.verl


BUDGET = "data.mm_processor_kwargs"
FROZEN = "actor_rollout_ref.model.external_lib=verl_visionr1.runtime.frozen_vision"
IDLE = {  # overrides -> what is said, each in one line
    "pixels where verl does not look": (["data.max_pixels=401408"], ["data.max_pixels=401408: verl does not read it"]),
    "one of two": ([f"{BUDGET}.max_pixels=401408"], [f"{BUDGET}.max_pixels=401408: needs min_pixels beside it"]),
    "the other": ([f"{BUDGET}.min_pixels=3136"], [f"{BUDGET}.min_pixels=3136: needs max_pixels beside it"]),
    "upside down": (
        [f"{BUDGET}.min_pixels=401408", f"{BUDGET}.max_pixels=3136"],
        [f"{BUDGET}.min_pixels=401408: above max_pixels=3136"],
    ),
    "both": ([f"{BUDGET}.min_pixels=3136", f"{BUDGET}.max_pixels=401408"], []),
    "words": (
        [f"{BUDGET}.min_pixels=3136", f"{BUDGET}.max_pixels='401408'"],
        [f"{BUDGET}.max_pixels='401408': needs a whole number of pixels"],
    ),
    "megapixels": (
        [f"{BUDGET}.min_pixels=0", f"{BUDGET}.max_pixels=0.4"],
        [f"{BUDGET}.min_pixels=0: needs a whole number", f"{BUDGET}.max_pixels=0.4: needs a whole number"],
    ),
    "a data set of one's own": (["data.custom_cls.path=mine.py", "data.max_pixels=3"], []),
    "legacy function": (
        ["custom_reward_function.path=mine.py"],
        ["custom_reward_function.path=mine.py: verl 0.9 ignores it; set reward.custom_reward_function.path"],
    ),
    "legacy reward model": (
        ["reward_model.enable=true", "reward_model.model.path=x"],
        [
            "reward_model.enable=True: verl 0.9 ignores it; set reward.reward_model.enable",
            "reward_model.model.path=x: verl 0.9 ignores it; set reward.reward_model.model_path",
        ],
    ),
    "legacy keys of workers": (
        ["reward_model.num_workers=4", "reward_model.reward_manager=dapo", "reward_model.reward_kwargs.a=1"],
        [
            "reward_model.num_workers=4: verl 0.9 ignores it; set reward.num_workers",
            "reward_model.reward_manager=dapo: verl 0.9 ignores it; set reward.reward_manager.name",
            "reward_model.reward_kwargs.a=1: verl 0.9 ignores it; set reward.reward_kwargs.a",
        ],
    ),
    "a key that verl dropped": (
        ["reward_model.use_reward_loop=true"],
        ["reward_model.use_reward_loop=True: verl 0.9 ignores it; leave it out"],
    ),
    "the trainer that takes them over": (["async_training.x=1", "reward_model.reward_manager=dapo"], []),
    "a tower that nobody freezes": (
        ["actor_rollout_ref.actor.freeze_vision_tower=true"],
        ["actor_rollout_ref.actor.freeze_vision_tower=true: verl's engines do not read it"],
    ),
    "a tower that is frozen": (["actor_rollout_ref.actor.freeze_vision_tower=true", FROZEN], []),
    "a tower that Megatron trains": (
        ["actor_rollout_ref.actor.strategy=megatron", FROZEN],
        [f"{FROZEN}: freezes only FSDP models, but actor_rollout_ref.actor.strategy is megatron"],
    ),
}


@pytest.mark.parametrize(("overrides", "messages"), IDLE.values(), ids=IDLE)
def test_settings_that_do_nothing(overrides: list[str], messages: list[str]) -> None:
    found = idle_settings.idle_problems(config_of(*overrides))
    assert len(found) == len(messages), found
    for said, message in zip(sorted(found), sorted(messages), strict=True):
        assert said.startswith(message)


def test_the_advice_for_image_budgets_can_be_pasted() -> None:
    (said,) = idle_settings.idle_problems(config_of("data.max_pixels=401408"))
    advice = said.partition("; set ")[2].removesuffix(", both").replace("MIN", "3136").replace("MAX", "401408")
    assert dict(composing.composed([advice]).data.mm_processor_kwargs) == {"min_pixels": 3136, "max_pixels": 401408}


def test_misspelt_keys_of_sections_that_take_any_are_a_warning() -> None:
    own = ("data.my_root=/data", "data.cache_dir=/tmp/x", "data.need_tools_kwargs=true", "data.filter_prompts=true")
    misspelt = ("trainer.total_epoch=5", "data.train_batchsize=4")
    assert idle_settings.idle_notes(config_of(*own)) == []
    trainer, data = idle_settings.idle_notes(config_of(*own, *misspelt))
    assert trainer.startswith("trainer.total_epoch: ")
    assert trainer.endswith("did you mean trainer.total_epochs?")
    assert data.endswith("did you mean data.train_batch_size?")
    assert idle_settings.idle_notes(config_of(misspelt[1], "data.custom_cls.path=mine.py")) == []


def test_settings_of_another_reward_manager_are_a_warning() -> None:
    overlong = "reward.reward_kwargs.overlong_buffer_cfg"
    (note,) = idle_settings.idle_notes(config_of(f"{overlong}.enable=true"))
    assert note.startswith(f"{overlong}: ")


ACTOR = "actor_rollout_ref.actor"
SHARDED = {  # overrides (8 GPUs, 5 answers in a mini-batch) -> start of what is said
    "one sequence on all": ([f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size=8"], None),
    "the deprecated key": ([f"{ACTOR}.ulysses_sequence_parallel_size=8"], None),
    "3 parts": (
        [f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size=3"],
        f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size=3: 8 GPUs",
    ),
    "with padding": (
        [f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size=8", "actor_rollout_ref.model.use_remove_padding=false"],
        f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size=8: needs actor_rollout_ref.model.use_remove_padding=true",
    ),
    "3 shards": (
        [f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size=8", f"{ACTOR}.fsdp_config.fsdp_size=3"],
        f"{ACTOR}.fsdp_config.fsdp_size=3: 8 GPUs",
    ),
    "an engine of another configuration": ([f"{ACTOR}.strategy=megatron"], f"{ACTOR}.strategy=megatron: "),
    "no engine": ([f"{ACTOR}.strategy=fsdp3"], f"{ACTOR}.strategy=fsdp3: "),
}


@pytest.mark.parametrize(("overrides", "message"), SHARDED.values(), ids=SHARDED)
def test_fsdp_shares_a_sequence_among_workers(overrides: list[str], message: str | None) -> None:
    """Read where verl 0.9.1 reads it; a sequence longer than one worker's budget is shared too."""
    run = ("trainer.n_gpus_per_node=8", "actor_rollout_ref.rollout.n=5", f"{ACTOR}.ppo_mini_batch_size=1")
    found = agreement.agreement_problems(config_of(*run, "data.max_prompt_length=40000", *overrides))
    assert found == [] if message is None else any(problem.startswith(message) for problem in found), found


def test_sizes_of_zero_are_named() -> None:
    for key in ("trainer.v1.separate_async.parameter_sync_step", "reward.num_workers", "data.gen_batch_size"):
        assert agreement.number_problems(config_of(f"{key}=0")) == [f"{key}=0: needs a number above 0"]


MEANT = {
    "actor_rollout_ref.actor.lr": "actor_rollout_ref.actor.optim.lr",
    "critic.lr": "critic.optim.lr",
    "trainer.n_gpu": "trainer.n_gpus_per_node",
    "reward.reward_manger.name": "reward.reward_manager.name",
}


@pytest.mark.parametrize(("key", "meant"), MEANT.items())
def test_the_key_that_was_meant(key: str, meant: str) -> None:
    known = [name for name, _ in composing.leaves(config_of())]
    assert composing.nearest_key(key, known) == meant


@pytest.mark.parametrize("name", ["target", "_targets_", "recursive"])
def test_never_a_key_of_hydra(name: str) -> None:
    known = [key for key, _ in composing.leaves(config_of())]
    assert any(key.endswith("._target_") for key in known)
    for folder in ("actor_rollout_ref.actor", "actor_rollout_ref.rollout", "algorithm", "critic"):
        assert "._" not in str(composing.nearest_key(f"{folder}.{name}", known))
