"""`visionr1 convert pixmo` as a script: python data_preprocess/pixmo.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("pixmo")
