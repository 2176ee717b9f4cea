"""The template sets of CLIP, bound by count and hash to those of the package clip-benchmark 1.6.2."""

import hashlib

import pytest

from perception.classification.prompts import class_prompts
from perception.data.templates import TEMPLATE_SETS, read_templates, template_set
from perception.errors import UserError

PUBLISHED = {
    "aircraft": (2, "91522de75ad44711"),
    "caltech101": (34, "90561580b7ea5dba"),
    "cifar": (18, "9bbf912e1144ca4c"),
    "eurosat": (3, "9bc85d9f1798d03b"),
    "imagenet": (80, "4f976686fb651bb5"),
    "stl10": (2, "c97a3d1ad5819800"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sets_are_identical(name):
    templates = template_set(name)
    digest = hashlib.sha256("\n".join(templates).encode()).hexdigest()[:16]
    assert (len(templates), digest) == PUBLISHED[name]
    assert read_templates(name) == templates
    assert len(class_prompts(["cat", "dog"], templates)) == 2 * len(templates)


def test_every_set_is_bound():
    assert set(PUBLISHED) == {*TEMPLATE_SETS, "imagenet"}


def test_a_file_of_templates(tmp_path):
    file = tmp_path / "templates.txt"
    file.write_text("a {}.\n\n  the {}!\n")
    assert read_templates(file) == ("a {}.", "the {}!")
    file.write_text("\n")
    with pytest.raises(UserError, match=r"the template file .* is empty; give it a sentence with \{\} per line"):
        read_templates(file)
    file.write_bytes(b"a {} \xe9")
    with pytest.raises(UserError, match="must be a readable UTF-8 text file"):
        read_templates(file)
    with pytest.raises(
        UserError, match=r"no template file or set 'cars'; give a sentence with \{\} .* aircraft, caltech101"
    ):
        read_templates("cars")
