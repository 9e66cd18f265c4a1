"""`visionr1 convert tallyqa` as a script: python data_preprocess/tallyqa.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("tallyqa")
