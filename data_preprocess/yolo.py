"""`visionr1 convert yolo` as a script: python data_preprocess/yolo.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("yolo")
