"""Bundles that need no TensorFlow."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_draft(write_bundle, tmp_path_factory) -> Path:
    """A bundle that was never pushed; do not write into it."""
    draft = write_bundle(tmp_path_factory.mktemp("draft") / "colors", "content")
    (draft / "assets.extra").mkdir()
    return draft


@pytest.fixture
def tiny_copy(tiny_draft, tmp_path) -> Path:
    """A bundle of one test's own."""
    return Path(shutil.copytree(tiny_draft, tmp_path / "draft"))
