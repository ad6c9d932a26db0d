"""Executes the PTX that Triton compiles, on a processor, and reports what a GPU would be wrong or lucky with."""
