"""`visionr1 convert records` as a script: python data_preprocess/records.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("records")
