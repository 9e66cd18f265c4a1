"""`visionr1 convert exclusion` as a script: python data_preprocess/exclusion.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("exclusion")
