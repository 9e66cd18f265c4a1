"""`visionr1 plan`: choose verl's memory settings from the size of a model and a machine, each with its reason.

`shape.py` gives the size of each part of a model, `memory.py` how many bytes each part of a step takes on a GPU,
`choosing.py` picks the settings, `view.py` prints them. Everything is arithmetic: estimates, not measured on a GPU.
"""
