"""VPD: the text-prompted denoiser as an encoder (Zhao et al. 2023)."""
