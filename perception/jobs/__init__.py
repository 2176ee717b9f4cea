"""The job runner, and thin adapters to mmengine and mmseg (in `perception.training`)."""

from perception.jobs.contract import JobOptions, JobSummary, Outcome, Predictor
from perception.jobs.items import Item, image_items, labelled_items
from perception.jobs.runner import run_job

__all__ = ["Item", "JobOptions", "JobSummary", "Outcome", "Predictor", "image_items", "labelled_items", "run_job"]
