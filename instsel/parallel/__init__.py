"""Pools of workers: processes on this machine or Ray actors, each with its own copy of the model."""
