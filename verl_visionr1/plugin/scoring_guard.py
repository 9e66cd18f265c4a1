"""End a run in which no row can be scored: its reward would always be 0.

A single unscorable row gets reward 0. When all rows fail from the start, the data is of another kind, or a user's
criterion always raises; the run would learn nothing for hours, unnoticed.
"""

from __future__ import annotations

MIN_ROWS, MIN_PROMPTS = 16, 8
"""Least failed rows and prompts, without a scored one, that end the run."""


class NothingScoredError(RuntimeError):
    """None of the first rows of a run could be scored."""


class ScoringGuard:
    """Watches the first rows of a run until one has been scored.

    >>> guard = ScoringGuard("reward worker")
    >>> for row in range(16):
    ...     guard.look(f"prompt {row}", is_scored=False, reason="ground truth '42': Expected `object`, got `int`")
    Traceback (most recent call last):
    ...
    verl_visionr1.plugin.scoring_guard.NothingScoredError: visionr1: reward worker: none of the first 16 rows could be \
scored (ground truth '42': Expected `object`, got `int`); convert the data with `visionr1 convert`, correct \
the criterion, or leave rows of other kinds to verl with reward.reward_kwargs.visionr1.delegate
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.has_scored = False
        self.n_rows = 0
        self.prompts: set[str] = set()

    def look(self, prompt: str, *, is_scored: bool, reason: str) -> None:
        """Note one row.

        Args:
            prompt: identifies the prompt; its rollouts share it.

        Raises:
            NothingScoredError: `MIN_ROWS` rows of `MIN_PROMPTS` prompts have failed, and none has been scored.
        """
        if self.has_scored:
            return
        if is_scored:
            self.has_scored = True
            self.prompts.clear()
            return
        self.n_rows += 1
        if len(self.prompts) < MIN_PROMPTS:
            self.prompts.add(prompt)
        if self.n_rows >= MIN_ROWS and len(self.prompts) >= MIN_PROMPTS:
            raise NothingScoredError(
                f"visionr1: {self.where}: none of the first {self.n_rows} rows could be scored ({reason}); convert the "
                "data with `visionr1 convert`, correct the criterion, or leave rows of other kinds to verl "
                "with reward.reward_kwargs.visionr1.delegate"
            )
