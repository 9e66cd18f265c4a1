"""`visionr1 gallery`: saved rollouts as one web page that works offline."""
