"""What is in the golden folder of DGInStyle, by pattern; finding nothing is an error."""

import json
import os
from pathlib import Path

from safetensors.torch import load_file

ROOT = Path(os.environ.get("PERCEPTION_GOLDENS") or Path(__file__).parents[1] / "goldens")
FOLDER = ROOT / "dginstyle"


def cases(pattern, *, where=lambda config: True):
    """{file stem: (tensors, configuration)} of all files of a kind."""
    found = {}
    for path in sorted(FOLDER.glob(pattern)):
        config = json.loads(path.with_suffix(".json").read_text()) if path.with_suffix(".json").is_file() else {}
        if where(config):
            found[path.stem] = load_file(path), config
    assert found, f"no {pattern} in {FOLDER}"
    return found


def documents(pattern):
    """{file stem: content} of all JSON files of a kind."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob(pattern))}
    assert found, f"no {pattern} in {FOLDER}"
    return found
