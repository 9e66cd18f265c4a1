"""Rows, epochs and steps of a run, as counted by verl 0.9's V1 trainer, and contradictory settings.

    steps per epoch = rows // data.train_batch_size                            (the rest of an epoch is dropped)
    steps asked     = trainer.total_training_steps, else steps per epoch * trainer.total_epochs
    last step       = the smaller of steps asked and steps per epoch * trainer.total_epochs

The learning rate and the progress of training count over the steps asked; a run stops at either, but only at the
first with a last validation and checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.plugin.run_facts import resumed_from
from verl_visionr1.rollouts.places import step_number
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
        return None if self.n_rows is None else self.n_rows // self.batch

    @property
    def total_steps(self) -> int | None:
        """Steps that the trainer plans: progress and learning rate count over them."""
        each = self.steps_per_epoch
        return self.asked if self.asked is not None or each is None else each * self.epochs

    @property
    def last_step(self) -> int | None:
        """Where the trainer stops; None if unknown."""
        each, planned = self.steps_per_epoch, self.total_steps
        return planned if each is None or planned is None else min(planned, each * self.epochs)

    def describe(self) -> str:
        """Describe the length for the summary of a dry run.

        >>> RunLength(n_rows=92, batch=8, epochs=100000, asked=240).describe()
        '240 = 21.8 epochs of 92 rows (11 steps per epoch)'
        >>> RunLength(n_rows=None, batch=8, epochs=30, asked=None).describe()
        '30 epochs'
        """
        last, each = self.last_step, self.steps_per_epoch
        if last is None or not each:
            return f"{self.epochs} epochs" if last is None else f"{last}"
        epochs = f"{last / each:.1f}".removesuffix(".0")
        unit = "epoch" if epochs == "1" else "epochs"
        return f"{last} = {epochs} {unit} of {self.n_rows} rows ({each} steps per epoch)"


def length_of(config: DictConfig) -> RunLength:
    """The length of a config's run."""
    asked = config.trainer.total_training_steps
    return RunLength(
        n_rows=_trained_rows(config),
        batch=int(config.data.train_batch_size),
        epochs=int(config.trainer.total_epochs),
        asked=None if asked is None else int(asked),
    )


def _trained_rows(config: DictConfig) -> int | None:
    """Rows after `data.train_max_samples` and `data.filter_overlong_prompts`, if they can be counted here."""
    facts = facts_of(config, "data.train_files")
    if facts is None:
        return None
    kept = facts.n_rows - (facts.n_overlong if OmegaConf.select(config, "data.filter_overlong_prompts") else 0)
    most = OmegaConf.select(config, "data.train_max_samples")
    return min(kept, most) if isinstance(most, int) and most > 0 else kept


def length_problems(config: DictConfig) -> list[str]:
    """Contradictory numbers of steps; one line each."""
    length = length_of(config)
    each, last, asked = length.steps_per_epoch, length.last_step, length.asked
    problems = [] if OmegaConf.select(config, "trainer.val_before_train") else _finished(config, length)
    if OmegaConf.select(config, "trainer.val_only"):
        return problems
    if each == 0 and length.n_rows:
        problems.append(
            f"data.train_batch_size={length.batch}: larger than the {length.n_rows} rows of data.train_files, so no "
            f"step can be taken; set it to at most {length.n_rows}"
        )
    elif each and asked is not None and last is not None and last < asked:
        problems.append(
            f"trainer.total_training_steps={asked}: trainer.total_epochs={length.epochs} ends the run after {last} "
            f"steps ({each} per epoch), without a last validation and checkpoint; set trainer.total_epochs="
            f"{-(-asked // each)}, or trainer.total_training_steps={last}"
        )
    return problems


def length_notes(config: DictConfig) -> list[str]:
    """A note if the run is finished already, so that it would only validate."""
    return _finished(config, length_of(config)) if OmegaConf.select(config, "trainer.val_before_train") else []


def _finished(config: DictConfig, length: RunLength) -> list[str]:
    step = resumed_from(config)
    is_finished = step is not None and step.is_dir() and length.last_step and length.last_step <= step_number(step)
    if not is_finished or OmegaConf.select(config, "trainer.val_only"):
        return []
    return [
        f"{step}: already at or beyond the last step of this run ({length.last_step}), so nothing would be trained; "
        "raise trainer.total_training_steps (or trainer.total_epochs), or set trainer.resume_mode=disable"
    ]
