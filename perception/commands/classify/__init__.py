"""perception classify."""
