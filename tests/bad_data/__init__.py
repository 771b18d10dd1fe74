"""A corpus of broken, odd and malicious inputs for every reader: `python -m bad_data`, in tests/, prints the table."""
