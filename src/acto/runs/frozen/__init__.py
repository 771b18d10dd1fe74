"""Frozen features: a trained network that only looks at pictures, and the vectors that it makes of them."""
