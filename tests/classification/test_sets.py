"""Every set on a tiny folder of its real layout: image order, labels, prompts and the customary figure."""

import argparse
import gzip
import hashlib
import json
import pickle
import struct

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from perception.classification import sets
from perception.classification.sets import PRESETS, SETS, classification_set
from perception.commands.datasets import add_dataset_arguments, dataset_items, load_dataset
from perception.data.classification_sets import objectnet_numbers
from perception.errors import UserError


def _image(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((10, 10, 3), value, np.uint8)).save(path)


def _text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _pets(root):
    base = root / "oxford-iiit-pet"
    _text(base / "annotations" / "test.txt", "Abyssinian_2 1 1 1", "yorkshire_terrier_9 37 2 25")
    for name in ("Abyssinian_2", "yorkshire_terrier_9", "Abyssinian_1"):
        _image(base / "images" / f"{name}.jpg")
    return ["Abyssinian cat", "Yorkshire Terrier dog"]


def _flowers(root):
    base = root / "flowers-102"
    for number in (1, 2, 3):
        _image(base / "jpg" / f"image_{number:05d}.jpg")
    savemat(base / "setid.mat", {"tstid": np.array([[3, 1]]), "trnid": np.array([[2]]), "valid": np.array([[2]])})
    savemat(base / "imagelabels.mat", {"labels": np.array([[16, 5, 102]], np.uint8)})
    return ["blackberry lily", "globe flower"]


def _food(root):
    base = root / "food-101"
    names = {name.replace(" ", "_"): [] for name in classification_names("food")}
    names |= {"waffles": ["waffles/7"], "apple_pie": ["apple_pie/1"]}
    _text(base / "meta" / "test.json", json.dumps(dict(sorted(names.items(), reverse=True))))
    for name in ("waffles/7", "apple_pie/1"):
        _image(base / "images" / f"{name}.jpg")
    return ["waffles", "apple pie"]


def _aircraft(root):
    base = root / "fgvc-aircraft-2013b" / "data"
    _text(base / "variants.txt", *classification_names("aircraft"))
    _text(base / "images_variant_test.txt", "0000002 F-16A/B", "0000001 707-320")
    for name in ("0000001", "0000002"):
        _image(base / "images" / f"{name}.jpg")
    return ["F-16A/B", "707-320"]


def classification_names(table):
    from perception.classification.prompts import prompt_table

    return prompt_table(table).names


def _folders(root, *names):
    for value, name in enumerate(names):
        _image(root / name / f"{value}.JPEG", value)


def _imagenet(root):
    _folders(root / "val", "n01440764", "n15075141")
    return ["tench", "toilet paper"]


def _imagenet_v2(root):
    _folders(root / "imagenetv2-matched-frequency-format-val", "10", "2", "836")
    return ["brambling", "great white shark", "sunglasses (836)"]


def _imagenet_a(root):
    _folders(root / "imagenet-a", "n01498041", "n01531178", "n04008634")
    return ["stingray", "goldfinch", "missile (744)"]


def _objectnet(root):
    _folders(root / "objectnet-1.0" / "images", "weight_exercise", "air_freshener", "t-shirt", "full_sized_towel")
    return ["bath towel", "t-shirt", "weight (exercise)"]


def _eurosat(root):
    _folders(root / "eurosat" / "2750", "AnnualCrop", "SeaLake")
    return ["annual crop", "sea lake"]


def _caltech(root):
    _folders(root / "caltech101" / "101_ObjectCategories", "BACKGROUND_Google", "Faces_easy", "accordion")
    return ["Faces easy", "accordion"]


def _plain(root):
    _folders(root, "fire_truck", "iPhone")
    return ["fire truck", "iPhone"]


