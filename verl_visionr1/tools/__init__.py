"""What looks at a run from outside: no verl, no torch, no ray."""
