"""A module a family of data sets: its reader, and `convert`, its declaration (`conversion.converter`)."""
