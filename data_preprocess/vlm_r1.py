"""`visionr1 convert vlm_r1` as a script: python data_preprocess/vlm_r1.py --help."""

from verl_visionr1.conversion.catalog import run_script

if __name__ == "__main__":
    run_script("vlm_r1")
