"""Adapters over the denoisers of diffusers, one file per family."""
