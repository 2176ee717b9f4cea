"""A trained denoiser or control network as a diffusers folder with a model card."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from perception.data.files import replacing_folder, write_atomic
from perception.generation.publishing.dataset_card import licence_of
from perception.generation.styles import weights_fingerprint
from perception.training.models.generator_base import GeneratorModel
from perception.training.models.generators import ControlGenerator

_CARD = """---
license: {licence}
library_name: diffusers
tags: [{tag}]
---
# {title}

{use}

| | |
| --- | --- |
| backbone | `{backbone}`, fingerprint {fingerprint}, licence {licence} |
| trained on denoiser | {base} |
| training data | {data} |
| licence of the data | {data_licence} |
| weights | float16, fingerprint {weights} |

Whoever uses these weights is bound by the licences of the backbone and of the data.

{figures}
"""
_USES = {
    False: "The source-style denoiser: `with_denoiser(backbone, FOLDER)`, or `model.source=FOLDER` in the training of a"
    " control network. Generation does not use it: there the prior takes its place.",
    True: "`perception generate --control FOLDER --backbone BACKBONE --labels LABELS --out OUT`, or"
    " `load_control(FOLDER, backbone)`. One channel per class and one for ignored pixels: {classes}.",
}


def export_generator(
    model: GeneratorModel,
    folder: Path,
    data: Mapping[str, Any],  # plain config of the training data set
    figures: Mapping[str, Any],  # of the validation that chose these weights
) -> None:
    """Write the trained network as float16 safetensors; an older folder at this place is replaced when all is written.

    `training.json` beside the weights says in JSON what the card says.
    """
    network: Any = copy.deepcopy(model.trained()).cpu().half()
    facts = provenance(model, network, data, figures)
    with replacing_folder(folder) as fresh:
        network.save_pretrained(fresh, safe_serialization=True)
        config = json.loads((fresh / "config.json").read_text())
        config.pop("_name_or_path", None)  # a path of this machine
        write_atomic(fresh / "config.json", (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
        write_atomic(fresh / "training.json", (json.dumps(facts, indent=1) + "\n").encode())
        write_atomic(fresh / "README.md", model_card(facts).encode())


def provenance(
    model: GeneratorModel,
    network: nn.Module,
    data: Mapping[str, Any],
    figures: Mapping[str, Any],
) -> dict[str, Any]:
    """What the weights are made from, plain JSON values."""
    control = isinstance(model, ControlGenerator)
    base = model.base if isinstance(model, ControlGenerator) else model.prior
    return {
        "stage": "control" if control else "source",
        "backbone": model.prior.name,
        "backbone_fingerprint": model.prior.fingerprint,
        "backbone_revision": model.prior.revisions.get("backbone"),  # commit of the hub
        "backbone_licence": licence_of(model.prior.name),
        "base": base.name,
        "base_fingerprint": base.fingerprint,
        "classes": list(model.vocabulary.names) if isinstance(model, ControlGenerator) else None,
        "data": described(data),
        "data_licence": model.data_licence,
        "weights_fingerprint": weights_fingerprint(network),
        "metrics": dict(figures),
    }


def model_card(facts: Mapping[str, Any]) -> str:
    """README.md of the folder."""
    control = facts["stage"] == "control"
    figures = "\n".join(f"- {name}: {value}" for name, value in facts["metrics"].items())
    return _CARD.format(
        licence=facts["backbone_licence"],
        tag="controlnet" if control else "unet",
        title=f"{'Control by label maps' if control else 'Source-style denoiser'} for {facts['backbone']}",
        use=_USES[control].format(classes=", ".join(facts["classes"] or ())),
        backbone=facts["backbone"],
        fingerprint=facts["backbone_fingerprint"] + revision_note(facts.get("backbone_revision")),
        base=f"`{facts['base']}`, fingerprint {facts['base_fingerprint']}",
        data=facts["data"],
        data_licence=facts["data_licence"],
        weights=facts["weights_fingerprint"],
        figures=figures,
    )


def revision_note(commit: str | None) -> str:
    """What a card adds to a backbone of the hub."""
    return "" if commit is None else f", commit {commit} of the hub"


def described(data: Mapping[str, Any]) -> str:
    """A data set config in one line: the innermost data set, its numbers and words, and how many views of it."""
    views = data.get("views")
    inner = data.get("dataset", data)
    kept = {key: value for key, value in inner.items() if isinstance(value, (str, int, float))}
    words = ", ".join(f"{key} {value}" for key, value in kept.items() if key not in ("type", "data_root", "cache"))
    name = str(inner["type"]).rpartition(".")[2]
    return f"{name} ({words})" + (f", {views} views" if views else "")
