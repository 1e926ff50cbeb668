"""Canary traffic: a share of the requests that name no version goes to another version.

    --canary digits_cnn=stable:90,canary:10

The model config assigns labels, so a rollout is one edit of the labels. Requests with the same id
(`X-Request-Id` over REST, `x-request-id` in gRPC metadata) always go to the same version.
"""

import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from serving.server.errors import ServerError, ServingError
from serving.server.models.manager import ModelManager
from serving.server.observability.metrics import Metrics

ID_HEADER = "x-request-id"
_ARM = re.compile(r"(?P<target>[^:,=]+):(?P<weight>[0-9]+(?:\.[0-9]+)?)")


@dataclass(frozen=True)
class VersionRef:
    """A version by its number, or by its label."""

    text: str

    @property
    def version_and_label(self) -> tuple[int | None, str | None]:
        """(version, label), one of them None."""
        return (int(self.text), None) if self.text.isdigit() else (None, self.text)

    def is_served(self, models: ModelManager, model: str) -> bool:
        """Whether the version is loaded."""
        try:
            with models.use(model, *self.version_and_label):
                return True
        except ServingError:
            return False


@dataclass(frozen=True)
class Split:
    """The shares of the versions of a model.

    Attributes:
      model: its name.
      arms: (version, share), the largest share first; the shares add up to 1.
    """

    model: str
    arms: tuple[tuple[VersionRef, float], ...]


def read_split(text: str) -> Split:
    """The split of `MODEL=LABEL:WEIGHT,LABEL:WEIGHT`; a label may be a version's number.

    Raises:
      ServerError: another form, or weights that add up to 0.
    """
    model, _, arms = text.partition("=")
    found = [_ARM.fullmatch(arm.strip()) for arm in arms.split(",")]
    if not model or len(found) < 2 or not all(found):
        raise ServerError(f"--canary must be MODEL=LABEL:WEIGHT,LABEL:WEIGHT, got {text!r}")
    weights = {arm["target"]: float(arm["weight"]) for arm in found if arm}
    total = sum(weights.values())
    if len(weights) < len(found) or total <= 0:
        raise ServerError(f"--canary {text}: each label once, and one weight above 0")
    ordered = sorted(weights.items(), key=lambda item: -item[1])
    return Split(model, tuple((VersionRef(target), weight / total) for target, weight in ordered))


class Canary:
    """Chooses the version of every request that names none."""

    def __init__(
        self,
        splits: Sequence[Split],
        models: ModelManager,
        metrics: Metrics,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Creates the canary.

        Args:
          splits: one per model.
          models: the served models.
          metrics: count `canary_count` by model and label.
          draw: returns a number in [0, 1) for a request without an id.

        Raises:
          ServerError: two splits of one model.
        """
        self._splits = {split.model: split for split in splits}
        if len(self._splits) < len(splits):
            raise ServerError("--canary names a model twice; put all its labels into one")
        self._models = models
        self._metrics = metrics
        self._draw = draw

    def choose(self, model: str, headers: Mapping[str, str]) -> tuple[int | None, str | None]:
        """(version, label); the largest arm replaces one that is not loaded.

        Args:
          model: its name.
          headers: of the request, by lower-case name.
        """
        split = self._splits.get(model)
        if split is None:
            return None, None
        identity = headers.get(ID_HEADER)
        point = self._draw() if identity is None else share_point(model, identity)
        target = _arm_at(split, point)
        if not target.is_served(self._models, model):
            target = split.arms[0][0]
        self._metrics.count("canary_count", model_name=model, label=target.text)
        return target.version_and_label


def share_point(model: str, identity: str) -> float:
    """A hash of the id in [0, 1): equal in every process, different for every model."""
    text = f"{model}\0{identity}".encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _arm_at(split: Split, point: float) -> VersionRef:
    for target, share in split.arms:
        if point < share:
            return target
        point -= share
    return split.arms[0][0]
