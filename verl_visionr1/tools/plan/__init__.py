"""`visionr1 plan`: verl's memory settings from the size of a model and a machine; arithmetic, not measured on a GPU."""
