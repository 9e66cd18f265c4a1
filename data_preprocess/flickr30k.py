"""`visionr1 convert flickr30k` as a script: python data_preprocess/flickr30k.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("flickr30k")
