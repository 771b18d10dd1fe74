"""A run: its settings, its preparation, its execution into a folder."""
