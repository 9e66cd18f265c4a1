"""`visionr1 convert visual_genome` as a script: python data_preprocess/visual_genome.py --help."""

from verl_visionr1.conversion.catalog import run_script

run_script("visual_genome")
