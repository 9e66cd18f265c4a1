"""Read saved rollouts and score them again."""
