"""Training configs: loading, and a check of every key before anything heavy."""
