"""The config check: every key of a config against the constructor that will receive it, before anything is built.

mmengine takes a mistyped key silently where a constructor has `**kwargs`, where a part of the runner reads its
dictionary with `.get`, and for every override that names no existing path. Here all such mistakes come in one error.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.registry import Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, LogProcessor, Runner, TestLoop, ValLoop
from mmengine.utils import get_object_from_string
from mmengine.visualization import Visualizer
from mmseg import registry as mmseg
from torch.utils.data import DataLoader

from perception.training import registry as ours
from perception.training.config.signature import Signature, signature_of

_REGISTRIES = (
    *(ours.MODELS, ours.DATASETS, ours.TRANSFORMS, ours.METRICS, ours.HOOKS),
    *(mmseg.DATA_SAMPLERS, mmseg.OPTIMIZERS, mmseg.OPTIM_WRAPPERS, mmseg.OPTIM_WRAPPER_CONSTRUCTORS),
    *(mmseg.PARAM_SCHEDULERS, mmseg.LOOPS, mmseg.MODEL_WRAPPERS, mmseg.WEIGHT_INITIALIZERS, mmseg.EVALUATOR),
    *(mmseg.VISUALIZERS, mmseg.VISBACKENDS, mmseg.LOG_PROCESSORS, mmseg.TASK_UTILS),
)
# What mmengine takes out of a dictionary before the constructor sees it, by the dictionary's name.
_TAKEN_OUT = {
    "optim_wrapper": {"optimizer", "constructor", "paramwise_cfg"},
    "param_scheduler": {"convert_to_iter_based", "epoch_length"},
    "norm_cfg": {"requires_grad"},
    "train_cfg": {"by_epoch"},
    **{
        f"{mode}_dataloader": {"num_batch_per_epoch", "disable_subprocess_warning"} for mode in ("train", "val", "test")
    },
}
# Arguments that mmengine or the channel filling adds, so a config may leave them out.
_INJECTED = {
    *("runner", "dataloader", "dataset", "evaluator", "optimizer", "params", "sampler", "batch_size", "module"),
    *("in_channels", "feature_strides"),
}
_TABLES = {  # dictionaries without a constructor
    ("env_cfg",): {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
    ("auto_scale_lr",): {"enable", "base_batch_size"},
    ("model", "test_cfg"): {"mode", "crop_size", "stride"},
    ("optim_wrapper", "paramwise_cfg"): {"custom_keys", "bias_lr_mult", "bias_decay_mult", "norm_decay_mult"}
    | {"dwconv_decay_mult", "flat_decay_mult", "dcn_offset_lr_mult", "bypass_duplicate"}
    | {"rule", "unet_lr_scale", "quirks"},  # of VPDParamGroups
}
_DEFAULT_TYPES: dict[tuple[str, ...], Callable[..., Any]] = {  # where `type` may be left out
    ("val_cfg",): ValLoop,
    ("test_cfg",): TestLoop,
    ("optim_wrapper",): OptimWrapper,
    ("log_processor",): LogProcessor,
    ("visualizer",): Visualizer,
    ("train_dataloader",): DataLoader,
    ("val_dataloader",): DataLoader,
    ("test_dataloader",): DataLoader,
}
# What Runner reads of a config: its arguments and what it looks up in the whole config.
RUNNER_KEYS = (signature_of(Runner).names - {"cfg"}) | {
    *("model_wrapper_cfg", "sync_bn", "find_unused_parameters", "compile"),
    *("activation_checkpointing", "efficient_conv_bn_eval"),
}


def config_mistakes(config: Mapping[str, Any]) -> list[str]:
    """One sentence per mistaken key, unknown type or missing argument of a plain config (types as dotted names)."""
    return list(_walk({key: config[key] for key in config if key in RUNNER_KEYS}, ()))


def option_mistakes(config: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """One sentence per override `a.b.c` that would change nothing: its path leads nowhere in `config`.

    A new last key is fine where a constructor receives it (`config_mistakes` judges it after merging).
    """
    return [mistake for option, value in options.items() for mistake in _override(config, option.split("."), value)]


@lru_cache
def find_type(name: str) -> Callable[..., Any] | None:
    """The class or function of a config's `type`: a dotted import path or a registered name; None where unknown."""
    found = get_object_from_string(name) if "." in name else None
    for registry in _REGISTRIES if found is None else ():
        try:
            found = registry.get(name)
        except RuntimeError:  # what Registry.get raises for an unknown dotted name
            continue
        if found is not None:
            break
    return found if callable(found) else None


