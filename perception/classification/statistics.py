"""How sure the mean of paired differences is: Student's t, a normal mixture that may be peeked at, finite grids.

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


def normal_scores(statistics: Tensor, samples: int) -> Tensor:
    """Statistics of Student's t with samples - 1 degrees of freedom as normal ones of the same upper tail."""
    from scipy.special import ndtri, stdtr

    return -torch.from_numpy(ndtri(stdtr(samples - 1, -statistics.numpy())))  # the lower tail keeps its digits


def t_quantile(probability: float, samples: int) -> float:
    """Quantile of Student's t with samples - 1 degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(samples - 1, probability))


def mixture_bound(alpha: float, samples: int, tuned: int) -> float:
    """What a normal statistic of mean <= 0 exceeds at ANY number of samples with a probability of at most alpha.

    One-sided normal-mixture boundary, sqrt(2 (1 + 1/v) log(1 + sqrt(v + 1) / (2 alpha))) with v = n rho^2; rho makes it
    tightest at n = `tuned` (Robbins 1970). It is exact where the sd is known, and asymptotically valid with the
    empirical one (Waudby-Smith et al. 2021, arXiv 2103.06476): a t statistic of few samples exceeds it too often, so
    compare its normal score.
    """
    log = -2 * math.log(2 * alpha)
    v = samples * (log + math.log(log + 1)) / tuned
    return math.sqrt(2 * (1 + 1 / v) * math.log(1 + math.sqrt(v + 1) / (2 * alpha)))
