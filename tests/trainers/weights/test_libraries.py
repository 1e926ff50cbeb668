"""Weights of timm, torchvision, Hugging Face and JAX: our network has the logits of theirs."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from trainers.weights import WeightsError, initialize, looks_like

VIT = {"patch": 8, "width": 24, "depth": 2, "heads": 3}
HALF = {"mean": (127.5,) * 3, "std": (127.5,) * 3}
# Fixture -> (our model, its options, image size, file).
CASES = {
    "timm_vit": ("vit", {**VIT, "layer_scale": 0.1}, 32),
    "timm_vit_late_token": ("vit", VIT, 32),
    "timm_deit": ("deit", VIT, 32),
    "torchvision_resnet18": ("resnet18", {"width": 4}, 64),
    "timm_resnet50d": ("resnet50d", {"width": 2}, 64),
    "hf_vit": ("vit", VIT, 32),
    "hf_deit": ("deit", VIT, 32),
    "hf_resnet50": ("resnet50", {"width": 2}, 64),
    "torchvision_vit": ("vit", VIT, 32),
    "jax_vit": ("vit", VIT, 32),
}


@pytest.fixture
def file_of(weights_data):
    """Fixture's name -> its weights file."""
    return lambda name: next(
        path for path in (weights_data / name).iterdir() if path.suffix in (".safetensors", ".npz")
    )


@pytest.mark.parametrize("name", CASES)
def test_the_logits_are_theirs(name, make, their_logits, file_of):
    kind, options, size = CASES[name]
    model, config = make(kind, size, **options)
    report = initialize(model, file_of(name), config)
    logits = model(their_logits[f"images_{size}"], training=False)
    scale = np.abs(their_logits[name]).max()
    np.testing.assert_allclose(logits, their_logits[name], atol=1e-5 * scale, rtol=1e-4)
    assert {row.ours for row in report.rows if row.ours} == {
        f"{layer.name}/{weight.name.split('/')[-1][:-2]}"
        for layer in model.layers
        for weight in layer.weights
    }


def test_another_size_interpolates_positions_as_timm_does(make, their_logits, file_of):
    model, config = make("vit", 48, **VIT, layer_scale=0.1)
    report = initialize(model, file_of("timm_vit"), config)
    logits = model(their_logits["images_48"], training=False)
    np.testing.assert_allclose(logits, their_logits["timm_vit_48px"], atol=1e-4)
    assert any("interpolated 4x4 to 6x6" in row.action for row in report.rows)


@pytest.mark.parametrize("data", [HALF, {"mean": (100.0, 120.0, 90.0), "std": (1.0, 300.0, 50.0)}])
def test_a_vit_takes_up_any_normalization(data, make, their_logits, file_of):
    model, config = make("vit", data=data, **VIT)
    report = initialize(model, file_of("hf_vit"), config)
    logits = model(their_logits["images_32"], training=False)
    np.testing.assert_allclose(logits, their_logits["hf_vit"], atol=2e-4)
    assert any("folded" in note for note in report.notes) == (data is not HALF)


def test_a_resnet_takes_up_another_deviation_and_reports_another_mean(make, their_logits, file_of):
    data = {"std": (1.0, 2.0, 3.0)}
    model, config = make("resnet18", 64, data=data, width=4)
    initialize(model, file_of("torchvision_resnet18"), config)
    logits = model(their_logits["images_64"], training=False)
    np.testing.assert_allclose(logits, their_logits["torchvision_resnet18"], atol=1e-3)
    model, config = make("resnet18", 64, data=HALF, width=4)
    report = initialize(model, file_of("torchvision_resnet18"), config)
    assert any("set data.mean=123.675,116.28,103.53" in note for note in report.notes)


def test_an_unknown_normalization_is_reported(make, weights_data, tmp_path):
    save_file(
        load_file(weights_data / "timm_deit" / "model.safetensors"), tmp_path / "deit.safetensors"
    )
    model, config = make("deit", **VIT)
    report = initialize(model, tmp_path / "deit.safetensors", config)
    assert any("does not declare the normalization of images" in note for note in report.notes)


def test_other_classes_replace_the_head_and_nothing_else(make, their_logits, file_of):
    model, config = make("resnet18", 64, classes=3, width=4)
    before = model.get_layer("logits").kernel.numpy()
    report = initialize(model, file_of("torchvision_resnet18"), config)
    np.testing.assert_array_equal(model.get_layer("logits").kernel, before)
    rows = {row.ours: row for row in report.rows}
    assert rows["logits/kernel"].action.startswith("head replaced")
    assert rows["stem_conv/kernel"].action.startswith("transposed")
    assert "7 classes in the file, 3 here" in "\n".join(report.lines())
    assert "100 weights loaded, 2 random" in report.summary()


