import copy
import json
import math
import os
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from tfx_pipeline import report
from tfx_pipeline.report import view
from trainers.evaluation.metrics import metric_facts

SECTIONS = [
    *("results", "gates", "trade-offs", "metrics", "slices", "confusion"),
    *("training", "data", "steps", "lineage", "environment"),
]
CLASSES = [str(digit) for digit in range(10)]
HOSTILE = "<script>alert('x')</script>\"><img src=http://example.invalid/x onerror=alert(1)>[red]"


class _Reader(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    @property
    def ids(self):
        return [value for name, value in self.attributes if name == "id"]


def _hostile(value: Any) -> Any:
    """`value` with every string in it, keys of counts included, replaced by markup."""
    if isinstance(value, dict):
        # "status" and "state" are constants; every other text comes from data, files or users.
        return {k: v if k in ("status", "state") else _hostile(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_hostile(item) for item in value]
    return value + HOSTILE if isinstance(value, str) else value


def _printed(renderable):
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(renderable)
    return console.export_text()


def test_a_finished_run_has_every_section_and_figure(smoke_summary):
    reader = _Reader(report.render_report(smoke_summary))

    assert [id_ for id_ in reader.ids if not id_.endswith("-title")] == SECTIONS
    for shown in (
        "3 min 30 s",
        "98.1 % 96.5 to 99.3",
        "-0.5 -1.4 to +0.1",
        "14.1 kB",
        "0.051 ms",
        "pushed as v3",
        "already there: v3",
        "refused: top1 0.951 is below 0.97",
        "1 of 12 gates stopped a model; 0 more did not hold and were waived",
        "5 errors in 359",
        "sklearn.datasets.load_digits",
        "slice/brightness",
        "Trainer.digits_cnn",
        "tensorflow",
        "pqat_int8 ★",
        "pqat_int8 is the smallest",
        "8/torn.png",
    ):
        assert shown in reader.text, shown


def test_a_withdrawn_model_has_the_command_that_restores_it(smoke_summary):
    smoke_summary["status"] = "withdrawn"
    smoke_summary["models"][0]["pushed"] |= {"withdrawn": True, "way_back": "sightline rollback x"}
    html = report.render_report(smoke_summary)
    assert '<span class="badge warn">withdrawn</span></h1>' in html
    assert '<span class="badge warn">withdrawn: v3</span>' in html
    sentence = "digits_resnet is withdrawn. Version 3 has the same content and was rolled back; "
    assert f"{sentence}to serve it again: sightline rollback x" in _Reader(html).text
    assert "withdrawn: v3" in _printed(report.console_table(smoke_summary))
    assert view.tone(smoke_summary) == "warn"
    assert [model["name"] for model in view.withdrawn(smoke_summary)] == ["digits_resnet"]


def test_the_recommended_model_comes_first(smoke_summary):
    names = [model["name"] for model in view.models(smoke_summary)]
    assert names == ["digits_cnn", "digits_resnet", "digits_vit"]


def test_every_variant_is_a_dot_in_both_trade_offs(smoke_summary):
    html = report.render_report(smoke_summary)
    size, latency = (
        html.split(f'aria-label="Top-1 by {cost}"')[1].split("</svg>")[0]
        for cost in ("gzipped size", "median latency")
    )
    assert size.count("<circle") == latency.count("<circle") == 12
    assert "digits_cnn, pqat_int8: 98.1 % at 14.1 kB" in size
    assert "digits_cnn, pqat_int8: 98.1 % at 0.051 ms" in latency


def test_writing_replaces_an_older_report_and_leaves_nothing_else(tmp_path, smoke_summary):
    directory = tmp_path / "reports" / "latest"
    report.write_report({"pipeline": "old", "run": "1", "status": "error"}, directory)

    path = report.write_report(smoke_summary, directory)

    assert path == directory / "report.html"
    assert "98.1 %" in path.read_text(encoding="utf-8")
    assert [entry.name for entry in directory.iterdir()] == ["report.html"]


def test_a_report_that_cannot_be_written_leaves_the_older_one(tmp_path, smoke_summary, monkeypatch):
    path = report.write_report({"pipeline": "old", "run": "1", "status": "error"}, tmp_path)
    before = path.read_bytes()

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        report.write_report(smoke_summary, tmp_path)

    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_run_that_failed_at_once_has_notes_on_missing_parts():
    reader = _Reader(
        report.render_report(
            {"pipeline": "smoke", "run": "1", "status": "error", "error": "train: record 17"}
        )
    )
    assert "The run stopped. train: record 17" in reader.text
    for sentence in ("No model:", "No gate was judged", "No benchmark", "No data summary"):
        assert sentence in reader.text


def _without(summary, path):
    """`summary` less one key, at `path`; a `*` walks every item of a list or dictionary."""
    pruned = copy.deepcopy(summary)
    nodes = [pruned]
    for key in path[:-1]:
        following = []
        for node in nodes:
            if key == "*":
                following += list(node.values()) if isinstance(node, dict) else list(node)
            else:
                following.append(node[key])
        nodes = following
    for node in nodes:
        del node[path[-1]]
    return pruned


def _paths(value, prefix=()):
    """Every dictionary key of a summary, one path for all items of a list."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*prefix, key)
            yield from _paths(item, (*prefix, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from _paths(value[0], (*prefix, "*"))


def test_any_one_part_may_be_missing(smoke_summary):
    model = smoke_summary["models"][2]
    model |= {"variants": model["variants"][:1], "slices": model["slices"][:2]}
    smoke_summary["models"] = [model | {"pushed": {"path": "p", "version": 3, "pushed": True}}]
    paths = [path for path in _paths(smoke_summary) if "per_class" not in path[:-1]]
    assert len(paths) > 80
    for path in paths:
        if "config" in path[:-1]:
            continue
        pruned = _without(smoke_summary, path)
        assert SECTIONS[-1] in _Reader(report.render_report(pruned)).ids, path
        _printed(report.console_table(pruned))
        report.console_gates(pruned)


@pytest.mark.parametrize("bad", [None, [], {}, "text", math.nan, 0])
def test_a_part_of_another_type_is_no_crash(smoke_summary, bad):
    for key in ("data", "models", "components", "lineage", "stack", "machine", "seconds"):
        assert "<h2" in report.render_report(smoke_summary | {key: bad}), key
    parts = ("variants", "history", "slices", "gates", "confusion", "pushed", "config")
    for key in (*parts, "best_epoch", "trials"):
        model = smoke_summary["models"][1] | {key: bad}
        summary = smoke_summary | {"models": [model]}
        assert "digits_cnn" in report.render_report(summary), key
        assert "digits_cnn" in _printed(report.console_table(summary)), key


def test_names_from_the_data_are_text_and_never_markup(smoke_summary):
    text = report.render_report(_hostile(smoke_summary))
    reader = _Reader(text)

    assert "script" not in reader.tags
    assert "img" not in reader.tags
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert HOSTILE.split("<img")[0] in reader.text


def test_the_page_has_no_external_address(smoke_summary):
    reader = _Reader(report.render_report(smoke_summary))
    addresses = [v for name, v in reader.attributes if name in ("src", "href", "xlink:href")]
    assert addresses
    assert all(address.startswith(("#", "data:,")) for address in addresses)
    assert "url(" not in report.render_report(smoke_summary)


def _table_of(html, key):
    rows = html.split(f'aria-label="Slices by {key}"')[1].split("</table>")[0].split("<tr>")[2:]
    return [" ".join(re.sub("<[^>]+>", " ", row).split()) for row in rows]


def test_ages_are_in_order_and_few_examples_are_said_to_be_few(smoke_summary):
    for model in smoke_summary["models"]:
        model["slices"] = [
            {"key": "slice/age", "value": value, "examples": n, "top1": [0.9, 0.8, 1.0]}
            for value, n in (("10-19", 40), ("3-9", 30), ("more than 70", 2), ("0-2", 29))
        ]
    rows = _table_of(report.render_report(smoke_summary), "slice/age")
    assert [row.split(" 90.0 %")[0] for row in rows] == [
        "0-2 29 fewer than 30",
        "3-9 30",
        "10-19 40",
        "more than 70 2 fewer than 30",
    ]


@pytest.mark.parametrize(("classes", "shown"), [(2, False), (5, False), (6, True)])
def test_top5_is_hidden_where_it_says_nothing(smoke_summary, classes, shown):
    smoke_summary["data"]["classes"] = CLASSES[:classes]
    recorded = copy.deepcopy(smoke_summary)
    for model in recorded["models"]:
        model["metric_facts"] = metric_facts(classes)
    for summary in (smoke_summary, recorded):
        assert ("top-5" in _Reader(report.render_report(summary)).text) == shown


@pytest.mark.browser
def test_a_browser_shows_the_whole_page_without_requests(tmp_path, smoke_summary, open_page):
    hostile = smoke_summary["data"]["classes"] + [HOSTILE]
    smoke_summary["data"]["classes"] = hostile

    shown = open_page(report.write_report(smoke_summary, tmp_path / "report"))

    reader = _Reader(shown.dom)
    assert shown.console == []
    assert shown.requested == set()
    assert [id_ for id_ in reader.ids if not id_.endswith("-title")] == SECTIONS
    assert reader.tags.count("polyline") == 18
    assert shown.dom.count('class="chart"') == 12
    assert reader.tags.count("h2") == len(SECTIONS)
    assert "script" not in reader.tags


@pytest.mark.browser
def test_the_browser_check_itself_sees_requests_and_errors(tmp_path, open_page):
    path = tmp_path / "bad.html"
    path.write_text("<img src='http://example.invalid/x.png'><script>console.error('no')</script>")

    shown = open_page(path)

    assert "http://example.invalid/x.png" in shown.requested
    assert any("no" in line for line in shown.console)


def test_the_console_table_fits_in_120_columns(smoke_summary):
    smoke_summary["models"][0]["name"] = "a_model_with_a_name_that_goes_on_and_on_and_on"

    text = _printed(report.console_table(smoke_summary))

    assert max(len(line.rstrip()) for line in text.splitlines()) <= 120
    assert "…" not in text
    row = next(line for line in text.splitlines() if "pqat_int8" in line)
    for figure in ("98.1 % [96.5, 99.3]", "-0.5 pt", "45.0 kB", "14.1 kB", "0.051 ms", "0.082 ms"):
        assert figure in row
    assert "★ digits_cnn" in text
    assert "pqat_int8 ★" in row


def test_the_console_table_of_a_run_without_models():
    text = _printed(
        report.console_table({"pipeline": "p", "run": "1", "status": "error", "error": "bad data"})
    )
    assert "no model" in text
    assert "bad data" in text


def test_names_are_not_read_as_console_markup(smoke_summary):
    smoke_summary["models"][1]["name"] = "[b]cnn"
    smoke_summary["pipeline"] = "[bold]smoke"
    assert "[b]cnn" in _printed(report.console_table(smoke_summary))
    assert "[bold]smoke" in _printed(report.console_table(smoke_summary))


def test_the_console_names_each_gate_that_was_not_met(smoke_summary):
    text = " ".join(_printed(report.console_gates(smoke_summary)).split())
    assert "failed digits_vit top1 saved_model all 0.951 0.97" in text
    assert "digits_cnn" not in text


UNDECIDED = {
    "name": "change/top1",
    "value": 0.0,
    "threshold": "a drop of 0.02 against the live model excluded",
    "verdict": "not decided",
    "passed": False,
    "waived": "",
    "detail": "95 % interval -0.0713 to +0.0713",
    "images_needed": 385,
}


def undecided_summary(smoke_summary, **changes):
    model = smoke_summary["models"][1]
    model |= {"pushed": None, "verdict": "not decided", "refused_because": "change/top1 0"}
    model["gates"] = [*model["gates"], UNDECIDED | changes]
    return smoke_summary | {"models": [model], "status": "undecided"}


def test_a_gate_that_was_not_decided_is_shown_with_what_would_decide_it(smoke_summary):
    summary = undecided_summary(smoke_summary)
    text = " ".join(_printed(report.console_gates(summary)).split())
    assert "not decided digits_cnn change/top1" in text
    assert "not decided: change/top1 0" in " ".join(_printed(report.console_table(summary)).split())
    (line,) = report.view.undecided(summary)
    assert "digits_cnn: change/top1; about 385 test images would decide it" in line
    assert "--accept-undecided" in line
    page = _Reader(report.render_report(summary)).text
    assert line in page
    assert "1 of 5 gates stopped a model; 0 more did not hold and were waived" in page


def test_a_lower_estimate_cannot_be_accepted(smoke_summary):
    (line,) = report.view.undecided(undecided_summary(smoke_summary, value=-0.01))
    assert "cannot be accepted" in line
    assert "--accept-undecided" not in line


def test_a_gap_without_an_acceptable_estimate_cannot_be_accepted(smoke_summary):
    summary = undecided_summary(smoke_summary, value=None, acceptable=False)
    (line,) = report.view.undecided(summary)
    assert "an estimate is missing or above its margin, so it cannot be accepted" in line
    assert "--accept-undecided" not in line
    assert "–" in " ".join(_printed(report.console_gates(summary)).split())  # noqa: RUF001


def test_a_waived_gate_is_shown(smoke_summary):
    summary = undecided_summary(smoke_summary, passed=True, waived="accepted: it is not lower")
    assert report.view.undecided(summary) == []
    text = " ".join(_printed(report.console_gates(summary)).split())
    assert "waived digits_cnn change/top1" in text
    assert "accepted: it is not lower" in " ".join(text.split())
    page = _Reader(report.render_report(summary)).text
    assert "0 of 5 gates stopped a model; 1 more did not hold and were waived" in page


def test_a_gate_of_a_summary_before_there_were_three_verdicts_is_shown(smoke_summary):
    for gate in smoke_summary["models"][2]["gates"]:
        del gate["verdict"]
    text = " ".join(_printed(report.console_gates(smoke_summary)).split())
    assert "failed digits_vit top1" in text


def test_without_a_failed_gate_there_is_no_table(smoke_summary):
    smoke_summary["models"] = smoke_summary["models"][:2]
    assert report.console_gates(smoke_summary) is None


def test_a_summary_from_json_renders_alike(smoke_summary):
    smoke_summary["data"]["classes"] = tuple(smoke_summary["data"]["classes"])
    again = json.loads(json.dumps(smoke_summary))
    assert report.render_report(again) == report.render_report(smoke_summary)
