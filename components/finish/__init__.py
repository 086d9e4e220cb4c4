"""Finish: the last step of every run, whatever happened before it."""
