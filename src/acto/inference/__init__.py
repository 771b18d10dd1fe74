"""Trained models put to use: predictions, features, export."""
