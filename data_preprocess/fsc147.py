"""`visionr1 convert fsc147` as a script: python data_preprocess/fsc147.py --help."""

from verl_visionr1.conversion.catalog import run_script

if __name__ == "__main__":
    run_script("fsc147")
