"""Former spellings are accepted, with a warning where a user wrote them."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from core.bundle import Manifest
from core.renamed import RenamedWarning, current_fields, current_flags
from serving.benchmark.loadtest import soak

ROOT = Path(__file__).resolve().parents[2]


def test_a_former_flag_is_replaced_and_the_warning_names_flag_and_release():
    given = ["loadtest", "u", "--pictures", "a", "--pictures=b", "--", "--pictures"]
    with pytest.warns(RenamedWarning, match=r"--pictures is now --images; .* version 0\.2\.0"):
        found = current_flags(given, "loadtest")
    assert found == ["loadtest", "u", "--images", "a", "--images=b", "--", "--pictures"]


def test_flags_of_other_verbs_and_values_stay():
    given = ["benchmark", "--pictures", "a", "--out=--picture"]
    assert current_flags(given, "benchmark") == given
    assert current_flags(["loadtest", "--picturesque"], "loadtest") == ["loadtest", "--picturesque"]


def test_fields_keep_their_order_and_the_current_spelling_is_kept():
    assert list(current_fields({"a": 1, "pictures": 2, "b": 3}).items()) == [
        ("a", 1),
        ("images", 2),
        ("b", 3),
    ]
    both = {"license": "MIT", "licence": "old"}  # codespell:ignore licence
    assert current_fields(both) == {"license": "MIT"}


def test_a_manifest_of_an_earlier_version_has_its_license():
    origin = {"package": "p", "licence": "Apache-2.0"}  # codespell:ignore licence
    manifest = {"name": "m", "task": "classification", "num_classes": 2, "input": {}, "top_k": 1}
    manifest |= {"variants": [], "recommended": "", "weights_origin": origin}
    text = json.dumps(manifest)
    found = Manifest.from_json(text, "manifest.json")
    assert found.weights_origin == {"package": "p", "license": "Apache-2.0"}


def test_the_soak_takes_the_former_flag(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(soak, "run_soak", lambda options, **_: seen.append(options) or 1 / 0)
    with pytest.warns(RenamedWarning, match="--images"), pytest.raises(ZeroDivisionError):
        soak.main([str(tmp_path), "--pictures", "photos"])
    assert seen[0].images == Path("photos")


@pytest.mark.parametrize(("name", "warns"), [("PICTURES", True), ("IMAGES", False)])
def test_the_make_variable_reaches_the_command(name, warns):
    made = subprocess.run(
        ["make", "-n", "-C", str(ROOT), "study", f"{name}=some.tar"],
        capture_output=True,
        text=True,
        check=True,
        # `make test` itself exports an empty IMAGES.
        env={**os.environ, "IMAGES": "", "MAKEFLAGS": ""},
    )
    assert 'sightline study --data "folder:some.tar ' in made.stdout
    assert (f"{name} is now IMAGES" in made.stderr) is warns
