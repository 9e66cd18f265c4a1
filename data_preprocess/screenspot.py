"""`visionr1 convert screenspot` as a script: python data_preprocess/screenspot.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("screenspot")
