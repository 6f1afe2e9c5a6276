"""Configuration: composing, validating and identifying recipes."""
