"""The job runner, and thin adapters to mmengine and mmseg (in `perception.engine.training`)."""
