"""Tables and texts: rows as they were read, and what makes numbers of them."""
