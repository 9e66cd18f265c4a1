"""Rows, epochs and steps of a run, as counted by verl 0.9's trainers, and contradictory settings.

    steps per epoch = rows // data.train_batch_size                            (the rest of an epoch is dropped)
                     rows // data.gen_batch_size, if set, with the V0 trainer
    steps asked    = trainer.total_training_steps, else steps per epoch * trainer.total_epochs
    last step      = the smaller of steps asked and steps per epoch * trainer.total_epochs

The learning rate and the progress of training count over the steps asked; a run stops at either, but only at the
first with a last validation and checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.runtime.checkpoints import CheckpointError, resumed_step, step_folder
from verl_visionr1.runtime.run_rows import facts_of


@dataclass(frozen=True, slots=True)
class RunLength:
    """Length of a run.

    Attributes:
        n_rows: most rows that it trains on: overlong prompts are left out if they could be counted; None: the data is
            not here.
        batch: prompts in a step.
        epochs: trainer.total_epochs.
        asked: trainer.total_training_steps; None: the epochs decide.

    >>> length = RunLength(n_rows=100, batch=8, epochs=2, asked=None)
    >>> length.steps_per_epoch, length.total_steps, length.last_step
    (12, 24, 24)
    >>> RunLength(n_rows=100, batch=8, epochs=2, asked=50).last_step
    24
    """

    n_rows: int | None
    batch: int
    epochs: int
    asked: int | None

    @property
    def steps_per_epoch(self) -> int | None:
        """Number of whole batches in the rows."""
        return None if self.n_rows is None or self.batch < 1 else self.n_rows // self.batch

    @property
    def total_steps(self) -> int | None:
        """Steps that the trainer plans: progress and learning rate count over them."""
        if self.asked is not None:
            return self.asked
        return None if self.steps_per_epoch is None else self.steps_per_epoch * self.epochs

    @property
    def last_step(self) -> int | None:
        """Where the trainer stops; None if unknown."""
        if self.steps_per_epoch is None:
            return self.asked
        by_epochs = self.steps_per_epoch * self.epochs
        return by_epochs if self.asked is None else min(self.asked, by_epochs)

    def describe(self) -> str:
        """Describe the length for the summary of a dry run.

        >>> RunLength(n_rows=92, batch=8, epochs=100000, asked=240).describe()
        '240 = 21.8 epochs of 92 rows (11 steps per epoch)'
        >>> RunLength(n_rows=None, batch=8, epochs=30, asked=None).describe()
        '30 epochs'
        """
        last, each = self.last_step, self.steps_per_epoch
        if last is None:
            return f"{self.epochs} epochs"
        if not each:
            return f"{last}"
        epochs = f"{last / each:.1f}".removesuffix(".0")
        return (
            f"{last} = {epochs} {'epoch' if epochs == '1' else 'epochs'} of {self.n_rows} rows ({each} steps per epoch)"
        )


def length_of(config: DictConfig) -> RunLength:
    """The length of a config's run."""
    asked = config.trainer.total_training_steps
    return RunLength(
        n_rows=_trained_rows(config),
        batch=int(OmegaConf.select(config, _batch_key(config))),
        epochs=int(config.trainer.total_epochs),
        asked=None if asked is None else int(asked),
    )


def _batch_key(config: DictConfig) -> str:
    """The key of the number of prompts per step.

    V1 counts steps by the training batch (`PPOTrainer._init_dataloader`); V0 by the fetched batch
    (`RayPPOTrainer._create_dataloader`).
    """
    fetches = not OmegaConf.select(config, "trainer.use_v1") and OmegaConf.select(config, "data.gen_batch_size")
    return "data.gen_batch_size" if fetches else "data.train_batch_size"


def _trained_rows(config: DictConfig) -> int | None:
    """Rows after `data.train_max_samples` and `data.filter_overlong_prompts`, if they can be counted here."""
    facts = facts_of(config, "data.train_files")
    if facts is None:
        return None
    kept = facts.n_rows - (facts.n_overlong if config.data.filter_overlong_prompts else 0)
    most = OmegaConf.select(config, "data.train_max_samples")
    return min(kept, most) if isinstance(most, int) and most > 0 else kept


