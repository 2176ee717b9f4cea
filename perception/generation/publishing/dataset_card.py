"""The README.md of a generated set: contents, how it was made, how to load it, and the licences that bind its users."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from perception.errors import UserError
from perception.generation.publishing.catalogue import SAMPLES, Record
from perception.generation.publishing.prompt_report import PromptReport

UNKNOWN = "unknown"
_SHIPPED = "Apache-2.0"  # the license of this package
_KNOWN: Mapping[str, str] = MappingProxyType(
    {
        "mini": _SHIPPED,
        "mini-control": _SHIPPED,
        "mini-source": _SHIPPED,
        "stable-diffusion-v1-5/stable-diffusion-v1-5": "CreativeML OpenRAIL-M",
        "runwayml/stable-diffusion-v1-5": "CreativeML OpenRAIL-M",
        "stabilityai/stable-diffusion-2-1": "CreativeML OpenRAIL++-M",
        "stabilityai/stable-diffusion-2-1-base": "CreativeML OpenRAIL++-M",
        "stabilityai/stable-diffusion-xl-base-1.0": "CreativeML OpenRAIL++-M",
        "yurujaja/DGInStyle": "CC-BY-SA-4.0",
    }
)


def licence_of(name: str | Path) -> str:
    """The licence of a model: as its card (README.md in its folder, or the one above) states it, else as known here.

    Returns "unknown" where neither says anything.
    """
    if str(name) in _KNOWN:
        return _KNOWN[str(name)]
    folder = Path(name).expanduser()
    stated = [_of_card(place / "README.md") for place in (folder, folder.parent) if (place / "README.md").is_file()]
    return next((licence for licence in stated if licence), UNKNOWN)


def stated_licences(texts: tuple[str, ...]) -> dict[str, str]:
    """'backbone=...', 'autoencoder=...', 'control=...', 'labels=...' and 'photos=...' as a mapping.

    Raises:
        UserError: for another form.
    """
    found = {}
    for text in texts:
        part, separator, licence = (piece.strip() for piece in text.partition("="))
        if part not in ("backbone", "autoencoder", "control", "labels", "photos") or not separator or not licence:
            raise UserError(
                f"the licence {text!r} is not usable; expected PART=NAME with the part backbone, autoencoder, control, "
                'labels or photos, such as "labels=for research use only"'
            )
        found[part] = licence
    return found


def _of_card(path: Path) -> str | None:
    from huggingface_hub.repocard import metadata_load

    try:
        data = metadata_load(path) or {}
    except (ValueError, OSError):  # a README that is no model card
        return None
    name = data.get("license_name") if data.get("license") == "other" else data.get("license")
    return str(name) if name else None


_MMSEG = """```python
train_dataset = dict(
    type="BaseSegDataset", data_root="PATH/TO/THIS/FOLDER",{more}
    data_prefix=dict(img_path="{images}", seg_map_path="{labels}"),
    img_suffix="{image_end}", seg_map_suffix="{labels_end}", ignore_index=255, reduce_zero_label=False,
    metainfo=dict(classes={classes}),
    pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")],
)
```"""
_FILES = """| path | what |
|---|---|
| `images/ID.png` | the generated image, RGB |
| `labels/ID_labelTrainIds.png` | the label map it was made from: 8-bit class ids, 255 = ignore |
| `manifest.jsonl` | one line per sample: source label map and its SHA-256, crop, class, prompt, seed, sampler, \
models, licences, SHA-256 of both files |
| `samples.txt` | ids of the finished samples, one a line: all that belongs to the set |
| `sample_class_stats.json`, `sample_class_stats_dict.json`, `samples_with_class.json` | pixels per class, for rare \
class sampling |
| `preview.png` | image, labels and both mixed, of samples from all over the set |
| `job.json` | the options of the job |

