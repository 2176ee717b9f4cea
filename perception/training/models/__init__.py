"""mmengine models and mmseg backbones over the pure networks."""
