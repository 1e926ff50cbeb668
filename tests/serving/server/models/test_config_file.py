"""The model config file while the server runs: real files and protos, a clock by hand."""

import asyncio

import pytest

from serving.server.app import _Server
from serving.server.errors import ServerError
from serving.server.models.config import ServedModel
from serving.server.models.source import ConfigFile, ModelSource
from serving.server.options import ServerOptions


class Refused(Exception):
    """What need not be an error of ours."""


class Serve:
    """Takes models, or raises."""

    def __init__(self):
        self.calls = []
        self.error = None

    def __call__(self, configs):
        self.calls.append([config.name for config in configs])
        if self.error:
            raise self.error


@pytest.fixture
def followed(tmp_path):
    """(the file, `serve`, `(seconds to let pass) -> follow's answer`)."""
    path = tmp_path / "models.config"
    write(path, "a")
    now, serve = [0.0], Serve()
    config_file = ConfigFile(path, retry_seconds=60, clock=lambda: now[0])

    def follow(seconds=1.0):
        now[0] += seconds
        return config_file.follow(serve)

    return path, serve, follow


def write(path, *names):
    entries = [f'config {{ name: "{name}" base_path: "/{name}" }}\n' for name in names]
    path.write_text(f"model_config_list {{ {''.join(entries)} }}")


def test_a_change_is_served_once(followed):
    path, serve, follow = followed
    assert not follow()
    write(path, "a", "b")
    assert follow()
    assert not follow()
    assert serve.calls == [["a", "b"]]


def test_what_was_refused_is_tried_again(followed):
    path, serve, follow = followed
    write(path, "b")
    serve.error = Refused()
    with pytest.raises(Refused):
        follow()
    assert not follow(59)
    with pytest.raises(Refused):
        follow(1)
    serve.error = None
    assert not follow(59)
    assert follow(1)
    assert not follow(1000)
    assert serve.calls == [["b"]] * 3


def test_another_change_is_not_kept_waiting(followed):
    path, serve, follow = followed
    write(path, "b")
    serve.error = Refused()
    with pytest.raises(Refused):
        follow()
    write(path, "c")
    serve.error = None
    assert follow()
    # What is served now is no longer what it was.
    write(path, "a")
    assert follow()
    assert serve.calls == [["b"], ["c"], ["a"]]


@pytest.mark.parametrize(
    "content", [b"nonsense", b"\xff\xfe", b'model_config_list { config { name: "a" } }']
)
def test_what_is_no_config_is_never_served(followed, content):
    path, serve, follow = followed
    path.write_bytes(content)
    with pytest.raises(ServerError, match="is not a ModelServerConfig"):
        follow()
    assert not follow()
    write(path, "a")
    assert not follow()
    path.unlink()
    assert not follow()
    assert serve.calls == []


def test_the_server_keeps_polling_after_any_error(tmp_path):
    path = tmp_path / "models.config"
    write(path, "a")
    options = ServerOptions(config_file=path, config_poll_seconds=0.001, load_retry_seconds=0)
    source = ModelSource([ServedModel("a", tmp_path / "a")])
    server = _Server(source, ("", ""), (None, None), options)
    # Between what was read at the start and the first look.
    write(path, "b")

    async def until_served():
        served = asyncio.Event()
        loop = asyncio.get_running_loop()

        class Models:
            tries = 0

            def switch(self, configs):
                self.tries += 1
                if self.tries < 3:
                    raise Refused
                loop.call_soon_threadsafe(served.set)

        looking = asyncio.create_task(server._reread(Models()))
        await asyncio.wait_for(served.wait(), 20)
        looking.cancel()

    asyncio.run(until_served())
    server._loader.shutdown()
    assert [config.name for config in source()] == ["b"]
