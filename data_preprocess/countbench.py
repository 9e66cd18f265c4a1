"""`visionr1 convert countbench` as a script: python data_preprocess/countbench.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("countbench")
