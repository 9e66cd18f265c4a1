"""Look at a training run: its steps, as they come, and what they have reached."""
