"""`visionr1 convert voc` as a script: python data_preprocess/voc.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("voc")
