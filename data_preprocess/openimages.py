"""`visionr1 convert openimages` as a script: python data_preprocess/openimages.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("openimages")
