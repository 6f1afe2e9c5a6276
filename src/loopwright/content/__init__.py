"""What Python objects are, by content: plain trees that a record holds, that have a hash, and that can be compared."""
