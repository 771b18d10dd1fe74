"""Batches of views, from memory or from pictures on disk."""
