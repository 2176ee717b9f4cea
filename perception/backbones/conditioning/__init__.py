"""What a denoiser is conditioned on: texts and classes, encoded."""
