"""Functions that several methods are built of."""
