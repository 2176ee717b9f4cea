"""How the embedded `mini` backbone is made: corpus -> autoencoder -> text encoder and denoiser -> export.

The entry point is tools/train_mini.py.
"""
