"""The job runner, and thin adapters to mmengine and mmseg (in `perception.engine.training`)."""

from perception.engine.items import Item, image_items, labelled_items
from perception.engine.jobs import JobOptions, JobSummary, Outcome, Predictor
from perception.engine.runner import run_job

__all__ = ["Item", "JobOptions", "JobSummary", "Outcome", "Predictor", "image_items", "labelled_items", "run_job"]
