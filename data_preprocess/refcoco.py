"""`visionr1 convert refcoco` as a script: python data_preprocess/refcoco.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("refcoco")
