"""Pictures on disk: decoding, and the cache of decoded pixels."""
