"""`visionr1 schedule`: what a schedule asks, and what it would make of saved rollouts."""
