"""Check whether a file is fit for training: find what would stop the trainer or falsify a reward before a run.

A file becomes `Sample`s (`samples`); each module checks one aspect of them and reports `Problem`s:

* `parquet`      the columns and their values, against the schema of `rows.py`;
* `truth`        each row's ground truth: boxes, labels, prompt, budget;
* `conventions`  the coordinate convention of a whole file, with the evidence;
* `pictures`     the image files;
* `sets`         whole files and pairs of them: repeats, train/validation overlap, balance.

`examination` runs the checks, `view` and `page` show the results, `fixing` makes safe repairs.
"""

from verl_visionr1.tools.doctor.parquet import check_parquet
from verl_visionr1.tools.doctor.problems import Problem, Severity

__all__ = ["Problem", "Severity", "check_parquet"]
