"""`visionr1 convert ovdeval` as a script: python data_preprocess/ovdeval.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("ovdeval")
