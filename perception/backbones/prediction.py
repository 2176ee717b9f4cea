"""One denoiser output, readable as noise, clean latent or velocity whatever the checkpoint was trained to predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from perception.checks import check_tensors

ErrorSpace = Literal["native", "eps", "x0", "v", "flow"]


@dataclass(frozen=True)
class Prediction:
    """What the denoiser said about `x_t`; conversions are computed on access, in float32.

    With x_t = alpha x0 + sigma eps (alpha, sigma broadcast over [B, C, h, w]):
    epsilon and sample predictions hold on any such path, v_prediction on variance preserving ones
    (Salimans & Ho 2022, appendix D), flow_prediction (u = eps - x0) on alpha = 1 - sigma.

    A learned `variance` interpolates between log beta_t (f = 1) and the log posterior variance (f = 0) (Nichol &
    Dhariwal 2021, eq. 15).
    """

    raw: Tensor  # [B, C, h, w] network output in the network's dtype
    kind: str  # epsilon | v_prediction | sample | flow_prediction
    x_t: Tensor  # [B, C, h, w] the noised latent it was given
    alpha: Tensor  # [B, 1, 1, 1] float32
    sigma: Tensor  # [B, 1, 1, 1] float32
    variance: Tensor | None = None  # [B, C, h, w] where the network has learned one: f = (variance + 1) / 2

    @property
    def eps(self) -> Tensor:
        """Estimated noise, [B, C, h, w] float32."""
        raw, x_t = self.raw.float(), self.x_t.float()
        if self.kind == "epsilon":
            return raw
        if self.kind == "v_prediction":
            return self.alpha * raw + self.sigma * x_t
        if self.kind == "flow_prediction":
            return x_t + self.alpha * raw
        return (x_t - self.alpha * raw) / self.sigma

    @property
    def x0(self) -> Tensor:
        """Estimated clean latent, [B, C, h, w] float32."""
        raw, x_t = self.raw.float(), self.x_t.float()
        if self.kind == "sample":
            return raw
        if self.kind == "v_prediction":
            return self.alpha * x_t - self.sigma * raw
        if self.kind == "flow_prediction":
            return x_t - self.sigma * raw
        return (x_t - self.sigma * raw) / self.alpha

    @property
    def v(self) -> Tensor:
        """v = alpha eps - sigma x0 (Salimans & Ho 2022), [B, C, h, w] float32."""
        if self.kind == "v_prediction":
            return self.raw.float()
        return self.alpha * self.eps - self.sigma * self.x0

    @property
    def flow(self) -> Tensor:
        """u = eps - x0, the velocity of a rectified flow, [B, C, h, w] float32."""
        return self.raw.float() if self.kind == "flow_prediction" else self.eps - self.x0

    def against(self, x0: Tensor, noise: Tensor, space: ErrorSpace = "native") -> tuple[Tensor, Tensor]:
        """(estimate, truth), [B, C, h, w] float32: what a denoising error compares.

        Args:
            x0: the clean latent that `x_t` was made of, broadcastable to [B, C, h, w].
            noise: the noise that it was mixed with, likewise.
            space: "native" is the reading whose unweighted square is the training loss of its kind of model: the
                noise on variance preserving paths (whatever the network predicts), the velocity u = eps - x0 on
                rectified flows, |u - u_hat| = |eps - eps_hat| / alpha.
        """
        check_tensors(x0=x0, noise=noise)
        x0, noise = x0.float(), noise.float()
        if space == "native":
            space = "flow" if self.kind == "flow_prediction" else "eps"
        if space == "eps":
            return self.eps, noise
        if space == "x0":
            return self.x0, x0
        if space == "v":
            return self.v, self.alpha * noise - self.sigma * x0
        return self.flow, noise - x0
