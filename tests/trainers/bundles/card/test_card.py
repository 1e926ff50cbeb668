import html
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from core import figures
from core.bundle import Manifest, Variant
from trainers.bundles.card.card_html import render_card

MANIFEST = Manifest(
    name="digits_cnn",
    task="classification",
    num_classes=10,
    input={"height": 16, "width": 24, "crop_fraction": 1.0},
    top_k=5,
    variants=(
        Variant("none_fp32", "none", "fp32", 158_400, 143_900),
        Variant("pqat_int8", "pqat", "int8", 45_000, 14_100, 0.8),
    ),
    recommended="pqat_int8",
    methods={"pqat": "pruned, then trained for quantization"},
    config={"name": "digits_cnn", "model": {"name": "cnn"}},
    config_hash="0123456789abcdef",
    git_commit="c0ffee",
    stack={"tensorflow": "2.16.2"},
    data_fingerprint="9f2c41aa",
    content_digest="77ab01cc",
    metrics={
        "saved_model": {"top1": [0.986, 0.97, 0.994], "cross_entropy": [0.061, 0.04, 0.08]},
        "pqat_int8": {"top1": 0.981},
    },
    benchmark={"pqat_int8": {"latency_ms_p50": 0.0512, "latency_ms_p99": 0.0831}},
    created="2026-11-22T16:03:30+00:00",
)
MODEL = {
    "architecture": "cnn",
    "parameters": 36_218,
    "multiply_adds": 4_100_000,
    "slices": [
        {"key": "slice/contrast", "value": "high", "examples": 346, "top1": [0.99, 0.98, 1.0]},
        {"key": "slice/contrast", "value": "low", "examples": 14, "top1": [0.929, 0.7, 1.0]},
        {"key": "slice/contrast", "value": "none", "examples": 0, "top1": None},
    ],
    "gates": [
        {"name": "value/top1", "verdict": "held", "passed": True, "waived": ""},
        {
            "name": "change/top1",
            "verdict": "not decided",
            "passed": True,
            "waived": "accepted: the estimate is not lower",
            "detail": "95 % interval -0.0713 to +0.0713",
        },
    ],
    "excludable_drop": {"images": 50, "at_best": 0.0713, "excluded": {"baseline": 0.101}},
    "data": {"name": "digits", "source": "scans", "splits": {"test": {"examples": 360}}},
}


class _Reader(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)


def test_the_card_has_all_figures_and_facts():
    text = _Reader(render_card(MANIFEST, MODEL)).text

    for shown in (
        "digits_cnn",
        "36.2 k",
        "Intended use",
        "98.6 % 97.0 to 99.4",
        "0.061 0.040 to 0.080",
        "pruned, then trained for quantization, int8",
        "45.0 kB 14.1 kB 0.051 ms 0.083 ms",
        "test examples 360",
        "predict_tensor images uint8 (B, 16, 24, 3), RGB in [0, 255] scores float32 (B, 10)",
        "scores, classes, labels: (B, 5) each",
        "Of the run's 2 gates, 1 held.",
        "change/top1: not decided; accepted: the estimate is not lower; 95 % interval -0.0713",
        "50 test images can exclude a drop in top-1 of 7.1 points at best, where no image changes; "
        "they excluded 10.1 points against the live model.",
        "c0ffee",
        "9f2c41aa",
        "77ab01cc",
    ):
        assert shown in text, shown


def test_slices_come_worst_first_and_small_ones_are_marked():
    text = _Reader(render_card(MANIFEST, MODEL)).text
    low, high = text.index("slice/contrast = low"), text.index("slice/contrast = high")
    assert low < high
    assert text.count("fewer than 30 examples") == 1
    assert low < text.index("fewer than 30 examples") < high
    assert "slice/contrast = none" not in text


def test_a_manifest_alone_is_enough():
    bare = Manifest("m", "classification", 3, {}, 3, (), "saved_model")
    text = _Reader(render_card(bare, {})).text
    assert "No slice was evaluated." in text
    assert "The data set was not recorded." in text


