"""How the reference trains: learning rate and weight decay per parameter, and two schedules; thin mmengine adapters.

    optim_wrapper = {"type": OptimWrapper, "optimizer": {"type": AdamW, "lr": 8e-5, "weight_decay": 1e-3},
                     "constructor": VPDParamGroups, "paramwise_cfg": {"rule": "vpd-seg"}}

The rules match substrings of the *ldm* names of the denoiser's parameters (`perception.backbones.ldm_names`), as the
code of Zhao et al. 2023 does: in diffusers' names other norms would match.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from diffusers import UNet2DConditionModel
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS
from torch import nn

from perception.backbones.ldm_names import UNET_PREFIX, unet_ldm_names
from perception.errors import UserError

_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._NormBase)


class Parameter(NamedTuple):
    """What a rule reads of a parameter."""

    name: str  # as the reference calls it
    ndim: int
    norm: bool  # weight or bias of a normalisation layer


class Multipliers(NamedTuple):
    """Factors on the optimiser's learning rate and weight decay."""

    lr: float = 1.0
    decay: float = 1.0


Rule = Callable[[Parameter, float | None, bool], Multipliers]


def segmentation_rule(parameter: Parameter, unet_lr_scale: float | None, quirks: bool) -> Multipliers:
    """Denoiser at lr x 0.1, norms without decay.

    Quirk: the keys "norm" and "unet" are of equal length, so "norm" wins: the transformer norms of the denoiser run
    at the full rate. The norms of its residual blocks (`in_layers.0`, `out_layers.0`) and the head's (`bn`) match no
    "norm" and keep their decay. Without quirks every norm is free of decay and the whole denoiser is slowed down.
    """
    scale = 0.1 if unet_lr_scale is None else unet_lr_scale
    if quirks and "norm" in parameter.name:
        return Multipliers(1.0, 0.0)
    return Multipliers(scale if "unet" in parameter.name else 1.0, _norms_free(parameter, quirks))


def referring_rule(parameter: Parameter, unet_lr_scale: float | None, quirks: bool) -> Multipliers:
    """Norms without decay.

    Quirk: the denoiser's lr x 0.01 is written down but never read, so it trains at the full rate; `unet_lr_scale`
    sets any other. Only names with "norm" are free of decay; without quirks all norms are.
    """
    scale = (1.0 if quirks else 0.01) if unet_lr_scale is None else unet_lr_scale
    return Multipliers(scale if "unet" in parameter.name else 1.0, _norms_free(parameter, quirks))


def depth_rule(parameter: Parameter, unet_lr_scale: float | None, quirks: bool) -> Multipliers:
    """Denoiser at lr x 0.01; vectors and biases without decay. There is no quirk."""
    scale = 0.01 if unet_lr_scale is None else unet_lr_scale
    flat = parameter.ndim <= 1 or parameter.name.endswith(".bias")
    return Multipliers(scale if "unet" in parameter.name else 1.0, 0.0 if flat else 1.0)


RULES: Mapping[str, Rule] = {
    "vpd-seg": segmentation_rule,
    "vpd-refer": referring_rule,
    "vpd-depth": depth_rule,
}


def _norms_free(parameter: Parameter, quirks: bool) -> float:
    """The factor on the decay: norms, by name or by what they are, have none."""
    return 0.0 if ("norm" in parameter.name if quirks else parameter.norm) else 1.0


def describe(model: nn.Module) -> dict[str, Parameter]:
    """What the rules read of each parameter, by its own name.

    Every `UNet2DConditionModel` inside `model` gets ldm names behind `UNET_PREFIX`. LoRA matrices in it start from
    nothing, so they count as new parameters, not as the denoiser's.
    """
    names = {name: name for name, _ in model.named_parameters()}
    norms: set[str] = set()
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, _NORMS):
            norms |= {f"{prefix}{name}" for name, _ in module.named_parameters()}
        if isinstance(module, UNet2DConditionModel):
            inside = [name for name, _ in module.named_parameters()]
            own = unet_ldm_names(name for name in inside if ".lora_" not in name)
            names |= {f"{prefix}{name}": f"{UNET_PREFIX}{ldm}" for name, ldm in own.items()}
            names |= {f"{prefix}{name}": "lora_" + name.split(".lora_")[1] for name in inside if ".lora_" in name}
    return {name: Parameter(names[name], value.ndim, name in norms) for name, value in model.named_parameters()}


def group_names(
    parameters: Mapping[str, Parameter],
    rule: str,
    unet_lr_scale: float | None = None,
    quirks: bool = True,
) -> dict[Multipliers, list[str]]:
    """Own names by group, groups in order of appearance. Raises UserError for an unknown rule."""
    if rule not in RULES:
        raise UserError(f"the parameter rule {rule!r} is unknown; choose one of {', '.join(RULES)}")
    groups: dict[Multipliers, list[str]] = {}
    for name, parameter in parameters.items():
        groups.setdefault(RULES[rule](parameter, unet_lr_scale, quirks), []).append(name)
    return groups


