"""Zero-shot classification by denoising error, and probes on frozen features."""
