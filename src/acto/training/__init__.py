"""The loop, and what training remembers of each sample."""
