"""`visionr1 plan`: from the size of a model and a machine to verl's settings of memory, each with its reason.

`shape.py` says how large the parts of a model are, `memory.py` how many bytes each part of a step takes on a GPU,
`choosing.py` picks the settings, `view.py` prints them. Everything is arithmetic: estimates, not measured on a GPU.
"""
