"""Check whether a file is fit for training: find what would stop the trainer or falsify a reward before a run.

A file becomes `Sample`s (`samples`); `parquet` checks their columns, `truth` their ground truth and images, `sets`
whole files and repeats. `examination` runs the checks, `page` draws the results, `fixing` makes safe repairs.
"""

from verl_visionr1.tools.doctor.parquet import check_parquet
from verl_visionr1.tools.doctor.problems import Problem, Severity

__all__ = ["Problem", "Severity", "check_parquet"]
