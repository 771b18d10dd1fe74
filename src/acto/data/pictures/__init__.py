"""Pictures on disk: decoding, and smaller copies."""
