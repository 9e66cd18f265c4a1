"""Watch the steps of a training run, and report its result."""
