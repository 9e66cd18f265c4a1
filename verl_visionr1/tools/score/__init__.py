"""`visionr1 score`: score saved rollouts again."""
