"""Faults put into a copy of the project on purpose, each of which some test must see: `make mutants`."""
