"""Stopping rules: which noise samples are drawn, and when an image is decided."""
