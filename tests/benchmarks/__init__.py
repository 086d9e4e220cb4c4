"""Measurements against peers and limits, run by `make bench`; never part of the tests.

A benchmark is a module here with a one-line docstring, and a function `run()` that prints its figures (and
may write a plot to docs/). Modules whose name begins with an underscore are helpers.
"""