def param_groups(
    model: nn.Module,
    rule: str,  # a key of RULES
    *,
    lr: float,  # of the head
    weight_decay: float,
    unet_lr_scale: float | None = None,  # factor on lr for the denoiser; None: the rule's own
    quirks: bool = True,  # as the released code runs; False: as it reads
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser; frozen parameters are left out.

    Raises:
        UserError: unknown rule, or nothing to train.
    """
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if not trained:
        raise UserError("every parameter of this model is frozen; train a head, an adapter or the denoiser")
    described = {name: parameter for name, parameter in describe(model).items() if name in trained}
    groups = group_names(described, rule, unet_lr_scale, quirks)
    return [
        {
            "params": [trained[name] for name in members],
            "lr": lr * factor.lr,
            "weight_decay": weight_decay * factor.decay,
        }
        for factor, members in groups.items()
    ]


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class VPDParamGroups(DefaultOptimWrapperConstructor):
    """`param_groups` as mmengine's optimiser constructor; `paramwise_cfg` holds rule, unet_lr_scale and quirks.

    Raises:
        UserError: a `paramwise_cfg` without a rule, or with other keys.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        found = set(paramwise_cfg or {})
        if "rule" not in found or found - {"rule", "unet_lr_scale", "quirks"}:
            raise UserError(
                "VPDParamGroups takes rule, and if wanted unet_lr_scale and quirks, from optim_wrapper.paramwise_cfg;"
                f" found there: {', '.join(sorted(found)) or 'nothing'}"
            )
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **_: Any) -> None:
        """Append all groups of `module`."""
        params += param_groups(module, lr=self.base_lr, weight_decay=self.base_wd or 0.0, **self.paramwise_cfg)


def poly(step: int, total: int, power: float = 0.9) -> float:
    """(1 - step / total)^power, the share of the peak rate at iteration `step` = 0, 1, ... (referring)."""
    return max(0.0, 1 - step / total) ** power


def rise_and_fall(step: int, half: int, floor: float = 0.06, power: float = 0.9) -> float:
    """Share of the peak rate at iteration `step` = 1, 2, ...: up during `half` iterations, then down (depth).

    Up: floor + (1 - floor) (step / half)^power; down: 1 - (1 - floor) (step / half - 1)^power, never below `floor`.
    """
    if step < half:
        return floor + (1 - floor) * (step / half) ** power
    return max(floor, 1 - (1 - floor) * (step / half - 1) ** power)


class _FactorLR(LRSchedulerMixin, _ParamScheduler):
    """Every group at the same share of its own peak rate; `last_step` = 0, 1, ... counts from `begin`."""

    def _share(self, factor: float) -> list[float]:
        return [base * factor for base in self.base_values]

    @classmethod
    def build_iter_from_epoch(
        cls, *args: Any, epoch_length: int, begin: int = 0, end: int, by_epoch: bool = True, **kwargs: Any
    ) -> _FactorLR:
        """mmengine's entry for `convert_to_iter_based`."""
        return cls(*args, begin=begin * epoch_length, end=end * epoch_length, by_epoch=False, **kwargs)


@PARAM_SCHEDULERS.register_module()
class PolyDecayLR(_FactorLR):
    """`poly` from `begin` to `end`; mmengine's PolyLR counts one iteration less and ends at zero."""

    def __init__(
        self,
        optimizer: Any,
        begin: int = 0,
        end: int = 1,  # filled in by the Runner
        by_epoch: bool = False,
        power: float = 0.9,
        last_step: int = -1,
    ) -> None:
        self.power = power
        super().__init__(optimizer, begin=begin, end=end, by_epoch=by_epoch, last_step=last_step)

    def _get_value(self) -> list[float]:
        return self._share(poly(self.last_step, self.end - self.begin, self.power))


@PARAM_SCHEDULERS.register_module()
class RiseAndFallLR(_FactorLR):
    """`rise_and_fall` from `begin` to `end`; the rise takes epochs // 2 epochs where epochs are converted, and half of
    the iterations of a single one.
    """

    def __init__(
        self,
        optimizer: Any,
        begin: int = 0,
        end: int = 2,  # filled in by the Runner
        by_epoch: bool = False,
        half: int | None = None,  # iterations of the rise; None: half of all
        floor: float = 0.06,  # share of the peak: 3e-5 / 5e-4
        power: float = 0.9,
        last_step: int = -1,
    ) -> None:
        self.half = max(1, (end - begin) // 2) if half is None else half
        self.floor, self.power = floor, power
        super().__init__(optimizer, begin=begin, end=end, by_epoch=by_epoch, last_step=last_step)

    @classmethod
    def build_iter_from_epoch(
        cls, *args: Any, epoch_length: int, begin: int = 0, end: int, by_epoch: bool = True, **kwargs: Any
    ) -> _FactorLR:
        """mmengine's entry for `convert_to_iter_based`; `half` = epoch_length * ((end - begin) // 2)."""
        half = kwargs.pop("half", None)
        half = (end - begin) // 2 if half is None else half
        return super().build_iter_from_epoch(
            *args, epoch_length=epoch_length, begin=begin, end=end, half=half * epoch_length or None, **kwargs
        )

    def _get_value(self) -> list[float]:
        return self._share(rise_and_fall(self.last_step + 1, self.half, self.floor, self.power))
