"""The job runner: many items, any kill, three engines."""

from perception.jobs.contract import JobOptions, JobPredictor, JobSummary, Outcome
from perception.jobs.items import Item, image_items, labelled_items
from perception.jobs.runner import run_job

__all__ = ["Item", "JobOptions", "JobPredictor", "JobSummary", "Outcome", "image_items", "labelled_items", "run_job"]
