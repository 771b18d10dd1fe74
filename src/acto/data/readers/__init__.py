"""Readers of data sets and label files, one file a format."""
