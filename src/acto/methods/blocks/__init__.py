"""Pure functions that several methods are built of."""
