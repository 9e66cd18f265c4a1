"""Rewards as released code computes them, without its crashes: one module per project, known values in tests/golden."""
