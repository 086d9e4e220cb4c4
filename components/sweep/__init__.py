"""Sweep: try configurations side by side on the same rows and take the best of them."""

from components.sweep.search import Trial, best, grid, try_configuration

__all__ = ["Trial", "best", "grid", "try_configuration"]
