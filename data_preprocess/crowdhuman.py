"""`visionr1 convert crowdhuman` as a script: python data_preprocess/crowdhuman.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("crowdhuman")
