"""Saved rollouts: reading them, and judging one again."""
