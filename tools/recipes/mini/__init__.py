"""How the embedded backbones are made.

`mini`: corpus -> autoencoder -> text encoder and denoiser -> export -> typicality.
`mini-dit` (modules dit*): denoiser on pixels -> tuning against wrong classes -> export -> typicality.
The entry points are tools/train_mini.py and tools/train_mini_dit.py.
"""
