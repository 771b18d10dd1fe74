"""Checks of a machine and of runs, and the speed that a machine could reach."""
