"""`visionr1 convert shanghaitech` as a script: python data_preprocess/shanghaitech.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("shanghaitech")