def _idx(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wb") as file:
        file.write(header + values.tobytes())


def _mnist(root, folder="MNIST/raw", suffix=""):
    images = np.stack([np.full((28, 28), value, np.uint8) for value in (5, 6, 7)])
    _idx(root / folder / f"t10k-images-idx3-ubyte{suffix}", images)
    _idx(root / folder / f"t10k-labels-idx1-ubyte{suffix}", np.array([7, 0, 7], np.uint8))
    return ["7", "0", "7"]


def _fashion(root):
    _mnist(root, ".", ".gz")
    return ["sneaker", "t-shirt/top", "sneaker"]


def _cifar(root, monkeypatch, cls, key):
    """The python version of CIFAR: pickled batches whose MD5 sums torchvision checks."""
    base = root / cls.base_folder
    base.mkdir(parents=True)
    batch = {"data": np.zeros((2, 3072), np.uint8), key: [9, 3]}
    sums = {}
    for name, _ in [*cls.train_list, *cls.test_list, (cls.meta["filename"], "")]:
        content = batch if name != cls.meta["filename"] else {cls.meta["key"]: list(map(str, range(100)))}
        (base / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((base / name).read_bytes()).hexdigest()
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(cls, attribute, [[name, sums[name]] for name, _ in getattr(cls, attribute)])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": sums[cls.meta["filename"]]})


def _stl(root, monkeypatch):
    cls = datasets.STL10
    base = root / cls.base_folder
    base.mkdir(parents=True)
    contents = {
        "test_X.bin": np.zeros((2, 3, 96, 96), np.uint8),
        "test_y.bin": np.array([10, 1], np.uint8),
        "class_names.txt": np.frombuffer("\n".join(classification_names("stl10")).encode(), np.uint8),
    }
    sums = {}
    for name, _ in [*cls.train_list, *cls.test_list]:
        (base / name).write_bytes(contents.get(name, np.zeros(1, np.uint8)).tobytes())
        sums[name] = hashlib.md5((base / name).read_bytes()).hexdigest()
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(cls, attribute, [[name, sums[name]] for name, _ in getattr(cls, attribute)])


LAYOUTS = {
    "pets": _pets,
    "flowers": _flowers,
    "food": _food,
    "aircraft": _aircraft,
    "mnist": _mnist,
    "fashion_mnist": _fashion,
    "eurosat": _eurosat,
    "caltech101": _caltech,
    "imagenet": _imagenet,
    "imagenet-v2": _imagenet_v2,
    "imagenet-a": _imagenet_a,
    "objectnet": _objectnet,
    "folder": _plain,
}
CLASSES = {
    "pets": 37,
    "flowers": 102,
    "food": 101,
    "aircraft": 100,
    "mnist": 10,
    "fashion_mnist": 10,
    "imagenet": 1000,
    "imagenet-v2": 1000,
    "imagenet-a": 3,
    "objectnet": 113,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_and_classes_of_the_real_layout(name, tmp_path):
    labels = LAYOUTS[name](tmp_path)
    chosen = classification_set(name, tmp_path)
    assert [chosen.prompts.names[image.class_id] for image in chosen.images] == labels
    assert all(image.path.is_file() for image in chosen.images)
    assert len({image.id for image in chosen.images}) == len(labels)
    assert len(chosen.prompts.names) == CLASSES.get(name, 2)
    assert all(
        chosen.prompts.find(item.label) == i.class_id
        for item, i in zip(dataset_items(chosen), chosen.images, strict=True)
    )
    assert classification_set(name, tmp_path, templates=["one {}.", "a {}!"]).prompts.prompts[0].startswith("one ")
    if name not in ("folder", "mnist", "fashion_mnist"):
        assert classification_set(name, next(tmp_path.iterdir())).prompts == chosen.prompts


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("pets", lambda root: datasets.OxfordIIITPet(root, split="test")),
        ("food", lambda root: datasets.Food101(root, split="test")),
        ("aircraft", lambda root: datasets.FGVCAircraft(root, split="test")),
        ("eurosat", datasets.EuroSAT),
    ],
)
def test_labels_equal_torchvision(name, make, tmp_path):
    LAYOUTS[name](tmp_path)
    other = make(tmp_path)
    assert [image.class_id for image in classification_set(name, tmp_path).images] == [
        int(row[1]) for row in _rows(other)
    ]


def _rows(dataset):
    return [dataset[i] for i in range(len(dataset))]


@pytest.mark.parametrize(
    ("name", "cls", "key", "label"),
    [
        ("cifar10", datasets.CIFAR10, "labels", ["truck", "cat"]),
        ("cifar100", datasets.CIFAR100, "fine_labels", ["bottle", "bear"]),
    ],
)
def test_cifar_is_unpacked_once(name, cls, key, label, tmp_path, monkeypatch):
    _cifar(tmp_path, monkeypatch, cls, key)
    chosen = classification_set(name, tmp_path)
    assert [chosen.prompts.names[image.class_id] for image in chosen.images] == label
    assert chosen.images[0].path == tmp_path / "unpacked" / name / "009" / "00000.png"
    assert Image.open(chosen.images[0].path).size == (32, 32)
    monkeypatch.setattr(cls, "__init__", None)  # a second reading would call it
    assert classification_set(name, tmp_path) == chosen


def test_stl(tmp_path, monkeypatch):
    _stl(tmp_path, monkeypatch)
    chosen = classification_set("stl10", tmp_path)
    assert [chosen.prompts.names[image.class_id] for image in chosen.images] == ["truck", "airplane"]
    assert Image.open(chosen.images[0].path).size == (96, 96)


def test_pixels_survive_the_unpacking(tmp_path):
    _mnist(tmp_path)
    images = classification_set("mnist", tmp_path).images
    assert [np.unique(np.asarray(Image.open(image.path))).tolist() for image in images] == [[5], [6], [7]]


def test_figures_borders_and_presets_are_the_papers():
    assert {name for name, info in SETS.items() if info.mean_per_class} == {"aircraft", "caltech101", "flowers", "pets"}
    assert {name: info.border for name, info in SETS.items() if info.border} == {"objectnet": 2}
    assert {info.preset for info in SETS.values()} - {None} == set(PRESETS)


def _mappings(base, names):
    """ObjectNet's own files: the classes of ImageNet in another order than torchvision's, the first one ours twice."""
    base.mkdir(parents=True)
    folders = {folder: folder.replace("_", " ").capitalize() for folder in names}
    numbers = {label: [2 * c + 1] for c, label in enumerate(folders.values())}
    numbers[next(iter(numbers))].append(999)
    _text(base / "imagenet_to_label_2012_v2", *(f"class {line}, thing {line}" for line in range(1000)))
    (base / "pytorch_to_imagenet_2012_id.json").write_text(json.dumps({str(i): 999 - i for i in range(1000)}))
    (base / "folder_to_objectnet_label.json").write_text(json.dumps(folders | {"air_freshener": "Air freshener"}))
    named = {
        label: "; ".join(f"class {999 - i}, thing {999 - i}" for i in indices) for label, indices in numbers.items()
    }
    (base / "objectnet_to_imagenet_1k.json").write_text(json.dumps(named))


def test_objectnet_in_the_numbers_of_imagenet(tmp_path):
    _objectnet(tmp_path)
    chosen = classification_set("objectnet", tmp_path)
    assert chosen.numbers is None  # the download's mappings/ were left out
    base = tmp_path / "objectnet-1.0" / "mappings"
    _mappings(base, sets._objectnet_folders(chosen.prompts))
    numbers = classification_set("objectnet", tmp_path).numbers
    assert numbers == ((1, 999), *((2 * c + 1,) for c in range(1, 113)))
    (base / "objectnet_to_imagenet_1k.json").write_text(json.dumps({"Full sized towel": "bath towel"}))
    with pytest.raises(UserError, match=r"mappings do not fit each other .*'bath towel'"):
        classification_set("objectnet", tmp_path)
    (base / "objectnet_to_imagenet_1k.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match=r"mappings gives the folder .* no class of ImageNet"):
        classification_set("objectnet", tmp_path)
    (base / "imagenet_to_label_2012_v2").unlink()
    with pytest.raises(UserError, match="imagenet_to_label_2012_v2 does not exist"):
        classification_set("objectnet", tmp_path)
    _imagenet_a(tmp_path / "a")
    assert classification_set("imagenet-a", tmp_path / "a").numbers == ((6,), (11,), (744,))


def test_subsets(tmp_path):
    _mnist(tmp_path)
    chosen = classification_set("mnist", tmp_path)
    assert [image.class_id for image in chosen.per_class(1).images] == [7, 0]
    assert chosen.subset([2, 0]).images == (chosen.images[2], chosen.images[0])
    with pytest.raises(UserError, match="the set mnist has images 0 to 2, not 3"):
        chosen.subset([3])


def test_the_arguments_of_a_command(tmp_path):
    _mnist(tmp_path)
    np.save(tmp_path / "subset.npy", np.array([0, 2]))
    (tmp_path / "subset.txt").write_text("0\n1.5\n")
    parser = argparse.ArgumentParser()
    add_dataset_arguments(parser)
    arguments = ["--dataset", "mnist", "--root", str(tmp_path)]
    args = parser.parse_args([*arguments, "--subset", str(tmp_path / "subset.npy"), "--per-class", "1"])
    (item,) = dataset_items(load_dataset(args))
    assert (item.id, item.label) == ("007/00000.png", "7")
    with pytest.raises(UserError, match="needs --root DIR"):
        load_dataset(parser.parse_args(arguments[:2]))
    with pytest.raises(UserError, match="numbers that are not whole"):
        load_dataset(parser.parse_args([*arguments, "--subset", str(tmp_path / "subset.txt")]))
    (option,) = (action for action in parser._actions if action.dest == "dataset")
    assert option.help.split(", ") == sorted(SETS)


@pytest.mark.parametrize("name", sorted(SETS))
def test_an_empty_folder_gets_one_sentence(name, tmp_path):
    with pytest.raises(UserError, match=r"does not exist; give the folder|no class folders|is not below|no images"):
        classification_set(name, tmp_path)


def test_bad_sets_get_one_sentence(tmp_path):
    with pytest.raises(UserError, match="unknown data set 'dogs'; choose one of pets, flowers"):
        classification_set("dogs", tmp_path)
    with pytest.raises(UserError, match="the set imagenet-a cannot be downloaded"):
        classification_set("imagenet-a", tmp_path, download=True)
    _folders(tmp_path / "val", "n01440764", "n99999999")
    with pytest.raises(UserError, match=r"the folder 'n99999999' of .* is none of the set's classes"):
        classification_set("imagenet", tmp_path)
    _pets(tmp_path)
    (tmp_path / "oxford-iiit-pet" / "images" / "Abyssinian_2.jpg").unlink()
    with pytest.raises(UserError, match=r"Abyssinian_2.jpg is in the list of test images but not on disk"):
        classification_set("pets", tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(b"no idx file")
    with pytest.raises(UserError, match="does not begin as an IDX file of unsigned bytes"):
        classification_set("mnist", tmp_path)


@pytest.mark.parametrize(
    ("name", "make", "file", "content"),
    [
        ("pets", _pets, "oxford-iiit-pet/annotations/test.txt", b"Abyssinian_2"),
        ("pets", _pets, "oxford-iiit-pet/annotations/test.txt", b"\xff\xfe"),
        ("flowers", _flowers, "flowers-102/imagelabels.mat", b""),
        ("food", _food, "food-101/meta/test.json", b'{"waffles": ["waf'),
        ("food", _food, "food-101/meta/test.json", b"[1]"),
        ("aircraft", _aircraft, "fgvc-aircraft-2013b/data/images_variant_test.txt", b"0000001 Zeppelin"),
        ("aircraft", _aircraft, "fgvc-aircraft-2013b/data/images_variant_test.txt", b"0000001"),
    ],
)
def test_broken_lists_get_one_sentence(name, make, file, content, tmp_path):
    make(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=r"the files of .* do not fit each other \(.*\); unpack the set anew"):
        classification_set(name, tmp_path)


def test_a_missing_mapping_of_objectnet_is_named(tmp_path):
    with pytest.raises(
        UserError, match=r"folder_to_objectnet_label\.json does not exist; unpack the set anew$"
    ) as caught:
        objectnet_numbers(tmp_path)
    assert "fit each other" not in str(caught.value)
