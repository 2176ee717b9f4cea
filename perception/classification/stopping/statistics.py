"""How sure the mean of paired differences is: Student's t on a finite grid.

All functions take differences `gaps` [R, n] of R rivals to the leader on the same n samples; positive: the leader is
better. A grid of `total` samples is a finite population: after n of them the mean over the whole grid is known up to
a variance of s^2/n (1 - n/total) (Cochran, Sampling Techniques, 1977, chapter 2), and exactly at n = total.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def t_statistics(gaps: Tensor) -> Tensor:
    """mean / (sd / sqrt(n)) of each row, float64 [R]. Rows without spread: +-inf, and 0 where every gap is 0.

    gaps [R, n], n >= 2.
    """
    mean, error = gaps.mean(dim=1), gaps.std(dim=1) / math.sqrt(gaps.shape[1])
    return torch.where(mean == 0, torch.zeros_like(mean), mean / error)


def identical(gaps: Tensor) -> Tensor:
    """Rows without any difference: a candidate that repeats the leader. bool [R]."""
    return (gaps == 0).all(dim=1)


def t_quantile(probability: float, samples: int) -> float:
    """Quantile of Student's t with samples - 1 degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(samples - 1, probability))
