"""Matching of images and captions by denoising error."""
