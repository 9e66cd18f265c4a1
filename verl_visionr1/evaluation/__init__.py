"""The numbers people publish, and the answers they are computed from.

`predictions` is what a model answered, kept in a file; `generation/` makes that file with vLLM (the only part that
knows vLLM); everything else reads it, so that metrics are recomputed without generating again.
"""
