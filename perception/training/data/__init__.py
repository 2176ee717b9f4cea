"""Data sets and transforms for mmengine's loaders."""
