"""The rewards as functions of other frameworks: `verl_function`, `easyr1`, `ms_swift`, `trl`, over one pure `core`."""