def length_problems(config: DictConfig) -> list[str]:
    """Contradictory numbers of steps; one line each."""
    length = length_of(config)
    return [*_step_problems(config, length), *_resume_problems(config, length)]


def _step_problems(config: DictConfig, length: RunLength) -> list[str]:
    problems: list[str] = []
    each, last, asked = length.steps_per_epoch, length.last_step, length.asked
    if config.trainer.val_only and not OmegaConf.select(config, "trainer.val_before_train"):
        problems.append(
            "trainer.val_only=true: trainer.val_before_train=false leaves the validation out, so that verl trains; set "
            "trainer.val_before_train=true"
        )
    warmup = OmegaConf.select(config, "trainer.critic_warmup")
    if last and isinstance(warmup, int) and warmup > last:
        problems.append(
            f"trainer.critic_warmup={warmup}: the model is first updated at that step, and the run ends after {last}; "
            "set it to 0"
        )
    if each == 0 and length.n_rows and not config.trainer.val_only:
        problems.append(
            f"{_batch_key(config)}={length.batch}: larger than the {length.n_rows} rows of data.train_files, so "
            f"no step can be taken; set it to at most {length.n_rows}"
        )
    elif each and asked is not None and last is not None and last < asked and not config.trainer.val_only:
        problems.append(
            f"trainer.total_training_steps={asked}: trainer.total_epochs={length.epochs} ends the run after {last} "
            f"steps ({each} per epoch), without a last validation and checkpoint; set trainer.total_epochs="
            f"{-(-asked // each)}, or trainer.total_training_steps={last}"
        )
    fetched = OmegaConf.select(config, "data.gen_batch_size")
    if _fetches_as_set(config) and isinstance(fetched, int) and fetched > 0 and length.batch % fetched:
        problems.append(
            f"data.gen_batch_size={fetched}: data.train_batch_size={length.batch} needs to be a multiple of it"
        )
    return problems


def _fetches_as_set(config: DictConfig) -> bool:
    """Whether a step is assembled from batches of `data.gen_batch_size` prompts.

    `PPOTrainer._init_dataloader` uses 1 instead if it refills; the V0 trainer uses a fetched batch as a step.
    """
    is_sync = OmegaConf.select(config, "trainer.v1.trainer_mode") == "sync"
    refills = ("algorithm.filter_groups.enable", "trainer.v1.sampler.sync_refill_failed_groups")
    use_v1 = bool(OmegaConf.select(config, "trainer.use_v1"))
    return use_v1 and is_sync and not any(OmegaConf.select(config, key) for key in refills)


def _resume_problems(config: DictConfig, length: RunLength) -> list[str]:
    step = resumed_step(config)
    if step is None:
        return []
    if not step.is_dir():
        return [f"trainer.resume_from_path={config.trainer.resume_from_path}: no such folder"]
    if config.trainer.resume_mode == "resume_path":
        try:
            step_folder(step)
        except CheckpointError:
            return [f"trainer.resume_from_path={config.trainer.resume_from_path}: no actor/ in it, so no checkpoint"]
    return [] if OmegaConf.select(config, "trainer.val_before_train") else _finished(config, length)


def length_notes(config: DictConfig) -> list[str]:
    """A note if the run has finished already and would only be validated."""
    return _finished(config, length_of(config)) if OmegaConf.select(config, "trainer.val_before_train") else []


def _finished(config: DictConfig, length: RunLength) -> list[str]:
    step = resumed_step(config)
    number = step.name.rpartition("global_step_")[2] if step is not None and step.is_dir() else ""
    if not number.isdecimal() or length.last_step is None or OmegaConf.select(config, "trainer.val_only"):
        return []
    if not 0 < length.last_step <= int(number):
        return []
    return [
        f"{step}: already at or beyond the last step of this run ({length.last_step}), so nothing would be trained; "
        "raise trainer.total_training_steps (or trainer.total_epochs), or set trainer.resume_mode=disable"
    ]
