"""Tools that look at a run from outside; they import no verl, torch or ray."""
