"""Encoders: from images and text to a pyramid of feature maps, for every trained network."""

from __future__ import annotations

from perception.lazy import lazy_names

__all__ = ["VPD", "StoredVPD", "vpd_taps"]
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "VPD": "perception.encoders.vpd.encoder",
        "StoredVPD": "perception.encoders.stored",
        "vpd_taps": "perception.encoders.vpd.taps",
    },
)
