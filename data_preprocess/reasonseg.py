"""`visionr1 convert reasonseg` as a script: python data_preprocess/reasonseg.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("reasonseg")
