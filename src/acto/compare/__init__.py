"""Comparisons: sweeps over methods, the papers' tables, the demo."""
