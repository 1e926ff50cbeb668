"""Writes a bundle (see `core.bundle`): decode, resize, normalize, network, softmax, labels.

The SavedModel decodes bytes with `trainers.data.preprocess`, the same functions as evaluation, so
that the pixels of a client's image are those of evaluation, bit for bit.
"""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from core import bundle
from trainers.config import Config, config_hash, to_dict
from trainers.config_keys import values_with
from trainers.data import features
from trainers.data.features import DatasetInfo
from trainers.data.orientation import UPRIGHT
from trainers.data.preprocess import Preprocessing, eval_images
from trainers.identity.plugin_code import counted_files
from trainers.identity.stack import git_commit, stack
from trainers.keras import keras
from trainers.models import embedding_model
from trainers.registry import compressors
from trainers.training.trained import Trained


class _Serving(tf.Module):
    """The signatures of one network; has variables, not Keras objects."""

    def __init__(self, model: keras.Model, config: Config, info: DatasetInfo, labels: Path) -> None:
        super().__init__()
        self._network = model.variables  # Tracked, so that they are saved.
        self._labels = tf.saved_model.Asset(str(labels))
        self._names = tf.constant(info.classes)
        self._call = _hidden(model)
        self._embed = _hidden(embedding_model(model))
        self._config = _hidden(config)
        self._top_k = min(config.export.top_k, info.num_classes)
        self._upright = info.exif == UPRIGHT

    def _outputs(self, network: keras.Model, images: tf.Tensor) -> tf.Tensor:
        """(B,...) float32 outputs of a network for uint8 (B,H,W,3); B may be 0."""
        count = tf.shape(images)[0]
        # Fused convolutions of oneDNN fail on an empty batch, so an image of zeros replaces it. A
        # branch would prevent the fusion.
        blank = tf.zeros([tf.cast(count == 0, tf.int32), *images.shape[1:]], images.dtype)
        filled = tf.concat([images, blank], axis=0)
        outputs = network(tf.cast(filled, tf.float32), training=False)
        return tf.cast(outputs, tf.float32)[:count]

    def _scores(self, images: tf.Tensor) -> tf.Tensor:
        """(B,N) softmax scores of uint8 (B,H,W,3); B may be 0."""
        return tf.nn.softmax(self._outputs(self._call(), images))

    def preprocess(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """(B,) encoded images to uint8 (B,H,W,3)."""
        how = Preprocessing.of(self._config().data)
        images = eval_images(image_bytes, how, upright=self._upright)
        return {"images": images}

    def predict_tensor(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """uint8 (B,H,W,3) to softmax scores (B,N)."""
        return {"scores": self._scores(images)}

    def predict_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """(B,) encoded images to the top k."""
        scores = self._scores(self.preprocess(image_bytes)["images"])
        top, classes = tf.math.top_k(scores, k=self._top_k)
        return {"scores": top, "classes": classes, "labels": tf.gather(self._names, classes)}

    def predict_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """(B,) serialized tf.Examples with `image/encoded` to the top k."""
        parsed = tf.io.parse_example(
            examples, {features.IMAGE: tf.io.FixedLenFeature([], tf.string)}
        )
        return self.predict_bytes(parsed[features.IMAGE])

    def predict_embeddings(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """(B,) encoded images to the features before the classifier, (B,D)."""
        images = self.preprocess(image_bytes)["images"]
        return {"embeddings": self._outputs(self._embed(), images)}


def _hidden(value: Any) -> Callable[[], Any]:
    """`value` in a closure, so that tf.Module does not save it with the SavedModel."""
    return lambda: value


def write_saved_model(model: keras.Model, config: Config, info: DatasetInfo, out: Path) -> None:
    """Writes the SavedModel with its signatures and `assets/labels.txt` into `out`.

    A network without one of `trainers.models.HEADS` has no `predict_embeddings`.
    """
    out.mkdir(parents=True, exist_ok=True)
    labels = out / "labels.txt"
    labels.write_text("\n".join(info.classes) + "\n", encoding="utf-8")
    module = _Serving(model, config, info, labels)
    height, width = config.data.image_size
    strings = tf.TensorSpec([None], tf.string, name=bundle.INPUT_BYTES)
    pixels = tf.TensorSpec([None, height, width, 3], tf.uint8, name="images")
    examples = tf.TensorSpec([None], tf.string, name="examples")
    signatures = {
        bundle.SIGNATURE_BYTES: tf.function(module.predict_bytes, [strings]),
        bundle.SIGNATURE_PREPROCESS: tf.function(module.preprocess, [strings]),
        bundle.SIGNATURE_TENSOR: tf.function(module.predict_tensor, [pixels]),
        bundle.SIGNATURE_EXAMPLES: tf.function(module.predict_examples, [examples]),
    }
    if embedding_size(model):
        signatures[bundle.SIGNATURE_EMBEDDINGS] = tf.function(module.predict_embeddings, [strings])
    tf.saved_model.save(module, str(out), signatures=signatures)
    labels.unlink()


def embedding_size(model: keras.Model) -> int:
    """D of the features before the classifier; 0 for a network without a classifier layer."""
    found = embedding_model(model)
    return 0 if found is None else int(found.output_shape[-1])


def write_warmup(encoded: list[bytes], name: str, out: Path) -> None:
    """Writes `assets.extra/tf_serving_warmup_requests`: one Predict request per image."""
    path = out / bundle.WARMUP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for data in encoded:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = name
            request.model_spec.signature_name = bundle.SIGNATURE_BYTES
            request.inputs[bundle.INPUT_BYTES].CopyFrom(tf.make_tensor_proto([data], tf.string))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())


def describe_variant(path: Path, name: str, *, sparsity: float = 0.0) -> bundle.Variant:
    """Measures one TFLite file for the manifest."""
    method, _, dtype = name.rpartition("_")
    return bundle.Variant(
        name=name,
        method=method,
        dtype=dtype,
        size_bytes=path.stat().st_size,
        gzip_bytes=bundle.gzip_size(path),
        sparsity=sparsity,
    )


@dataclass(frozen=True)
class ConvertedFile:
    """A TFLite file for the manifest; `figures` and `rewrites` are those of `ConversionResult`."""

    variant: bundle.Variant
    figures: dict[str, Any]
    rewrites: list[dict[str, Any]]


def seal_draft(
    out: Path, trained: Trained, files: Sequence[ConvertedFile], *, recommended: str
) -> bundle.Manifest:
    """Copies the recommended variant to `model.tflite` and writes `manifest.json` last."""
    config, info = trained.config, trained.info
    pixels = values_with(config, "pixels")["data"]
    height, width = pixels.pop("image_size")
    manifest = bundle.Manifest(
        name=config.name,
        task=config.task,
        num_classes=info.num_classes,
        input={
            "height": height,
            "width": width,
            **pixels,
            "exif": info.exif,
        },
        top_k=min(config.export.top_k, info.num_classes),
        variants=tuple(one.variant for one in files),
        recommended=recommended,
        config=to_dict(config),
        config_hash=config_hash(config),
        git_commit=git_commit(),
        stack=stack(),
        data_fingerprint=info.fingerprint,
        data={
            "name": info.name,
            "source": info.source,
            "splits": {name: {"examples": one.examples} for name, one in info.splits.items()},
        },
        weights_origin=trained.weights_origin,
        plugins=list(map(str, counted_files())),
        methods={
            one.method: compressors.get(one.method).title
            for one in (file.variant for file in files)
        },
        conversion={one.variant.name: {**one.figures, "rewrites": one.rewrites} for one in files},
        linear_probe=_linear_probe(trained),
        embedding_size=embedding_size(trained.model),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    return bundle.seal(out, manifest)


def _linear_probe(trained: Trained) -> dict[str, Any]:
    """The manifest's entry about the linear probe; empty without one."""
    found = trained.probe
    return {"shipped": found.shipped, "why": found.why, "val_top1": found.val_top1} if found else {}
