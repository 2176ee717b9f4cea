"""The frozen diffusion backbone: images -> latents -> noised latents -> predictions, features, attention maps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perception.backbones.attention import AttentionSpec, HeadReduction, merge_maps, select_layers
from perception.backbones.conditioning.condition import Condition, Conditioner
from perception.backbones.denoisers.base import Denoiser
from perception.backbones.denoisers.compiled import CompiledDenoiser
from perception.backbones.devices import to_device
from perception.backbones.features import clean_latents, extract, features_source, noise_ids
from perception.backbones.latents import Codec, LatentCodec, PixelCodec, check_latents
from perception.backbones.noise_path import NoisePath
from perception.backbones.own_pictures import OwnPictures
from perception.backbones.prediction import Prediction
from perception.backbones.spec import FeatureSpec, Tap
from perception.backbones.taps import as_map, check_taps, describe_taps, in_order, record
from perception.checks import check_kind, check_tensors
from perception.errors import UserError


class DiffusionBackbone(nn.Module):
    """A frozen diffusion model behind one interface; built by `load_backbone`.

    Images are RGB, float in [0, 1], [B, 3, H, W]; latents are clean and scaled, float32, [B, C, h, w] with
    h = H / latent_stride. Models without an autoencoder have pixels for latents. Parameters are frozen and the
    modules stay in eval mode. Gradients with respect to inputs and conditions flow where the caller has them enabled;
    call under `torch.inference_mode()` otherwise.

    `unet` (the denoiser, be it a UNet or a transformer), `vae`, `text_encoder` and `tokenizer` are the diffusers and
    transformers objects, None where the model has none; `text_encoder_2`, ... are there if the model has them.
    Another backbone around the same text encoders takes this one's `conditioner`.
    """

    def __init__(
        self,
        name: str,  # what the user asked for
        identity: str,  # hash of configs and weights
        denoiser: Denoiser,  # the adapter of the denoiser's family
        vae: nn.Module | None,  # AutoencoderKL or AutoencoderTiny; None: pixel space
        conditioner: Conditioner,  # prompts -> conditions
        path: NoisePath,  # noise schedule and prediction type
        micro_batch: int = 8,  # rows per call of VAE and denoiser in `encode`, `features`
        own_pictures: OwnPictures | None = None,  # what it knows of those it was trained on
    ) -> None:
        super().__init__()
        self.name = name
        self.micro_batch = micro_batch
        self.noise_path = path
        self.num_train_timesteps = path.num_train_timesteps
        self.unet: nn.Module = denoiser.module
        self.vae: Any = vae
        self.text_encoder: Any = None
        self.tokenizer: Any = None
        for part, value in {**conditioner.encoders, **conditioner.tokenizers}.items():
            setattr(self, part, value)
        self._denoiser = denoiser
        self._compiled: CompiledDenoiser | None = None
        self.identity = identity
        self.own_pictures = own_pictures
        self.revisions: dict[str, str] = {}  # commit of each part ("backbone", "vae") that came from the hub
        self._codec: Codec = PixelCodec(denoiser.latent_channels) if vae is None else LatentCodec(vae)
        self.conditioner = conditioner
        self.latent_channels = denoiser.latent_channels
        self.latent_stride = self._codec.stride
        self.training_size = denoiser.training_size  # height and width in latent cells; None: not known
        self.max_text_tokens = conditioner.max_tokens
        self.text_width = denoiser.text_width  # 0: a class-conditional model
        self.class_names = conditioner.class_names  # of a class-conditional model, by class number; else None
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> DiffusionBackbone:
        """Stay in eval mode: a frozen model has no training behaviour."""
        return super().train(False)

    def compile_denoiser(self, **options: Any) -> None:
        """Let `denoise` call the denoiser through torch.compile (its options), for long jobs; equal up to rounding.

        Every batch size, filled up to a power of two, is compiled once per process. `capture` and `features`, which
        hang hooks into the denoiser, and calls inside `as_is` and `checkpointed` run it as it is.
        """
        self._compiled = CompiledDenoiser(self._denoiser, **options)

    @property
    def is_compiled(self) -> bool:
        """Whether `denoise` goes through torch.compile here."""
        return self._compiled is not None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the denoiser."""
        return next(self.unet.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the denoiser."""
        return next(self.unet.parameters()).device

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name configs, weights and dtype; equal on every machine and in every folder."""
        return hashlib.sha256(f"{self.identity}/{self.dtype}".encode()).hexdigest()[:16]

    @cached_property
    def taps(self) -> Mapping[str, Tap]:
        """All taps by name, in order of execution."""
        return describe_taps(self._denoiser, self.latent_stride, self.max_text_tokens)

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> clean latents [B, C, h, w], float32: the posterior mean, scaled.

        Raises:
            UserError: for a wrong shape, values outside [0, 1], NaN, or sides that `latent_stride` does not divide.
        """
        check_tensors(images=images)
        return torch.cat([self._codec.encode(chunk) for chunk in images.split(self.micro_batch)]).to(self.device)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> images [B, 3, H, W] in [0, 1], float32."""
        check_tensors(latents=latents)
        return torch.cat([self._codec.decode(chunk) for chunk in latents.split(self.micro_batch)])

    def unscaled(self, latents: Tensor) -> Tensor:
        """Latents as `encode` makes them -> the autoencoder's raw posterior mean (SD 1.x: divided by 0.18215)."""
        check_tensors(latents=latents)
        return self._codec.unscaled(latents)

    def condition(self, prompts: Sequence[str], *, length: int | None = None, truncate: bool = False) -> Condition:
        """One row per prompt, hidden [N, length, D]; each distinct prompt is encoded once and remembered.

        Args:
            prompts: strings; "" is the empty (unconditional) prompt (SDXL: zeros). A class-conditional model takes
                the names (or numbers) of its classes.
            length: tokens per row, padded as the tokenizer pads; default `max_text_tokens`.
            truncate: cut prompts that are too long instead of raising UserError.
        """
        return self.conditioner(prompts, length=length, truncate=truncate)

    def noise(self, latents: Tensor, t: int | Tensor, noise: Tensor) -> Tensor:
        """x_t = alpha(t) x0 + sigma(t) eps, computed in float32 and returned in the dtype of `latents`.

        Args:
            latents: x0, [B, C, h, w].
            t: one timestep, or one per row [B].
            noise: eps, [B, C, h, w] or broadcastable to it.
        """
        check_latents(latents, self.latent_channels)
        check_tensors(noise=noise)
        alpha, sigma = self._coefficients(t, latents)
        mixed = alpha * latents.float() + sigma * noise.to(latents.device).float()
        return mixed.to(latents.dtype).contiguous()

    def check_size(self, height: int, width: int) -> None:
        """UserError unless the denoiser takes latents of height x width cells."""
        self._denoiser.check_size(height, width)

    def spread(self, positions: Tensor, latents: Tensor) -> Tensor:
        """Positions 0..T-1 of a uniform grid -> timesteps for `latents`, as dense as the model's training has them.

        The positions themselves on variance preserving paths; on rectified flows the shifted schedule, whose shift
        may depend on the size of the latents.
        """
        check_tensors(positions=positions, latents=latents)
        return self.noise_path.spread(positions, self._denoiser.image_tokens(latents.shape[-2], latents.shape[-1]))

    def denoise(self, x_t: Tensor, t: int | Tensor, condition: Condition) -> Prediction:
        """One call of the denoiser.

        Args:
            x_t: noised latents [B, C, h, w].
            t: one timestep, or one per row [B].
            condition: 1 or B rows.

        Returns:
            A Prediction that reads as noise, clean latent or velocity whatever the checkpoint predicts.

        Raises:
            UserError: for a timestep outside the schedule or a condition with another number of rows.
        """
        x_t = self._latent_input(x_t)
        alpha, sigma = self._coefficients(t, x_t)
        raw, variance = self._call(x_t, t, condition, self._compiled or self._denoiser), None
        if raw.shape[1] == 2 * self.latent_channels:  # learned sigma
            raw, variance = raw.chunk(2, dim=1)
        return Prediction(raw, self.noise_path.prediction_type, x_t, alpha, sigma, variance)

    def network_inputs(self, x_t: Tensor, t: int | Tensor, condition: Condition) -> tuple[Tensor, Tensor, Condition]:
        """What the network itself gets of the arguments of `denoise`, for networks beside it.

        x_t [B, C, h, w] and the condition, B rows, in its dtype and on its device, and its own measure of time [B].
        """
        time, condition = self._broadcast(self._steps(t, len(x_t)), condition, len(x_t))
        return self._latent_input(x_t), time, condition

    def capture(
        self,
        x_t: Tensor,  # noised latents [B, C, h, w]
        t: int | Tensor,  # one timestep, or one per row
        condition: Condition,  # 1 or B rows
        taps: Sequence[str],  # names out of backbone.taps
        *,
        heads: HeadReduction = "mean",  # of attention taps
        stop: bool = True,  # leave the denoiser after the last tap; False changes nothing but the time
        detach_maps: bool = False,  # attention taps without gradient
    ) -> dict[str, Tensor]:
        """Feature maps [B, C', h', w'] of one denoiser call, in the order of `taps`.

        Attention taps give probabilities [B, K, h', w'], K key tokens ([B, heads, K, h', w'] with `heads="all"`).
        The tap "latent" gives `x_t` itself.

        Raises:
            UserError: for an unknown tap, timestep, or number of condition rows.
        """
        check_taps(taps, self.taps)
        x_t = self._latent_input(x_t)
        inner = in_order([name for name in taps if name != "latent"], self.taps)
        taken: dict[str, Tensor] = {"latent": x_t}
        if inner:
            modules = self._denoiser.tap_modules()
            chosen = {name: modules[name] for name in inner}
            last, read = inner[-1] if stop else None, self._denoiser.feature_of
            taken |= record(
                lambda: self._call(x_t, t, condition, self._denoiser), chosen, last, heads, detach_maps, read
            )
        size = (x_t.shape[-2], x_t.shape[-1])
        return {name: as_map(taken[name], self.taps[name], size, self.latent_stride) for name in taps}

    def features(
        self,
        inputs: Tensor | None = None,  # images [B, 3, H, W] in [0, 1], or latents [B, C, h, w]
        spec: FeatureSpec | None = None,
        *,
        latents: Tensor | None = None,  # latents, said explicitly
        image_ids: Sequence[str] | None = None,  # for noise="per_image"; default: a hash of each row of the input
        condition: Condition | None = None,  # 1 or B rows; default: spec.prompt
        micro_batch: int | None = None,  # rows per denoiser call; default: self.micro_batch
    ) -> dict[str, Tensor]:
        """Feature maps of all timesteps x images, tap -> [B, T*C', h', w'] (see `FeatureSpec.aggregate`).

        With noise "none" the denoiser sees the clean latent; otherwise alpha(t) x0 + sigma(t) eps(seed, id, t, draw),
        and maps are the mean over `spec.draws`.
        The tap "latent" is always the clean latent. The denoiser stops after the last tap.

        Raises:
            UserError: for unknown taps, timesteps outside the schedule, or inputs as in `encode`.
        """
        if spec is None:
            raise UserError("features needs a FeatureSpec; pass FeatureSpec(taps=(...), timesteps=(...))")
        check_taps(spec.taps, self.taps)
        self.noise_path.check(torch.tensor(spec.timesteps))
        source, rows = features_source(inputs, latents), micro_batch or self.micro_batch
        ids = noise_ids(source, spec, image_ids)
        encode = None if latents is not None else self.encode
        x0 = clean_latents(source, encode, self.latent_channels, rows).to(self.device)
        condition = self.condition([spec.prompt]) if condition is None else condition
        return extract(x0, ids, spec, condition, rows, self.noise, self.capture)

    def attention_maps(
        self, latents: Tensor, t: int | Tensor, condition: Condition, spec: AttentionSpec | None = None
    ) -> dict[str | int, Tensor]:
        """Attention maps of one denoiser call on (noised) `latents`, averaged as `spec` says.

        Returns:
            Maps [B, K, h, w] (K tokens of the condition) by stride in pixels, by layer, or under "all".
        """
        check_tensors(latents=latents)
        spec = spec or AttentionSpec()
        layers = select_layers(spec, self.taps, (latents.shape[-2], latents.shape[-1]), self.latent_stride)
        return merge_maps(self.capture(latents, t, condition, layers, heads=spec.heads), self.taps, spec)

    @contextmanager
    def as_is(self) -> Iterator[None]:
        """Inside, the denoiser is not compiled: for whoever changes it for a while, by hooks or other layers."""
        compiled, self._compiled = self._compiled, None
        try:
            yield
        finally:
            self._compiled = compiled

    def idle_modules(self, single_token: bool = False) -> list[nn.Module]:
        """Modules of the denoiser without influence on any feature.

        Args:
            single_token: the text is one token and no attention map is read.
        """
        return self._denoiser.final_modules() + (self._denoiser.query_modules() if single_token else [])

    @contextmanager
    def checkpointed(self) -> Iterator[None]:
        """Inside, the denoiser's blocks keep no activations and run again in the backward pass."""
        run = partial(checkpoint, use_reentrant=False)
        unet: Any = self.unet
        unet.enable_gradient_checkpointing(run)
        try:
            with self.as_is():
                yield
        finally:
            unet.disable_gradient_checkpointing()

    def _latent_input(self, x_t: Tensor) -> Tensor:
        check_tensors(x_t=x_t)
        check_latents(x_t, self.latent_channels)
        self.check_size(x_t.shape[-2], x_t.shape[-1])
        return x_t.to(self.device, self.dtype).contiguous()

    def _steps(self, t: int | Tensor, rows: int) -> Tensor:
        """Checked timesteps [1 or rows] on the CPU."""
        steps = self.noise_path.check(t).reshape(-1)
        if len(steps) not in (1, rows):
            raise UserError(f"{len(steps)} timesteps were given for a batch of {rows}; expected one, or one per row")
        return steps

    def _coefficients(self, t: int | Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma, [B or 1, 1, 1, 1] float32 on the device of `latents`."""
        steps, path = self._steps(t, len(latents)).view(-1, 1, 1, 1), self.noise_path
        return to_device(path.alpha(steps), latents.device), to_device(path.sigma(steps), latents.device)

    def _broadcast(self, steps: Tensor, condition: Condition, rows: int) -> tuple[Tensor, Condition]:
        """The network's measure of time [rows] and the condition, `rows` rows, on its device."""
        check_kind(Condition, "backbone.condition(PROMPTS) makes one", condition=condition)
        time = to_device(self.noise_path.model_time(steps), self.device).expand(rows)
        return time, condition.expand(rows).to(self.device, self.dtype)

    def _call(
        self, x_t: Tensor, t: int | Tensor, condition: Condition, denoiser: Denoiser | CompiledDenoiser
    ) -> Tensor:
        time, condition = self._broadcast(self._steps(t, len(x_t)), condition, len(x_t))
        return denoiser(x_t, time, condition, self.latent_stride)
