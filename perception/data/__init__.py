"""Datasets, images, the tensor store and the embedded miniature world."""
