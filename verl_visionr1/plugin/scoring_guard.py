"""End a run in which no row can be scored: its reward would always be 0, unnoticed for hours."""

from __future__ import annotations

MIN_ROWS, MIN_PROMPTS = 16, 8
"""Least failed rows and prompts, without a scored one, that end the run."""


class NothingScoredError(RuntimeError):
    """None of the first rows of a run could be scored."""


class ScoringGuard:
    """Watches the first rows of a run until one has been scored."""

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
        if self.has_scored or is_scored:
            self.has_scored = True
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
