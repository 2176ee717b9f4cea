"""The job runner: many items, any kill, three engines."""

from perception.jobs.contract import JobOptions, JobSummary, Outcome, Predictor
from perception.jobs.items import Item, image_items, labelled_items
from perception.jobs.runner import run_job

__all__ = ["Item", "JobOptions", "JobSummary", "Outcome", "Predictor", "image_items", "labelled_items", "run_job"]