def nearest(name: str, choices: Iterable[str]) -> str:
    """The end of an error sentence: what was probably meant, or else all there is."""
    choices = sorted(set(choices))
    close = difflib.get_close_matches(name, choices, 3, 0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there are: {', '.join(choices[:20])}{' ...' if len(choices) > 20 else ''}"


def _walk(node: Any, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(node, Mapping):
        yield from _check_dictionary(node, path)
        for key, value in node.items():
            yield from _walk(value, (*path, str(key)))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _walk(value, (*path, str(index)))


def _check_dictionary(node: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    kind = node.get("type")
    if isinstance(kind, str) and find_type(kind) is None:
        yield f"{_dotted(path)}.type: nothing is called {kind!r}; {nearest(kind, _registered_names())}"
        return
    signature = _signature_at(node, path)
    if signature is None:
        return
    special = _TAKEN_OUT.get(_name(path), set())
    for key in node:
        if key not in ("type", "_scope_", "_delete_") and not signature.accepts(key) and key not in special:
            choices = signature.names | special
            yield f"{_dotted((*path, key))}: {signature.name} takes no {key!r}; {nearest(key, choices)}"
    if kind is not None and not _name(path).endswith("_cfg"):
        missing = sorted(signature.required - set(node) - _INJECTED)
        if missing:
            yield f"{_dotted(path)}: {signature.name} needs {', '.join(missing)}"


def _signature_at(node: Mapping[str, Any], path: tuple[str, ...]) -> Signature | None:
    """The constructor a dictionary goes to; None where it goes to none that is known."""
    if isinstance(node.get("type"), str):
        target = find_type(node["type"])
        return signature_of(target) if target else None
    if callable(node.get("type")):
        return signature_of(node["type"])
    if path == ("train_cfg",):
        return signature_of(EpochBasedTrainLoop if node.get("by_epoch", True) else IterBasedTrainLoop)
    if path == ("randomness",):
        return Signature("randomness", signature_of(Runner.set_randomness).names - {"self"}, frozenset())
    if path in _TABLES:
        return Signature(path[-1], frozenset(_TABLES[path]), frozenset())
    return signature_of(_DEFAULT_TYPES[path]) if path in _DEFAULT_TYPES else None


def _override(config: Any, keys: list[str], value: Any) -> Iterator[str]:
    if keys[0] not in RUNNER_KEYS:
        reason = (
            "is a variable of the config file, already used when overrides come" if keys[0] in config else "is unknown"
        )
        yield f"{keys[0]}: {reason}; {nearest(keys[0], RUNNER_KEYS)}"
        return
    node = config
    if keys[0] not in config:  # a part of the run that the config leaves out; config_mistakes judges the merged one
        return
    for depth, key in enumerate(keys):
        path, last = tuple(keys[:depth]), depth == len(keys) - 1
        if isinstance(node, (list, tuple)):
            if not key.isdigit() or int(key) >= len(node):
                yield f"{_dotted((*path, key))}: the list {_dotted(path)} has the entries 0..{len(node) - 1}"
                return
            node = node[int(key)]
        elif isinstance(node, Mapping):
            judged_later = last and _signature_at(node, path) is not None
            if key not in node and not judged_later:
                yield f"{_dotted((*path, key))}: there is no {key!r} in {_dotted(path)}; {nearest(key, node)}"
                return
            node = node.get(key)
        else:
            yield f"{_dotted((*path, key))}: {_dotted(path)} is {node!r}, which has no parts"
            return
    if isinstance(node, Mapping) and value is not None and not isinstance(value, Mapping):
        whole = _dotted(tuple(keys))
        yield f"{whole}: has parts, which {value!r} would replace; set one of them, {whole}.KEY=VALUE"


def _registered_names() -> set[str]:
    names: set[str] = set()
    for start in _REGISTRIES:
        registry: Registry | None = start
        while registry is not None:
            prefix = "perception." if registry.scope == "perception" else ""
            names |= {prefix + key for key in registry.module_dict}
            registry = registry.parent
    return names


def _name(path: tuple[str, ...]) -> str:
    """The last key that is no list index."""
    return next((key for key in reversed(path) if not key.isdigit()), "")


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(path)


def schedule_mistakes(config: Mapping[str, Any]) -> list[str]:
    """One sentence per schedule of a plain config that begins when the training, or the schedule itself, has ended.

    A training counted in epochs tells its iterations only when its data are there: see `late_schedules`.
    """
    loop = config.get("train_cfg")
    if not isinstance(loop, Mapping):
        return []
    by_epoch = loop.get("by_epoch", "max_iters" not in loop)
    epochs, iterations = (loop.get("max_epochs"), None) if by_epoch else (1, loop.get("max_iters"))
    return late_schedules(config.get("param_scheduler"), epochs, iterations)


def late_schedules(schedules: Any, epochs: int | None, iterations: int | None) -> list[str]:
    """One sentence per schedule that begins at or after its end, by default that of the training (None: not known).

    mmengine takes it for an error of its own, in a traceback, when weights and data are loaded.
    """
    found = []
    for place, node in _placed(schedules):
        by_epoch = node.get("by_epoch", True)
        begin, total = node.get("begin", 0), epochs if by_epoch else iterations
        end = node.get("end", total)
        if not all(isinstance(value, (int, float)) for value in (begin, end)) or begin < end:
            continue
        unit, kind = ("epoch" if by_epoch else "iteration"), str(node.get("type")).rpartition(".")[2].strip("'>")
        whose = "it ends" if "end" in node else "the training ends"
        found.append(
            f"{place}: {kind} begins at {unit} {begin}, but {whose} at {end}; train longer, or shorten the warm-up "
            f"before it (the end of that schedule, and {place}.begin)"
        )
    return found


def _placed(schedules: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Schedules with the dotted names of their places in the config."""
    if isinstance(schedules, Mapping):
        yield "param_scheduler", schedules
    elif isinstance(schedules, (list, tuple)):
        yield from ((f"param_scheduler.{i}", node) for i, node in enumerate(schedules) if isinstance(node, Mapping))
