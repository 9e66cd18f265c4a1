"""One set of drawn scenes, written out in the format of every data set that can express it.

`base` draws the scenes and says what rows they are worth; each of the families writes them in its formats.
`tests/conversion/test_one_truth.py` converts them all and compares.
"""

from scene_sets import (
    coco_like,
    counts,
    detection_files,
    frameworks,
    open_vocabulary,
    papers,
    referring,
    regions,
    tables,
)

FAMILIES = (coco_like, counts, detection_files, frameworks, open_vocabulary, papers, referring, regions, tables)
FORMATS = tuple(form for family in FAMILIES for form in family.FORMATS)
"""Every format of every family."""
