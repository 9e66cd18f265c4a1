"""`visionr1 explain`: why a reward is what it is."""
