"""Palettes: values per kernel, zeros, k-means against scikit-learn, size and determinism."""

import gzip

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from sklearn.cluster import KMeans

from trainers.compression.convert import ConversionJob, convert_all, save_for_conversion
from trainers.compression.rewrites import Conversion
from trainers.compression.rewrites.palette import on_palette
from trainers.compression.tflite_graph import constant, kernel_operators, unpack
from trainers.registry import compressors, rewrites

pytestmark = pytest.mark.onednn

TRAIN = 1437


@pytest.fixture(scope="module")
def content(trained, digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("palette")
    np.save(folder / "images.npy", digits[0][:32])
    saved = save_for_conversion(trained, folder / "saved")
    job = ConversionJob(
        "int8", saved, "int8", folder / "int8.tflite", (), folder / "images.npy", rewrites=()
    )
    (result,) = convert_all([job])
    assert result.ok, result.error
    return job.output.read_bytes()


def rewritten(content, name):
    conversion = Conversion("palette_int8", "int8", floats=bytes, reference=list)
    return rewrites.get(name).run(content, conversion)


def kernels(content):
    model = unpack(content)
    return [constant(model, int(one.inputs[1])) for one in kernel_operators(model)]


def top1(content, digits):
    runner = Interpreter(model_content=content, num_threads=1).get_signature_runner(
        "predict_tensor"
    )
    images, labels = digits[0][TRAIN:], digits[1][TRAIN:]
    found = [runner(images=image[None])["scores"][0].argmax() for image in images]
    return (np.array(found) == labels).mean()


@pytest.mark.parametrize("values", [8, 16])
def test_every_large_kernel_has_few_values_and_the_download_shrinks(values, content, digits):
    changed, facts = rewritten(content, f"palette{values}")
    large = 0
    for before, after in zip(kernels(content), kernels(changed), strict=True):
        assert before.shape == after.shape
        np.testing.assert_array_equal(before == 0, (after == 0) & (before == 0))
        if before.size >= 64 * values:
            large += 1
            assert len(np.unique(after[after != 0])) <= values
        else:
            np.testing.assert_array_equal(before, after)
    assert facts["kernels"] == large > 0
    sizes = [len(gzip.compress(one, 9, mtime=0)) for one in (content, changed)]
    assert facts["gzip_bytes"] == sizes
    assert sizes[1] < 0.85 * sizes[0]
    assert abs(len(changed) - len(content)) < 100
    assert rewritten(content, f"palette{values}")[0] == changed
    # Eight values cost this small network some points, which differ with its training.
    assert top1(changed, digits) > top1(content, digits) - {8: 0.1, 16: 0.03}[values]


def test_values_are_as_good_as_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    weights = np.clip(np.rint(rng.normal(0, 30, 5000)), -127, 127).astype(np.int8)
    weights[rng.random(5000) < 0.5] = 0
    found = on_palette(weights, 16)
    nonzero = weights != 0
    assert (found[~nonzero] == 0).all()
    column = weights[nonzero].astype(np.float64)[:, None]
    best = KMeans(16, n_init=10, random_state=0).fit(column)
    error = np.square(found[nonzero] - column[:, 0]).sum()
    # Rounding the values to int8 adds at most a quarter per weight.
    assert error < 1.15 * best.inertia_ + 0.25 * len(column)


def test_pruned_zeros_stay_zero_although_a_value_of_the_palette_is_near():
    weights = np.repeat(np.arange(41, dtype=np.int8), 30)
    found = on_palette(weights, 4)
    assert (found[weights == 0] == 0).all()
    assert (found[weights > 0] > 0).all()
    assert len(np.unique(found)) == 5


def test_few_values_stay_as_they_are():
    weights = np.tile(np.arange(-8, 8, dtype=np.int8), 100)
    np.testing.assert_array_equal(on_palette(weights, 16), weights)
    assert on_palette(np.zeros(100, np.int8), 8).sum() == 0


def test_the_methods_have_the_rewrite_and_the_trained_weights():
    for name in ("palette8", "palette16"):
        method = compressors.get(name)
        assert method.rewrites == (name,)
        assert method.has_trained_weights
        assert rewrites.get(name).dtypes == ("int8",)
