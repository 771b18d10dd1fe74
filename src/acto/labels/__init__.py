"""Reports on labels, decisions about them, and corrected copies of the data."""
