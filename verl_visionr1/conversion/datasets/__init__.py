"""A module a family of data sets; its `convert` is the converter."""
