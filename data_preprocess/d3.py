"""`visionr1 convert d3` as a script: python data_preprocess/d3.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("d3")
