"""`visionr1 convert coco` as a script: python data_preprocess/coco.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("coco")
