"""`visionr1 schedule`: thresholds of a schedule, and scores of saved rollouts under it."""
