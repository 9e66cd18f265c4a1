"""`visionr1 score`: judge saved rollouts again."""
