"""`sightline benchmark serving`: the order of measurements, one real run, and errors."""

import json

import pytest

from core.bundle import BundleError
from core.files import write_json
from serving.benchmark import server
from serving.benchmark.errors import BenchmarkError
from serving.benchmark.server import contenders, measure, round_order
from serving.server.scheduling.batching import read_batching_options


@pytest.mark.parametrize("batching", [True, False])
def test_everything_has_one_turn_a_round_in_an_order_that_moves(batching):
    plan = contenders(batching=batching)
    orders = [
        tuple(contender.name for contender in round_order(plan, round_)) for round_ in range(6)
    ]
    assert all(sorted(order) == sorted(contender.name for contender in plan) for order in orders)
    assert len(set(orders)) == 6
    assert len(set(orders[0])) == len(plan)
    # The contender that is compared with the engine and one caller is next to it.
    for order in orders:
        apart = abs(order.index("gRPC x1") - order.index("engine x1"))
        assert min(apart, len(plan) - apart) == 1


def test_batching_does_not_wait_for_a_full_batch(tmp_path):
    file = tmp_path / "batching.config"
    file.write_text(server._PARAMETERS.format(cores=3))
    options = read_batching_options(file)
    assert (options.max_batch_size, options.batch_timeout_micros) == (32, 0)
    assert options.num_batch_threads == 3


def test_a_real_server_against_its_engine(tiny_draft, make_png, tmp_path):
    images = [tmp_path / "red.png", tmp_path / "blue.png"]
    images[0].write_bytes(make_png((255, 0, 0)))
    images[1].write_bytes(make_png((0, 0, 255), (9, 7)))
    steps = []
    figures = measure(
        tiny_draft,
        images,
        variants=["none_fp32"],
        seconds=0.01,
        rounds=2,
        batching=False,
        on_progress=lambda *progress: steps.append(progress),
    )
    plan = contenders(batching=False)
    assert figures["machine"]["cpu"]
    assert figures["model"] == "colors"
    assert (figures["images"], figures["source"]) == (2, "red.png, blue.png")
    assert figures["batching_parameters"] == ""
    (found,) = figures["variants"].values()
    assert set(found["turns"]) == {contender.name for contender in plan}
    for one in found["turns"].values():
        assert set(one) == {"p50_ms", "images_per_second", "caller_cores"}
        assert all(len(values) == 2 for values in one.values())
        assert min(one["p50_ms"]) > 0
    assert {row["target"] for row in found["rows"]} == {"", "<= 1.00", "<= 2.00", ">= 0.90"}
    assert [done for done, _, what in steps if "round" in what] == list(range(2 * len(plan)))
    assert {total for _, total, _ in steps} == {2 * len(plan)}
    write_json(tmp_path / "out.json", figures)
    assert json.loads((tmp_path / "out.json").read_text()) == figures
    assert '"/' not in (tmp_path / "out.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rounds": 0}, "rounds must be at least 2 and seconds above 0, got 0 and 0.5"),
        ({"rounds": 1}, "rounds must be at least 2"),
        ({"seconds": 0.0}, "got 7 and 0"),
        ({"images": ["absent.jpg"]}, "cannot read the image absent.jpg: No such file"),
    ],
)
def test_invalid_arguments_are_errors(tiny_draft, arguments, words):
    with pytest.raises(BenchmarkError, match=words):
        measure(tiny_draft, **arguments)


def test_invalid_bundles_variants_and_images_are_errors(tiny_draft, tmp_path):
    with pytest.raises(BundleError, match="holds no version"):
        measure(tmp_path)
    with pytest.raises(BundleError, match="no variant 'int9'"):
        measure(tiny_draft, variants=["saved_model", "int9"])
    (tmp_path / "note.jpg").write_text("not an image")
    with pytest.raises(BenchmarkError, match=r"note\.jpg cannot be sent: not an image"):
        measure(tiny_draft, [tmp_path / "note.jpg"])


def test_the_saved_model_and_the_recommended_variant_are_measured_by_default(tiny_draft):
    bundle = server.bundles.open_bundle(tiny_draft)
    assert server._variants(bundle, None) == ["saved_model", "none_fp32"]
    assert server._variants(bundle, ["none_fp32"] * 2) == ["none_fp32"]
