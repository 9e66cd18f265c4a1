"""`visionr1 convert fsc147` as a script: python data_preprocess/fsc147.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("fsc147")
