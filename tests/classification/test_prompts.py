"""Prompt sets: the published tables are proved by their hashes; bad files get one sentence."""

import pytest

from perception.classification.prompts import TABLES, PromptSet, class_prompts, prompt_table, read_prompts
from perception.data.templates import template_set
from perception.errors import UserError

SIZES = {
    "aircraft": 100,
    "cifar10": 10,
    "cifar100": 100,
    "flowers": 102,
    "food": 101,
    "imagenet": 1000,
    "mnist": 10,
    "objectnet": 113,
    "pets": 37,
    "stl10": 10,
}


@pytest.mark.parametrize("name", TABLES)
def test_published_tables_are_identical(name):
    table = prompt_table(name)
    assert len(table) == SIZES[name]
    assert table.digest == TABLES[name][1]
    assert read_prompts(name) == table
    assert [table.find(name) for name in table.names] == list(range(len(table)))


def test_a_table_in_other_templates():
    prompts = read_prompts("cifar10", template_set("cifar"))
    assert len(prompts) == 10 * 18
    assert prompts.prompts[:2] == ("a photo of a airplane.", "a blurry photo of a airplane.")
    assert prompts.names == prompt_table("cifar10").names
    assert prompts == prompt_table("cifar10", template_set("cifar"))


def test_equal_names_of_imagenet_are_told_apart():
    table = prompt_table("imagenet")
    assert [table.names[c] for c in (657, 744, 836, 837)] == [
        "missile (657)",
        "missile (744)",
        "sunglasses (836)",
        "sunglasses (837)",
    ]
    assert table.prompts[657] == table.prompts[744] == "a photo of a missile."


def test_selecting_classes_keeps_their_prompts_and_indices():
    prompts = class_prompts(["cat", "dog", "cow"], ["a {}.", "one {}."]).select([2, 0])
    assert prompts == PromptSet(("a cow.", "one cow.", "a cat.", "one cat."), (0, 0, 1, 1), ("cow", "cat"), (2, 0))


def test_templates_times_classes():
    prompts = class_prompts(["cat", " dog"], ["a {}.", "one {}!"])
    assert prompts.prompts == ("a cat.", "one cat!", "a dog.", "one dog!")
    assert prompts.classes == (0, 0, 1, 1)
    assert prompts.rows(1) == (2, 3)


def test_csv_classes_may_share_prompts_and_names(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text("prompt,classname,classidx\na missile.,missile,657\na missile.,missile,744\na crane.,crane,134\n")
    prompts = read_prompts(file)
    assert prompts.names == ("missile (657)", "missile (744)", "crane")
    assert prompts.prompts == ("a missile.", "a missile.", "a crane.")
    assert (prompts.find("744"), prompts.is_numbered) == (1, True)


def test_csv_keeps_row_order_class_indices_and_the_empty_prompt(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text('classidx,prompt,classname\n7,"a cat, sitting",cat\n3,,nothing\n7,my cat,cat\n')
    prompts = read_prompts(file)
    assert prompts.prompts == ("a cat, sitting", "", "my cat")
    assert prompts.classes == (0, 1, 0)
    assert prompts.names == ("cat", "nothing")
    assert prompts.indices == (7, 3)


def test_class_list_file(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("cat\n\ndog\n")
    assert read_prompts(file, ["{}"]).prompts == ("cat", "dog")


def test_folder_names_find_their_class():
    prompts = PromptSet(("a", "b"), (0, 1), ("Fire-truck", "cat"), (7, 3))
    assert prompts.find("fire_truck") == 0
    assert prompts.find("3") == 1
    with pytest.raises(UserError, match="the folder name 'bus' is none of the classes"):
        prompts.find("bus")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("p.csv", "", "is empty; give it at least two classes"),
        (
            "p.csv",
            "prompt,classname\nx,y\n",
            "has no column classidx; its first line must be prompt,classname,classidx",
        ),
        ("p.csv", "prompt,classname,classidx\nx,y,1.5\n", "has the classidx '1.5' for 'x'; it must be a whole number"),
        ("p.csv", "prompt,classname,classidx\nx,y\n", "has the classidx None"),
        ("p.csv", "prompt,classname,classidx\nx,y,0\n", "at least two classes, but 1 was given"),
        ("p.csv", "prompt,classname,classidx\n", "at least two classes, but 0 was given"),
        ("p.csv", "prompt,classname,classidx\nx,y,0\nx,y,0\nx,z,1\n", "prompt of .* 'x' is given twice"),
        ("p.csv", "prompt,classname,classidx\nx,y,0\nz,y,1\nv,y (1),2\n", r"class name of .* 'y \(1\)' is given twice"),
        ("classes.txt", "cat\ncat\n", "class name 'cat' is given twice"),
        ("classes.txt", "cat\n", "at least two classes, but 1 was given"),
    ],
)
def test_bad_prompt_files_get_one_sentence(tmp_path, name, text, sentence):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_prompts(file)


def test_bad_arguments_get_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"no prompt table or file .*nothing.csv"):
        read_prompts(tmp_path / "nothing.csv")
    with pytest.raises(UserError, match="a class name is empty"):
        class_prompts(["cat", " "])
    with pytest.raises(UserError, match=r"must contain \{\} once"):
        class_prompts(["cat", "dog"], ["a photo"])
    with pytest.raises(UserError, match=r"the template 'a \{\}' is given twice"):
        class_prompts(["cat", "dog"], ["a {}", "a {}"])
    (tmp_path / "latin.csv").write_bytes(b"prompt,classname,classidx\n\xe9,a,0\n")
    with pytest.raises(UserError, match="must be a readable UTF-8 text file"):
        read_prompts(tmp_path / "latin.csv")
