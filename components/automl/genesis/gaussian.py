"""A small Gaussian process: a few dozen observations, hyperparameters by marginal likelihood among few candidates.

Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), chapters 2 and 5. Shapes: N observations, F columns, M candidates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Float64", "Gaussian", "fit_gaussian"]

Float64 = NDArray[np.float64]

_LENGTHS = (0.15, 0.3, 0.6, 1.2)
"""Length scales tried for all columns at once, times the root of their number …"""
_STRETCH = 4.0
"""… and then, a column at a time, so many times longer: the column matters less."""
_NOISES = (0.01, 0.1)
"""Variance of the noise, in that of the function."""


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian process with Matern 5/2 kernel, fitted.

    Attributes:
        x: (N, F).
        scale: (F,) one over the length scales.
        variance: Of the function.
        noise: In `variance`.
        factor: (N, N) lower Cholesky factor of the correlations with noise.
        weights: (N,) inverse correlations times the centred scores.
    """

    x: Float64
    scale: Float64
    variance: float
    noise: float
    factor: Float64
    weights: Float64

    def predict(self, at: Float64) -> tuple[Float64, Float64]:
        """Return mean and variance, (M,) each, at (M, F), of the function around its prior mean."""
        cross = _matern(_squares(self.x * self.scale, at * self.scale))
        mean = cross.T @ self.weights
        half = np.linalg.solve(self.factor, cross)
        return mean, self.variance * np.maximum(1.0 - (half**2).sum(axis=0), 1e-9)

    def left_out(self, y: Float64) -> tuple[Float64, Float64]:
        """Return mean and variance, (N,) each, at each of its own points by all others (Rasmussen and Williams, eq. 5.12)."""
        inverse = np.linalg.solve(self.factor.T, np.linalg.solve(self.factor, np.eye(len(y))))
        precision = np.diag(inverse)
        return y - self.weights / precision, self.variance / precision


def fit_gaussian(x: Float64, y: Float64, least_variance: float = 0.05) -> Gaussian:
    """Fit to (N, F) and (N,) centred scores: length scales and noise by marginal likelihood among few candidates."""
    squares = (x.T[:, :, None] - x.T[:, None, :]) ** 2
    root = math.sqrt(max(x.shape[1], 1))
    best, found = -math.inf, None
    for length in _LENGTHS:
        for noise in _NOISES:
            scale = np.full(x.shape[1], 1 / (length * root))
            tried = _likelihood(squares, scale, noise, y, least_variance)
            if tried[0] > best:
                best, found = tried[0], (scale, noise, *tried[1:])
    assert found is not None
    if len(y) > 4:
        for column in range(x.shape[1]):
            scale = found[0].copy()
            scale[column] /= _STRETCH
            tried = _likelihood(squares, scale, found[1], y, least_variance)
            if tried[0] > best:
                best, found = tried[0], (scale, found[1], *tried[1:])
    scale, noise, variance, factor, weights = found
    return Gaussian(x, scale, variance, noise, factor, weights)


def _likelihood(squares: Float64, scale: Float64, noise: float, y: Float64, least: float) -> tuple[float, float, Float64, Float64]:
    """Return log marginal likelihood, the variance that maximises it, the factor and the weights."""
    correlation = _matern(np.tensordot(scale**2, squares, 1)) + noise * np.eye(len(y))
    factor = np.linalg.cholesky(correlation)
    weights = np.linalg.solve(factor.T, np.linalg.solve(factor, y))
    # One imagined observation of unit variance keeps two lucky trials from making a function that is flat.
    variance = max((float(y @ weights) + 1.0) / (len(y) + 1), least)
    fit = -0.5 * (float(y @ weights) + 1.0) / variance - 0.5 * (len(y) + 1) * math.log(variance) - float(np.log(np.diag(factor)).sum())
    return fit, variance, np.asarray(factor), np.asarray(weights)


def _matern(squares: Float64) -> Float64:
    root = np.sqrt(5.0 * squares)
    return np.asarray((1.0 + root + 5.0 / 3.0 * squares) * np.exp(-root))


def _squares(a: Float64, b: Float64) -> Float64:
    return np.asarray(np.maximum((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * a @ b.T, 0.0))