def test_the_card_lists_the_embeddings_of_bundles_that_have_them():
    row = "predict_embeddings image_bytes (B,) embeddings float32 (B, 64)"
    assert row in _Reader(render_card(replace(MANIFEST, embedding_size=64), MODEL)).text
    assert "predict_embeddings" not in _Reader(render_card(MANIFEST, MODEL)).text


def test_the_card_is_small_offline_and_takes_names_as_text():
    hostile = "<script>alert(1)</script><img src=http://example.invalid/x onerror=a()>"
    manifest = replace(MANIFEST, name=hostile, stack={hostile: hostile})

    html = render_card(manifest, MODEL | {"architecture": hostile})

    reader = _Reader(html)
    assert not {"script", "img"} & set(reader.tags)
    assert hostile in reader.text
    assert "Content-Security-Policy" in html
    assert all(v == "data:," for k, v in reader.attributes if k in ("src", "href"))
    assert len(html) < 20_000


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (figures.size(412), "412 B"),
        (figures.size(45_000), "45.0 kB"),
        (figures.size(999_600), "1.00 MB"),
        (figures.size(4.117e9), "4.12 GB"),
        (figures.size(None), figures.DASH),
        (figures.milliseconds(0.0512), "0.051 ms"),
        (figures.milliseconds(12.44), "12.4 ms"),
        (figures.milliseconds(float("nan")), figures.DASH),
        (figures.duration(31.2), "31.2 s"),
        (figures.duration(59.97), "1 min 00 s"),
        (figures.duration(210.3), "3 min 30 s"),
        (figures.duration(7500), "2 h 05 min"),
        (figures.percent([0.983, 0.9, 1.0]), "98.3 %"),
        (figures.percent_interval([0.983, 0.9, 1.0]), "90.0 to 100.0"),
        (figures.percent_interval([0.983, None, 1.0]), ""),
        (figures.points([-0.0056, -0.014, 0.0001]), "-0.6"),
        (figures.points_interval([-0.0056, -0.014, 0.0001]), "-1.4 to 0.0"),
        (figures.points(True), figures.DASH),
        (figures.metric([0.0614, 0.04, 0.08], "nats"), "0.061"),
        (figures.metric_interval([0.0614, 0.04, 0.08], "nats"), "0.040 to 0.080"),
        (figures.metric(0.012, "fraction"), "1.2 %"),
        (figures.amount(25_557_032), "25.6 M"),
        (figures.amount(512), "512"),
        (figures.count(1797), "1,797"),
    ],
)
def test_figures_as_people_read_them(shown, expected):
    assert shown == expected


def test_the_card_names_the_starting_weights_and_their_license():
    origin = {
        "package": "some-weights",
        "version": "0.1.0",
        "file": "some.pth",
        "sha256": "5793",
        "license": "Apache-2.0",
    }
    card = render_card(replace(MANIFEST, weights_origin=origin), MODEL)
    row = '<tr><th scope="row">{}</th><td>{}</td></tr>'
    assert row.format("starting weights", "some-weights 0.1.0 some.pth") in card
    assert row.format("sha256 of the weights", "5793") in card
    assert row.format("license of the weights", "Apache-2.0") in card
    assert "starting weights" not in render_card(MANIFEST, MODEL)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({}, "the central 100.0 % of each side, stretched to the input's aspect; bilinear without"),
        (
            {"crop_fraction": 0.875, "resize": "antialias", "fit": "crop"},
            "the central 87.5 % of the largest box of the input's aspect; antialiased (triangle",
        ),
        (
            {"resize": "antialias", "fit": "stretch"},
            "each side, stretched to the input's aspect; anti",
        ),
    ],
)
def test_the_card_states_crop_and_resize(stated, words):
    """A bundle without the keys is one of a version that knew one way only."""
    manifest = replace(MANIFEST, input={**MANIFEST.input, **stated})
    text = " ".join(html.unescape(render_card(manifest, MODEL)).split())
    assert words in text
