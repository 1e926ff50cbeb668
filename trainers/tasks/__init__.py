"""The tasks, such as classification, behind one protocol that the training loop uses."""

from typing import Any, Protocol

import numpy as np

from trainers.config import Config
from trainers.data.features import DatasetInfo
from trainers.evaluation.predictions import Predictions


class Task(Protocol):
    """Builds, scores and names the metrics of one kind of recognition."""

    def build(self, config: Config, info: DatasetInfo) -> Any:
        """The network with fresh weights: images (B,H,W,3) in [0, 255] to raw outputs."""
        ...

    def loss(self, config: Config) -> Any:
        """A Keras loss on labels and raw outputs."""
        ...

    def metrics(self) -> list[Any]:
        """Fresh Keras metrics for the progress line."""
        ...

    def scores(self, outputs: Any) -> np.ndarray:
        """Raw outputs of a batch as the exported model returns them."""
        ...

    def evaluate(self, predictions: Predictions) -> dict[str, float]:
        """Validation figures over whole predictions: `top1`, to select by, and `loss`."""
        ...