def test_wrappers_and_other_dtypes_do_not_matter(make, their_logits, file_of, tmp_path):
    wrapped = {f"module.{k}": v for k, v in load_file(file_of("timm_vit_late_token")).items()}
    save_file(wrapped, tmp_path / "vit.safetensors")
    model, config = make("vit", **VIT)
    initialize(model, tmp_path / "vit.safetensors", config)
    logits = model(their_logits["images_32"], training=False)
    np.testing.assert_allclose(logits, their_logits["timm_vit_late_token"], atol=1e-4)


def test_another_architecture_names_every_tensor_and_changes_nothing(make, file_of):
    model, config = make("resnet18", width=4)
    before = model.get_weights()
    with pytest.raises(WeightsError) as caught:
        initialize(model, file_of("timm_deit"), config)
    message = str(caught.value)
    assert "a deit of width 24, depth 2, patch 8" in message.splitlines()[0]
    assert "model.name=resnet18" in message.splitlines()[0]
    for name in load_file(file_of("timm_deit")):
        assert name in message
    for layer in model.layers:
        for weight in layer.weights:
            assert f"{layer.name}/{weight.name.split('/')[-1][:-2]} " in message or (
                layer.name == "logits"
            )
    for one, two in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("fixture", "name", "options", "message"),
    [
        ("timm_vit", "vit", VIT, "set model.options.layer_scale=1e-5"),
        ("hf_vit", "vit", {**VIT, "layer_scale": 0.1}, "set model.options.layer_scale=0"),
        ("hf_vit", "vit", {**VIT, "heads": 4}, "set model.options.heads=3"),
        ("jax_vit", "vit", {**VIT, "heads": 4}, "set model.options.heads=3"),
        ("hf_vit", "vit", {**VIT, "pool": "mean"}, "set model.options.pool=token"),
        ("timm_deit", "vit", VIT, "set model.name=deit_"),
        ("hf_vit", "deit", VIT, "set model.name=vit_"),
        ("hf_vit", "vit", {**VIT, "depth": 3}, "block3_query/kernel 24x24"),
        ("hf_vit", "vit", {**VIT, "patch": 16}, "8x8x3x24 for patches/kernel 16x16x3x24"),
        (
            "hf_resnet50",
            "resnet50",
            {"width": 2, "variant": "v1"},
            "set model.options.variant=v1.5",
        ),
        ("hf_resnet50", "resnet50", {"width": 2, "bias": True}, "set model.options.bias=false"),
        ("timm_resnet50d", "resnet50", {"width": 2}, "conv1.3.weight 3x3x1x1"),
    ],
)
def test_what_does_not_fit_says_what_to_set(fixture, name, options, message, make, file_of):
    model, config = make(name, **options)
    with pytest.raises(WeightsError, match=message.replace(".", r"\.")):
        initialize(model, file_of(fixture), config)


def test_files_that_are_no_weights(make, tmp_path):
    model, config = make("vit", **VIT)
    for name, content, message in (
        ("model.pth", b"", "is empty"),
        ("model.txt", b"", r"must end in .*\.h5, "),
        ("cut.safetensors", b"\x10\0\0\0", "cannot be read as safetensors"),
        ("cut.npz", b"PK", "cannot be read as npz"),
        ("cut.h5", b"HDF", "cannot be read as h5"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=f"(?s){message}"):
            initialize(model, tmp_path / name, config)
    with pytest.raises(WeightsError, match="no such file"):
        initialize(model, tmp_path / "none.npz", config)
    np.savez(tmp_path / "other.npz", alpha=np.zeros(3), omega=np.zeros((2, 2)))
    with pytest.raises(WeightsError, match=r"(?s)unknown network.*alpha 3.*omega 2x2"):
        initialize(model, tmp_path / "other.npz", config)
    np.savez(tmp_path / "code.npz", alpha=np.array([{}], dtype=object))
    with pytest.raises(WeightsError, match="allow_pickle"):
        initialize(model, tmp_path / "code.npz", config)


def test_a_file_is_described_in_a_line(file_of):
    assert "a vit of width 24, depth 2, patch 8" in looks_like(file_of("jax_vit"))
    assert "model.name=resnet50d" in looks_like(file_of("timm_resnet50d"))
    assert "model.name=resnet18" in looks_like(file_of("torchvision_resnet18"))
