"""Predictions of the variants of a bundle for a split of a data set; no TFX."""

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from core.bundle import INPUT_BYTES, SAVED_MODEL, SIGNATURE_EMBEDDINGS, Bundle
from serving.engines.engine import load_saved_model, open_engine
from trainers.config import from_dict
from trainers.data import pipeline
from trainers.data.features import DatasetInfo
from trainers.data.reader import parse_records, read_serialized, usable
from trainers.evaluation.embeddings import EmbeddingError, Embeddings
from trainers.evaluation.predictions import Predictions, predict, with_labels_of

#: Column of the live model, the version that the bundle store serves.
BASELINE = "baseline"
#: Column of the best version ever pushed, if it is another one and better on this split.
BEST = "best"
#: Column of the linear probe on the features that the candidate's training started from.
PROBE = "probe"
#: Columns of reference models, which are not variants of the candidate.
REFERENCES = (BASELINE, BEST, PROBE)

#: Prefix of a method's name: the column of its Keras model run in float, which does not ship.
OWN_FLOAT = "float/"


def predict_variant(
    bundle: Bundle,
    variant: str,
    data_dir: Path,
    split: str,
    *,
    batches: int = -1,
    paired: bool = True,
) -> Predictions:
    """The predictions of one variant, preprocessed by its own bundle's configuration.

    Labels index the bundle's classes, which match the data set's by name.

    Args:
      bundle: holds the variant.
      variant: its name.
      data_dir: the records.
      split: the split to predict.
      batches: the first batches of `eval.batch` images only; -1 is all.
      paired: whether labels index the bundle's classes; False keeps those of the data set, for a
        bundle with other classes.

    Raises:
      DatasetError: a class of the data set that the bundle does not have, if `paired`.
      DataError: a record that cannot be used; names the file and the record.
      EngineError: the variant cannot be loaded or run.
    """
    config = from_dict(bundle.manifest.config)
    config = replace(config, data=replace(config.data, dir=str(data_dir)))
    info = DatasetInfo.load(data_dir)
    what = f"the bundle {bundle.manifest.name}"
    positions = info.class_positions(bundle.labels, what) if paired else None
    with open_engine(bundle, variant) as engine, pipeline.named_errors(config, info, split):
        chosen = pipeline.eval_batches(config, info, split).take(batches)
        found = predict(engine.predict_images, chosen)
    return with_labels_of(found, positions)


def predict_variants(bundle: Bundle, data_dir: Path, split: str) -> dict[str, Predictions]:
    """Column -> predictions, for the SavedModel and every TFLite variant.

    Args:
      bundle: the candidate.
      data_dir: the records.
      split: the split to predict.
    """
    names = [SAVED_MODEL, *(v.name for v in bundle.manifest.variants)]
    return {name: predict_variant(bundle, name, data_dir, split) for name in names}


def embed_bundle(bundle: Bundle, data_dir: Path, split: str) -> Embeddings:
    """The embeddings that a bundle's signature `predict_embeddings` returns, from encoded images.

    Args:
      bundle: with the signature.
      data_dir: the records.
      split: of the records.

    Raises:
      EmbeddingError: the bundle does not have the signature.
      DatasetError, DataError, EngineError: as `predict_variant`.
    """
    if not bundle.manifest.embedding_size:
        raise EmbeddingError(
            f"the bundle {bundle.manifest.name} has no signature {SIGNATURE_EMBEDDINGS}, as it was "
            "exported by an earlier version of sightline or its network has no classifier layer; "
            "export the model again, or give its folder of `sightline train`"
        )
    config = from_dict(bundle.manifest.config)
    config = replace(config, data=replace(config.data, dir=str(data_dir)))
    info = DatasetInfo.load(data_dir)
    positions = np.array(info.class_positions(bundle.labels, f"the bundle {bundle.manifest.name}"))
    records = read_serialized(usable(config, info, split)).batch(config.eval.batch)
    parts = []
    with (
        contextlib.closing(load_saved_model(bundle.path)) as engine,
        pipeline.named_errors(config, info, split),
    ):
        for batch in records:
            parsed = parse_records(batch, info=info)
            inputs = {INPUT_BYTES: parsed.encoded.numpy()}
            features = engine.run(SIGNATURE_EMBEDDINGS, inputs)["embeddings"]
            ids = np.array([one.decode() for one in parsed.id.numpy()], object)
            parts.append((ids, positions[parsed.label.numpy()], features))
    return Embeddings(*(np.concatenate(column) for column in zip(*parts, strict=True)))
