"""The linear probe of a run with initial weights: fitted, fine-tuned, compared with the result.

Fine-tuning from a random classifier distorts good features; starting from a probe does not (Kumar
et al. 2022, arXiv 2202.10054: LP-FT). On few images it is often no better than the probe. So such a
run fits a probe on the features of its frozen backbone, and saves the backbone with the probe as
its model unless fine-tuning is better on the validation images by more than one standard error of
the paired difference (the one-standard-error rule of Breiman et al. 1984, section 3.4.3): with g
images gained and l lost, g > l and (g - l)^2 > g + l. Ties go to the probe, which is cheaper and
cannot have spoilt the backbone. The test split is left to the gates.

A probe that becomes the model of a small set is fitted once more, with the same penalty, on train
and validation together; every figure of the validation split is of the fit on train alone.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.config import Config
from trainers.data import features, pipeline
from trainers.data.features import DatasetInfo
from trainers.distributed.strategy import from_chief
from trainers.evaluation.predictions import Predictions, predict
from trainers.keras import keras
from trainers.models import HEADS
from trainers.registry import tasks
from trainers.training.checkpoint import Checkpoints, Row
from trainers.training.forward import Forward, predict_split
from trainers.training.linear_probe import Held, fit_probe, refitted

#: Value of `train.head` that starts training from a linear probe.
PROBE = "probe"

#: A probe is fitted on at most so many training images, sampled by `train.seed`.
MOST_IMAGES = 10_000
# With at least so many images, the penalty is chosen on validation images instead of five folds.
_MANY_IMAGES = 2_000
_CLASSIFIER = "logits"
_SHIPS = "the frozen backbone with the linear probe as its last layer is the model"


@dataclass(frozen=True)
class Probe:
    """The linear probe of a run and its figures.

    Attributes:
      images: training images that it was fitted on.
      total: training images of the data set.
      strength: its inverse penalty, see `trainers.training.linear_probe`.
      how: description of the images that it was chosen on.
      held_out: top-1 on those images; None if there were none.
      val_top1: on the validation split.
      val_loss: cross-entropy on the validation split.
      right: a 1 for each validation image that it classifies correctly, else a 0, in file order.
      given: the initial weights include a classifier for these classes, from which training starts;
        only the gates use the probe.
      shipped: the probe is the model of the run.
      why: the comparison with fine-tuning in one sentence; empty before the comparison.
      epochs: of fine-tuning before that comparison.
      refitted: number of train and validation images of the final fit if it ships; 0 is train only.
    """

    images: int
    total: int
    strength: float
    how: str
    held_out: float | None
    val_top1: float
    val_loss: float
    right: str = ""
    given: bool = False
    shipped: bool = False
    why: str = ""
    epochs: int = 0
    refitted: int = 0

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Probe":
        """Reads the result of `asdict`; unknown keys are ignored."""
        known = {one.name for one in fields(cls)}
        return cls(**{key: value for key, value in raw.items() if key in known})

    @property
    def row(self) -> Row:
        """The figures of the probe in the form of an epoch."""
        return {"val_top1": self.val_top1, "val_loss": self.val_loss}

    @property
    def wrong(self) -> int:
        """Number of validation images that it misclassifies."""
        return self.right.count("0")

    def line(self) -> str:
        """The line that is printed before training."""
        on = f"{self.images:,} training images"
        if self.images < self.total:
            on = f"{self.images:,} of {self.total:,} training images"
        held = f", {self.held_out:.1%} by {self.how}" if self.held_out is not None else ""
        right = len(self.right) - self.wrong
        return (
            f"linear probe on the frozen features of {on}{held}; right on {right} of "
            f"{len(self.right)} validation images"
        )

    def compared(self, predictions: Predictions) -> "Probe":
        """This probe with the decision between it and fine-tuning.

        Args:
          predictions: of the fine-tuned model on the validation images, in file order.
        """
        ours = np.frombuffer(self.right.encode(), np.uint8) == ord("1")
        theirs = predictions.scores.argmax(axis=1) == predictions.labels
        gained, lost = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
        better = gained > lost and (gained - lost) ** 2 > gained + lost
        counts = (
            f"fine-tuning is right on {int(theirs.sum())} of {len(ours)} validation images, the "
            f"linear probe on {int(ours.sum())} ({gained} gained, {lost} lost)"
        )
        verdict = "better by more than one standard error, so the fine-tuned model is kept"
        if not better and self.given:
            verdict = "not better by more than one standard error, and kept as it has a classifier"
            verdict += " of these classes from the start"
        elif not better:
            verdict = f"not better by more than one standard error, so {_SHIPS}"
        shipped = not better and not self.given
        return replace(self, shipped=shipped, why=f"{counts}: {verdict}")


class ProbeStage:
    """The probe of one run; does nothing for a run without one.

    Attributes:
      probe: None before `begin`, and for a run without one.
    """

    def __init__(
        self,
        model: keras.Model,
        config: Config,
        info: DatasetInfo,
        strategy: tf.distribute.Strategy,
        checkpoints: Checkpoints,
    ) -> None:
        self._model, self._config, self._info = model, config, info
        self._strategy, self._checkpoints = strategy, checkpoints
        self.probe: Probe | None = None

    @property
    def suffices(self) -> bool:
        """Whether fine-tuning could not be better than the probe by the rule above."""
        wanted = self._config.train.head == PROBE
        return self.probe is not None and wanted and not self.probe.given and self.probe.wrong <= 1

    @property
    def ships_untrained(self) -> bool:
        """Whether the probe is the model, without fine-tuning."""
        return self.probe is not None and (self.suffices or not self._config.train.epochs)

    def resume(self) -> None:
        """Reads the probe that the run made before it was stopped."""
        found = self._checkpoints.read_probe()
        self.probe = Probe.from_json(found) if found else None
        if self.probe is not None and self.ships_untrained:
            self.probe = replace(self.probe, shipped=True, why=self._why_untrained(self.probe))

    def begin(self, start: Callable[[], list[str]], announce: Callable[[str], None]) -> None:
        """Initializes the model with `start`, and fits the probe or reads an existing one.

        Args:
          start: loads `model.init` into the model and returns lines to print.
          announce: called with these lines and one about the probe.
        """
        before = _classifiers(self._model)
        for line in start():
            announce(line)
        after = _classifiers(self._model)
        fresh = all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        if not self._applies(fresh):
            return
        if self._checkpoints.read_probe() is None:
            self._make(given=not fresh)
        # All workers read the chief's, as arithmetic may differ between machines.
        from_chief(self._strategy, [0.0])
        self.resume()
        if self.probe is None:
            return
        announce(self.probe.line())
        self._checkpoints.restore_probe()
        if self.probe.shipped:
            announce(self.probe.why)
        elif self._config.train.head != PROBE or self.probe.given:
            self._set_classifier(after)

    def decide(
        self,
        predict_validation: Callable[[], Predictions],
        announce: Callable[[str], None],
        *,
        epochs: int,
    ) -> None:
        """Compares the probe with the fine-tuned model and restores it unless that is better.

        Args:
          predict_validation: returns predictions of the present model.
          announce: called with the comparison, once.
          epochs: number of epochs trained.
        """
        if self.probe is None:
            return
        if not self.ships_untrained and (not self.probe.why or self.probe.epochs != epochs):
            compared = replace(self.probe.compared(predict_validation()), epochs=epochs)
            (shipped,) = from_chief(self._strategy, [float(compared.shipped)])
            self.probe = replace(compared, shipped=bool(shipped))
            self._checkpoints.keep_probe(asdict(self.probe))
            announce(self.probe.why)
        if self.probe.shipped:
            self._checkpoints.restore_probe()
            self._set_classifier(self._checkpoints.whole_probe() or _classifiers(self._model))

    def _applies(self, fresh: bool) -> bool:
        names = {layer.name for layer in self._model.layers}.intersection(HEADS)
        trains = self._config.train.epochs > 0
        return (
            self._config.task == features.CLASSIFICATION
            and names == {_CLASSIFIER}
            and (fresh or trains)
        )

    def _make(self, *, given: bool) -> None:
        train = self._features("train")
        validation = self._features("validation")
        some = np.random.default_rng(self._config.train.seed).permutation(len(validation.labels))
        some = some[:MOST_IMAGES] if len(train.labels) >= _MANY_IMAGES else some[:0]
        found = fit_probe(
            train.scores,
            train.labels,
            classes=self._info.num_classes,
            groups=self._groups(train),
            held=Held(validation.scores[some], validation.labels[some]) if len(some) else None,
            seed=self._config.train.seed,
        )
        self._set_classifier([found.kernel, found.bias])
        logits = validation.scores @ found.kernel + found.bias
        predictions = replace(validation, scores=tf.nn.softmax(logits).numpy())
        figures = tasks.get(self._config.task).evaluate(predictions)
        right = predictions.scores.argmax(axis=1) == predictions.labels
        made = Probe(
            images=len(train.labels),
            total=self._info.splits["train"].examples,
            strength=found.strength,
            how=found.how,
            held_out=found.top1,
            val_top1=figures["top1"],
            val_loss=figures["loss"],
            right="".join("01"[int(one)] for one in right),
            given=given,
        )
        whole, images = [], len(train.labels) + len(validation.labels)
        if images <= _MANY_IMAGES:
            both = (
                np.concatenate([train.scores, validation.scores]),
                np.concatenate([train.labels, validation.labels]),
            )
            whole = list(refitted(found, *both, classes=self._info.num_classes))
            made = replace(made, refitted=images)
        self._checkpoints.save_probe(asdict(made), whole)

    def _why_untrained(self, probe: Probe) -> str:
        if not self._config.train.epochs:
            return f"{_SHIPS}: train.epochs=0"
        return (
            f"{_SHIPS}: it is right on {len(probe.right) - probe.wrong} of {len(probe.right)} "
            "validation images, so fine-tuning could not be better by more than one standard error"
        )

    def _features(self, split: str) -> Predictions:
        """Inputs of the classifier, as `scores`, of a split or of a sample of `MOST_IMAGES`."""
        network = keras.Model(self._model.input, self._model.get_layer(_CLASSIFIER).input)
        forward = Forward(network, self._config, self._strategy, convert=_as_float32)
        if split != "train" or self._info.splits["train"].examples <= MOST_IMAGES:
            return predict_split(forward, self._config, self._info, split)
        with pipeline.named_errors(self._config, self._info, split):
            drawn = pipeline.drawn_batches(
                self._config, self._info, MOST_IMAGES, batch=forward.batch
            )
            return predict(forward, drawn)

    def _groups(self, train: Predictions) -> list[str]:
        """The group of each image; empty if the records have none."""
        if not self._info.group:
            return []
        found = {}
        for record in pipeline.raw_examples(self._config.data.dir, "train"):
            values = tf.train.Example.FromString(record).features.feature
            identity, group = (
                values[key].bytes_list.value for key in (features.ID, features.GROUP)
            )
            if identity and group:
                found[identity[0].decode()] = group[0].decode()
        return [found.get(one, one) for one in train.ids]

    def _set_classifier(self, values: list[np.ndarray]) -> None:
        weights = [w for name in HEADS for w in _weights(self._model, name)]
        for weight, value in zip(weights, values, strict=True):
            weight.assign(value)


def _weights(model: keras.Model, name: str) -> list[tf.Variable]:
    return next((list(one.weights) for one in model.layers if one.name == name), [])


def _classifiers(model: keras.Model) -> list[np.ndarray]:
    return [tf.convert_to_tensor(w).numpy() for name in HEADS for w in _weights(model, name)]


def _as_float32(outputs: Any) -> np.ndarray:
    return tf.cast(outputs, tf.float32).numpy()
