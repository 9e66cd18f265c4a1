"""`visionr1 convert vision_r1` as a script: python data_preprocess/vision_r1.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("vision_r1")
