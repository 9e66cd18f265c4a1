"""`visionr1 convert lvis` as a script: python data_preprocess/lvis.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("lvis")