Check the files with `perception generate --verify FOLDER`."""


def dataset_card(
    records: Sequence[Record],  # finished samples, at least one
    failed: int,  # label maps x repetitions that could not be used
    names: Sequence[str],  # class names by id
) -> str:
    """Markdown; a function of the records alone, so that the same job writes the same card."""
    sections = {
        "Files": _FILES,
        "Use with mmsegmentation": mmseg_config(names, listing=SAMPLES),
        **generated_sections(records, names),
        "Classes": class_table(records, names),
        "Limits": _LIMITS,
    }
    counts = f"{len(records)} samples of {len({record['source'] for record in records})} label maps"
    missing = f"; {failed} samples could not be made (`manifest.jsonl` says why)" if failed else ""
    made = "Made with `perception generate` (DGInStyle, arXiv 2312.03048)."
    head = f"# Generated street scenes\n\n{counts}{missing}. {made}"
    return render_card(head, sections)


def render_card(head: str, sections: Mapping[str, str]) -> str:
    """Markdown of a head and sections, title -> text."""
    return "\n\n".join([head, *(f"## {title}\n\n{text}" for title, text in sections.items())]) + "\n"


def mmseg_config(
    names: Sequence[str],  # class names by id
    images: str = "images",  # folders, seen from the data root
    labels: str = "labels",
    ends: tuple[str, str] = (".png", "_labelTrainIds.png"),  # of image and label files, behind the sample id
    listing: str | None = None,  # file that lists the sample ids; None: all images
) -> str:
    """How mmseg reads a set, as Python."""
    more = f' ann_file="{listing}",' if listing else ""
    where = {"images": images, "labels": labels, "image_end": ends[0], "labels_end": ends[1], "more": more}
    return _MMSEG.format(classes=tuple(names), **where)


def generated_sections(records: Sequence[Record], names: Sequence[str]) -> dict[str, str]:
    """Title -> text of what every set of generated samples states: licences, models, domains and prompts."""
    report = PromptReport.of(records, names)
    return {
        "Licences": _licences(records),
        "Models": _models(records),
        "Domains": _table(("domain", "samples"), report.domains),
        "Prompts": _prompts(records, report),
    }


_LIMITS = (
    "The images follow their label maps only as well as the control network does; none was looked at by a person, and "
    "no sample was filtered by this job. No safety checker was active. The time of the job is not recorded, so that "
    "the same job writes the same bytes."
)


def _licences(records: Sequence[Record]) -> str:
    licences: Mapping[str, Any] = records[0]["licences"]
    model = records[0]["model"]
    rows = [
        ("backbone", model["backbone"], licences["backbone"]),
        *((("autoencoder", model["vae"], licences["autoencoder"]),) if "autoencoder" in licences else ()),
        *(("control network", n, t) for n, t in zip(model["controls"], licences["controls"], strict=True)),
        ("source label maps", "", licences["labels"]),
        *((("photos whose detail is kept", "", licences["photos"]),) if "photos" in licences else ()),
    ]
    lines = [f"| {part} | {name} | {licence} |" for part, name, licence in rows]
    note = (
        "A share-alike licence of a control network, and the use restrictions of a backbone, hold for these images too."
    )
    return "\n".join(["| part | name | licence |", "|---|---|---|", *lines, "", note])


def _models(records: Sequence[Record]) -> str:
    model, sampler = records[0]["model"], records[0]["sampler"]
    rows = [f"backbone `{model['backbone']}`, fingerprint `{model['backbone_fingerprint']}`"]
    rows += [f"{part}: commit `{commit}` of the hub" for part, commit in model.get("revisions", {}).items()]
    rows += [f"autoencoder `{model['vae']}`"] if "vae" in model else []
    rows += [f"random weights of seed {model['random_init_seed']}"] if "random_init_seed" in model else []
    rows += [
        f"control network `{name}`, fingerprint `{digest}`"
        for name, digest in zip(model["controls"], model["control_fingerprints"], strict=True)
    ]
    rows += [f"{key}: {value}" for key, value in sampler.items()]
    versions: dict[str, dict[str, None]] = {}  # name -> versions, in the order of the samples
    for record in records:
        for name, version in record.get("versions", {}).items():
            versions.setdefault(name, {})[version] = None
    rows += [f"{name} {', '.join(found)}" for name, found in versions.items()]
    return "\n".join(f"- {row}" for row in rows)


def class_table(records: Sequence[Record], names: Sequence[str]) -> str:
    """How often every class occurs, from `class_pixels` of the records."""
    pixels: Counter[str] = Counter()
    samples: Counter[str] = Counter()
    for record in records:
        pixels.update(record["class_pixels"])
        samples.update(record["class_pixels"].keys())
    total = sum(pixels.values()) or 1
    rows = [f"| {name} | {samples[str(i)]} | {100 * pixels[str(i)] / total:.3f} % |" for i, name in enumerate(names)]
    return "\n".join(["| class | samples with it | share of the labelled pixels |", "|---|---|---|", *rows])


def _prompts(records: Sequence[Record], report: PromptReport, most: int = 10) -> str:
    counts = Counter(record["prompt"] for record in records)
    length = " / ".join(f"{value:g}" for value in report.length.values())
    return "\n\n".join(
        [
            f"{report.different} different prompts; words in a prompt (least / median / most): {length}.",
            _table(("template", "samples"), report.templates),
            _table(("class named", "prompts"), {name: count for name, count in report.classes.items() if count}),
            "The most frequent prompts:",
            _table(("prompt", "samples"), dict(counts.most_common(most))),
        ]
    )


def _table(head: tuple[str, str], counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {count} |" for name, count in ordered)])
