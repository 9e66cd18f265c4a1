"""`visionr1 convert scenes` as a script: python data_preprocess/scenes.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("scenes")
