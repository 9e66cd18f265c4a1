"""`visionr1 convert clevr` as a script: python data_preprocess/clevr.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("clevr")
