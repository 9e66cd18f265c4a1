"""Rewards as released code computes them, less its crashes: one module a project, known answers in tests/golden."""
