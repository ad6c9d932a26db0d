"""Runs of methods into run folders: their configuration, parameters, stages, workers and results."""
