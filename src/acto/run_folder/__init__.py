"""A run's folder: reading and writing it, without torch."""
