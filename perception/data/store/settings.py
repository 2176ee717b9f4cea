"""The settings of a tensor store, in its store.json: format version and dtype."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from perception.data.documents import read_shaped
from perception.data.files import write_atomic
from perception.errors import UserError

FORMAT = 1
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def open_settings(root: Path, dtype: torch.dtype | None, read_only: bool) -> torch.dtype | None:
    """Read store.json, or write it for a new store; returns the dtype of the store."""
    path = root / "store.json"
    if not path.exists():
        if read_only:
            raise UserError(f"{root} is not a tensor store (it has no store.json); check the path.")
        if dtype not in (None, *DTYPES.values()):
            raise UserError(f"A store cannot hold {dtype_name(dtype)}; choose one of {', '.join(DTYPES)}.")
        write_atomic(path, (json.dumps({"format": FORMAT, "dtype": dtype_name(dtype)}) + "\n").encode())
        return dtype
    settings = read_settings(root)
    stored = DTYPES[settings["dtype"]] if settings["dtype"] else None
    if not read_only and stored != dtype:
        raise UserError(
            f"The store {root} holds {dtype_name(stored)}, not {dtype_name(dtype)}; "
            f"open it with that dtype or choose another folder."
        )
    return stored


def read_settings(root: Path) -> dict[str, str]:
    """The content of store.json, checked. Raises UserError when it is absent, broken or of another format."""
    path = root / "store.json"
    try:
        settings = read_shaped(path, {"format": int, "dtype": (str, None)})
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{root} is not a tensor store (it has no store.json); check the path.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable as the settings of a tensor store; choose another folder.") from error
    if settings["format"] != FORMAT or settings["dtype"] not in (None, *DTYPES):
        raise UserError(
            f"{path} describes {settings}; this version reads format {FORMAT} with dtype {', '.join(DTYPES)}."
        )
    return settings


def dtype_name(dtype: torch.dtype | None) -> str | None:
    """As store.json has it."""
    return None if dtype is None else str(dtype).removeprefix("torch.")
