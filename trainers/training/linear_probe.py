"""A linear probe: multinomial logistic regression on the features of a frozen network.

    found = fit_probe(features, labels, classes=10)
    scores = softmax(features @ found.kernel + found.bias)

The penalty is `|W|^2 / 2` against `strength` times the sum of the cross-entropies, as `C` in
scikit-learn. Features are first centered and divided by their root mean square distance from the
center, so that one grid of strengths suits any network. The bias has no penalty. NumPy and SciPy
only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Array = NDArray[Any]

#: Inverse penalties to choose from, the strongest penalty first.
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
_FOLDS = 5
# Used if no images can be held out.
_DEFAULT_STRENGTH = 1.0
# Lower bound of probabilities before the logarithm, as in the metric `cross_entropy`.
_LEAST = 1e-7
# (steps, tolerance) of L-BFGS: for the final probe, and for the choice of a penalty.
_EXACT, _ROUGH = (300, 1e-11), (100, 1e-6)


@dataclass(frozen=True)
class LinearProbe:
    """A classifier of features.

    Attributes:
      kernel: (F, N) float32.
      bias: (N,) float32.
      strength: the chosen inverse penalty.
      top1: share of held-out images that are classified correctly with it; None without any.
      how: description of the images that it was chosen on.
    """

    kernel: Array
    bias: Array
    strength: float
    top1: float | None
    how: str


@dataclass(frozen=True)
class Held:
    """Held-out images that decide the penalty: (M, F) features and (M,) labels."""

    features: Array
    labels: Array


def fit_probe(
    features: Array,
    labels: Array,
    *,
    classes: int,
    groups: Sequence[str] = (),
    held: Held | None = None,
    seed: int = 0,
) -> LinearProbe:
    """The probe with the lowest cross-entropy on held-out images.

    Args:
      features: (M, F) float, at least one row.
      labels: (M,) int in [0, classes); a class may be missing.
      classes: N.
      groups: of each image; images of one group are in one fold. Empty: no groups.
      held: decides the penalty instead of 5-fold cross-validation.
      seed: of the folds.

    Raises:
      ValueError: no images, shapes that do not fit, or features that are not finite.
    """
    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    if features.ndim != 2 or not len(features) or labels.shape != features.shape[:1]:
        raise ValueError(
            "a probe needs `features` (M, F) with M > 0 and `labels` (M,), got "
            f"{features.shape} and {labels.shape}"
        )
    if not np.isfinite(features).all():
        raise ValueError("`features` must be finite: the network's weights or images are not")
    space = _Space.of(features)
    inside = space.into(features)
    if held is not None:
        found = [(slice(None), (space.into(held.features), held.labels))]
        how = f"{len(held.labels):,} validation images"
    else:
        folds = fold_numbers(labels, groups, seed=seed)
        count = int(folds.max()) + 1
        found = [(folds != k, (inside[folds == k], labels[folds == k])) for k in range(count)]
        how = f"{count}-fold cross-validation on {len(labels):,} training images"
    if len(found) == 1 and held is None:
        strength, top1, how = _DEFAULT_STRENGTH, None, "no images: there is one group only"
    else:
        parts = [(inside[rows], labels[rows], *out) for rows, out in found]
        strength, top1 = _chosen(parts, classes)
    kernel, bias = space.outside(*_fitted(inside, labels, classes, strength))
    return LinearProbe(kernel.astype(np.float32), bias.astype(np.float32), strength, top1, how)


def refitted(
    found: LinearProbe, features: Array, labels: Array, *, classes: int
) -> tuple[Array, Array]:
    """Kernel (F, N) and bias (N,), float32, fitted on other images with the penalty of `found`.

    Args:
      found: its penalty is used.
      features: (M, F) float.
      labels: (M,) int in [0, classes).
      classes: N.
    """
    features = np.asarray(features, np.float64)
    space = _Space.of(features)
    kernel, bias = space.outside(*_fitted(space.into(features), labels, classes, found.strength))
    return kernel.astype(np.float32), bias.astype(np.float32)


def fold_numbers(labels: Array, groups: Sequence[str] = (), *, seed: int = 0) -> Array:
    """The fold of each image, (M,) int: 5 folds, or fewer if there are fewer groups.

    The groups of each class are distributed round-robin, so that every fold has its share.
    """
    names = np.asarray(groups if len(groups) else np.arange(len(labels)))
    _, first, member = np.unique(names, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(first))
    order = shuffled[np.argsort(np.asarray(labels)[first[shuffled]], kind="stable")]
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % _FOLDS
    return fold[member.reshape(-1)]


@dataclass(frozen=True)
class _Space:
    """Centered and scaled features, in at most as many dimensions as there are images.

    The best kernel is a linear combination of the features of images, so nothing is lost, and 100
    images with 1,280 features need a tenth of the time.
    """

    center: Array
    scale: float
    basis: Array | None

    @classmethod
    def of(cls, features: Array) -> "_Space":
        center = features.mean(axis=0)
        away = features - center
        scale = float(np.sqrt((away**2).sum(axis=1).mean())) or 1.0
        few = len(features) < features.shape[1]
        return cls(center, scale, np.linalg.qr(away.T)[0] if few else None)

    def into(self, features: Array) -> Array:
        away = (np.asarray(features, np.float64) - self.center) / self.scale
        return away if self.basis is None else away @ self.basis

    def outside(self, kernel: Array, bias: Array) -> tuple[Array, Array]:
        kernel = (kernel if self.basis is None else self.basis @ kernel) / self.scale
        return kernel, bias - self.center @ kernel


def _chosen(parts: list[tuple[Array, Array, Array, Array]], classes: int) -> tuple[float, float]:
    """The strength with the lowest cross-entropy over all held-out images, and its top-1."""
    losses, hits = np.zeros(len(STRENGTHS)), np.zeros(len(STRENGTHS))
    for features, labels, out, truth in parts:
        start = None
        for index, strength in enumerate(STRENGTHS):
            kernel, bias = start = _fitted(
                features, labels, classes, strength, start=start, effort=_ROUGH
            )
            scores = special.softmax(out @ kernel + bias, axis=1)
            own = scores[np.arange(len(truth)), truth]
            losses[index] -= np.log(np.maximum(own, _LEAST)).sum()
            hits[index] += (scores.argmax(axis=1) == truth).sum()
    best = int(losses.argmin())
    return STRENGTHS[best], float(hits[best] / sum(len(part[3]) for part in parts))


def _fitted(
    features: Array,
    labels: Array,
    classes: int,
    strength: float,
    *,
    start: tuple[Array, Array] | None = None,
    effort: tuple[int, float] = _EXACT,
) -> tuple[Array, Array]:
    """Kernel (F, N) and bias (N,) at the unique minimum, by L-BFGS from `start`."""
    count, width = features.shape
    wanted = np.eye(classes)[labels]
    penalty = 1.0 / (strength * count)

    def loss(flat: Array) -> tuple[float, Array]:
        kernel, bias = flat[: width * classes].reshape(width, classes), flat[width * classes :]
        logits = features @ kernel + bias
        logs = logits - special.logsumexp(logits, axis=1, keepdims=True)
        value = -(wanted * logs).sum() / count + 0.5 * penalty * (kernel**2).sum()
        slope = (np.exp(logs) - wanted) / count
        return value, np.concatenate(
            [(features.T @ slope + penalty * kernel).ravel(), slope.sum(axis=0)]
        )

    first = start or (np.zeros((width, classes)), np.zeros(classes))
    found = optimize.minimize(
        loss,
        np.concatenate([first[0].ravel(), first[1]]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": effort[0], "gtol": effort[1], "ftol": effort[1]},
    ).x
    return found[: width * classes].reshape(width, classes), found[width * classes :]
