"""One set of drawn scenes, written out in the format of every data set that can express it.

`base` draws the scenes and says what rows they are worth; each other module writes them in the formats of one family,
and lists them as `FORMATS`. `tests/test_one_truth.py` converts them all and compares.
"""
