"""Compute published metrics from saved answers (`predictions`), which `generation/` makes with vLLM."""
