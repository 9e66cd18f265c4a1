"""`visionr1 convert flickr30k` as a script: python data_preprocess/flickr30k.py --help."""

from verl_visionr1.conversion.catalog import run_script

if __name__ == "__main__":
    run_script("flickr30k")
