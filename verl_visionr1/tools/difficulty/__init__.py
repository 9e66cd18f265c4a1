"""`visionr1 difficulty`: how often saved rollouts pass, row by row, and a training file made by it."""
