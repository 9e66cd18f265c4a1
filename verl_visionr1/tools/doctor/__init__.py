"""Is a file fit for training? What would stop the trainer, or spoil a reward, is found before a run starts.

A file becomes `Sample`s (`samples`), which go through checks of one family each; what they find are `Problem`s:

* `parquet`      the columns and what stands in them, against the schema of `rows.py`;
* `truth`        each row's ground truth: boxes, labels, prompt, budget;
* `conventions`  in which coordinates the numbers of a whole file are written, with the evidence;
* `pictures`     the image files;
* `sets`         the file as a whole, and against others: repeats, train/validation overlap, balance.

`examination` runs them, `view` and `page` show what was found, `fixing` repairs what can be repaired safely.
"""

from verl_visionr1.tools.doctor.parquet import check_parquet
from verl_visionr1.tools.doctor.problems import Problem, Severity

__all__ = ["Problem", "Severity", "check_parquet"]
