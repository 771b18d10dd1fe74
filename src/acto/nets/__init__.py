"""Networks, their weights, and C kernels for processors."""
