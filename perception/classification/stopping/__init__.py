"""Which noise samples are drawn, and when an image is decided."""
