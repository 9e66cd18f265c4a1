"""`visionr1 convert vlm_r1` as a script: python data_preprocess/vlm_r1.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("vlm_r1")
