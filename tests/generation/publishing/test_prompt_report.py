"""The distribution of prompts."""

import numpy as np

from perception.generation.labels import CITYSCAPES, class_counts
from perception.generation.prompts import PromptBuilder
from perception.generation.publishing.prompt_report import PromptReport


def record(street, domain):
    prompt = PromptBuilder(CITYSCAPES.names, {"night": "At night: {names}."})(street, np.random.default_rng(0), domain)
    counts = {str(label): count for label, count in class_counts(street, 19).items()}
    return {"prompt": prompt.text, "domain": prompt.domain, "class_pixels": counts}


def test_domains_templates_names_and_lengths(street):
    road = np.zeros_like(street)
    records = [record(street, "night"), record(street, ""), record(road, "night")]
    report = PromptReport.of(records, CITYSCAPES.names)
    assert report.domains == {"night": 2, "class names alone": 1}
    assert report.templates == {"At night: {names}.": 2, "{names}": 1}
    assert report.classes["road"] == 3 and report.classes["car"] == 2 and report.classes["train"] == 0
    assert report.length == {"least": 3, "median": 5, "most": 7} and report.different == 3
    printed = report.render()
    assert "3 prompts, 3 different; words (least / median / most): 3 / 5 / 7" in printed
    assert "domains: night 2, class names alone 1" in printed and "train" not in printed
    assert report.to_json()["classes"]["pole"] == 2 and report.to_json()["samples"] == 3


def test_templates_without_names_name_no_class(street):
    silent = record(street, "night") | {"prompt": "a photo of a street in the dark."}
    report = PromptReport.of([silent, record(street, "night")], CITYSCAPES.names)
    assert report.classes["road"] == 1
    assert report.templates == {"At night: {names}.": 1, "a photo of a street in the dark.": 1}


def test_nothing_but_ignored_pixels_and_no_samples():
    empty = {"prompt": "", "domain": None, "class_pixels": {}}
    assert PromptReport.of([empty], ["road"]).length == {"least": 0, "median": 0, "most": 0}
    assert "0 prompts" in PromptReport.of([], ["road"]).render()
