"""`visionr1 difficulty`: filter a training file by how often saved rollouts pass, row by row."""
