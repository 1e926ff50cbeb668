"""A current folder and registries that one test may change."""

import pytest

from tfx_pipeline.config import pipelines
from trainers import plugins, registry


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The current folder; plugins of a test are removed after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(plugins.VARIABLE, "")
    for one in (pipelines, registry.recipes):
        one.names()
        monkeypatch.setattr(one, "_entries", dict(one._entries))
        monkeypatch.setattr(one, "_origins", dict(one._origins))
    monkeypatch.setattr(plugins, "_state", plugins._State())
    return tmp_path
