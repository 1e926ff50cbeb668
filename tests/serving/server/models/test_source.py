"""What a reload request may name, and what is listed of a folder; nothing is loaded."""

from pathlib import Path

import pytest

from serving.server.errors import ServerError, ServingError
from serving.server.models.config import ServedModel
from serving.server.models.source import ModelSource


class Models:
    """Remembers what it is to serve, or refuses it."""

    def __init__(self, error=None):
        self.error = error
        self.served = None

    def switch(self, configs):
        if self.error:
            raise self.error
        self.served = configs


def model(folder, *versions):
    for version in versions or [1]:
        (folder / str(version)).mkdir(parents=True)
        (folder / str(version) / "saved_model.pb").touch()
    return folder


def code_of(source, path):
    """The status code of a reload request for a model at `path`."""
    models = Models()
    configs = [ServedModel("x", Path(path))]
    try:
        source.reload(configs, models)
    except ServingError as error:
        assert models.served is None
        return error.code
    assert models.served is configs
    return "OK"


def test_a_request_stays_in_the_folders_of_the_models(tmp_path):
    own = [ServedModel("a", tmp_path / "a"), ServedModel("b", tmp_path / "deep" / "b")]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "out").symlink_to(tmp_path)
    allowed = {
        tmp_path / "a": "OK",
        tmp_path / "a" / "inner": "OK",
        tmp_path / "deep" / "b": "OK",
        tmp_path / "c": "PERMISSION_DENIED",
        tmp_path / "ab": "PERMISSION_DENIED",
        tmp_path / "deep": "PERMISSION_DENIED",
        tmp_path: "PERMISSION_DENIED",
        tmp_path / "a" / ".." / "c": "PERMISSION_DENIED",
        tmp_path / "a" / "out" / "c": "PERMISSION_DENIED",
        "/": "PERMISSION_DENIED",
        "a\0b": "INVALID_ARGUMENT",
    }
    assert {path: code_of(ModelSource(own), path) for path in allowed} == allowed


def test_what_was_dropped_may_come_back(tmp_path):
    own = [ServedModel("a", tmp_path / "a")]
    source = ModelSource(own)
    source.reload([], Models())
    assert source() == []
    source.reload(own, Models())
    assert source() == own


def test_further_roots(tmp_path):
    own = [ServedModel("a", tmp_path / "a")]
    source = ModelSource(own, roots=[tmp_path / "more"])
    assert code_of(source, tmp_path / "more" / "b") == "OK"
    assert code_of(source, tmp_path / "a") == "OK"
    assert code_of(source, tmp_path / "b") == "PERMISSION_DENIED"


def test_a_served_folder_is_a_root(tmp_path):
    source = ModelSource(tmp_path / "bundles")
    assert code_of(source, tmp_path / "b") == "PERMISSION_DENIED"
    assert code_of(source, tmp_path / "bundles" / "any") == "OK"


def test_without_roots_every_request_is_refused(tmp_path):
    own = [ServedModel("a", tmp_path / "a")]
    source = ModelSource(own, roots=None)
    assert code_of(source, tmp_path / "a") == "PERMISSION_DENIED"
    with pytest.raises(ServingError, match="takes no reload requests"):
        source.reload([], Models())


def test_a_file_may_name_any_path_and_requests_may_then_too(tmp_path):
    source = ModelSource([ServedModel("a", tmp_path / "a")])
    source.reload([ServedModel("b", tmp_path / "b")], Models(), trusted=True)
    assert code_of(source, tmp_path / "b") == "OK"
    assert code_of(source, tmp_path / "a") == "PERMISSION_DENIED"


@pytest.mark.parametrize("error", [ServingError("FAILED_PRECONDITION", "no"), OSError("no")])
def test_a_refused_reload_changes_nothing(tmp_path, error):
    model(tmp_path / "m")
    source = ModelSource(tmp_path)
    before = source()
    for trusted in (False, True):
        with pytest.raises(type(error)):
            source.reload([ServedModel("x", tmp_path / "x")], Models(error), trusted=trusted)
        assert source() == before == [ServedModel("m", tmp_path / "m")]
    assert code_of(source, tmp_path / "m") == "OK"


def test_a_model_that_cannot_be_read_stays_listed(tmp_path, unreadable):
    model(tmp_path / "good")
    model(tmp_path / "lost+found")
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").touch()
    (tmp_path / "bad").symlink_to(unreadable)
    source = ModelSource(tmp_path)
    assert [config.name for config in source()] == ["bad", "good"]
    source.check()


def test_a_check_leaves_the_unreadable_to_the_first_load(tmp_path, unreadable):
    ModelSource([ServedModel("bad", unreadable)]).check()
    with pytest.raises(ServerError, match=r"model none: .* holds no version"):
        ModelSource([ServedModel("bad", unreadable), ServedModel("none", tmp_path)]).check()
    with pytest.raises(ServerError, match="cannot be read: File name too long"):
        ModelSource(unreadable).check()
