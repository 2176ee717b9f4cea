"""The folder of a trained head: config.json and model.safetensors, both read as data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import PyTorchModelHubMixin

from perception.backbones.loading.hub import download_head, is_hub_id
from perception.backbones.loading.weight_files import Content, content_of, damage, parameters_of
from perception.data.documents import DocumentError, read_document
from perception.errors import UserError, foreign_errors

_ALL_KEYS = 10_000  # characters of what load_state_dict says, which lists every key
_GONE = ("shortcuts",)  # arguments that earlier versions wrote and that changed no result
_SPARE = Content(10_000, 2**28)  # timm makes whole encoders, of which side networks keep the first stages
Head = TypeVar("Head", bound="HeadFolder")


class HeadFolder(PyTorchModelHubMixin):
    """A network that is saved as config.json (its constructor's arguments), model.safetensors and a model card."""

    @classmethod
    @abstractmethod
    def check_config(cls, config: Mapping[str, Any], folder: str | Path) -> None:
        """Raise UserError unless the config.json in `folder` holds arguments of the constructor, of allowed kinds."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[Head], pretrained_model_name_or_path: str | Path, **options: Any
    ) -> Head:
        """The network in a folder, or of a hub id; `options` replace arguments of its config.json.

        Raises:
            UserError: the folder is not whole, its config.json may not be built from, or its weights do not fit.
        """
        name = pretrained_model_name_or_path
        folder = download_head(str(name)) if is_hub_id(name) else Path(name).expanduser()
        cls.check_config(read_config(folder), folder)
        return super().from_pretrained(folder, **options)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **arguments: Any) -> Any:  # type: ignore[override]
        """Called by `from_pretrained` of the mixin with the arguments of the constructor."""
        file = Path(model_id) / "model.safetensors"
        if found := damage(file):
            raise UserError(f"the weights in {model_id} do not fit its config.json: {found}; copy the folder again")
        with (
            foreign_errors(
                lambda reason: UserError(
                    f"the weights in {model_id} do not fit its config.json: {reason}; copy the folder again"
                ),
                _ALL_KEYS,
            ),
            parameters_of(content_of([file]), _SPARE),
        ):
            return super()._from_pretrained(model_id=model_id, **{**arguments, "strict": True})


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of the folder of a trained head, without arguments that are no more.

    Raises:
        UserError: no such file, or it holds no JSON object.
    """
    path = folder / "config.json"
    try:
        config = read_document(path)
    except OSError:
        raise UserError(f"{folder} has no config.json; name the folder of a trained network, WORK_DIR/model") from None
    except DocumentError as error:
        raise UserError(f"{path} is broken (it {error}); copy the folder again") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} describes no trained head; name WORK_DIR/model or a .pth file")
    return {key: value for key, value in config.items() if key not in _GONE}
