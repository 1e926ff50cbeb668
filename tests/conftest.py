"""What every room's tests share: the shared data, quiet TensorFlow, and no way out to a network."""

import ipaddress
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Before anything loads TensorFlow; trainers.keras sets the first one too, but not every test
# comes by it.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Google's libraries would otherwise look for a metadata server, with retries.
os.environ.setdefault("NO_GCE_CHECK", "true")

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


class NetworkUsedError(OSError):
    """A test reached for the network; an OSError, so that third-party code takes it for offline."""


def _is_local(family: int, address: object) -> bool:
    if family not in (socket.AF_INET, socket.AF_INET6):
        return True
    host = str(address[0]) if isinstance(address, tuple) else str(address)
    if host in ("", "localhost"):
        return True
    try:
        parsed = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return parsed.is_loopback or parsed.is_unspecified


def _guarded(name: str) -> Callable[..., object]:
    original = getattr(socket.socket, name)

    def connect(self: socket.socket, address: object) -> object:
        if not _is_local(self.family, address):
            raise NetworkUsedError(f"tests have no network, and this one connects to {address}")
        return original(self, address)

    return connect


def pytest_configure() -> None:
    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, _guarded(name))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow") or "slow" in config.option.markexpr:
        return
    skip = pytest.mark.skip(reason="slow; --slow or `make test-slow` runs it")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real image packages beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data is not there")
    return SHARED_DATA


@pytest.fixture(scope="session")
def extract(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`extract("cifar10_A")`: the folder of that package's files, unpacked once a session.

    Tests read it; one that writes copies it first.
    """
    unpacked: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        if name not in unpacked:
            archive = shared_data / f"{name}.tar"
            if not archive.is_file():
                pytest.skip(f"../shared/data/{archive.name} is not there")
            target = tmp_path_factory.mktemp(name)
            with tarfile.open(archive) as tar:
                tar.extractall(target, filter="data")
            unpacked[name] = target
        return unpacked[name]

    return unpack
