"""perception generate."""
