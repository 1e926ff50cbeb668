"""Clients that others wrote get true answers and their own exceptions, unchanged, from our server.

`ask_NAME.py` is a script of one such client; `environments/NAME.txt` locks what it is installed
from, and without that file it runs in the environment of this project. The scripts assert.
"""

import os
import platform
import shutil
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SCRIPTS = sorted(HERE.glob("ask_*.py"))

PAGE = """# What clients that others wrote are answered

Written by `make test-peers`. Every client is as its makers released it, in an environment of its
own (`tests/serving/peers/environments`). The scripts (`tests/serving/peers/ask_*.py`) hold every
answer against x / 2 + 2, or against the bundle run in TensorFlow. `half_plus_two` is TF Serving's
test model in versions 123 (`stable`) and 124 (`canary`), `colors` a bundle of ours with three
classes, the photograph a JPEG of ImageNet. `!!` is the exception that the client raised.

The server: {server}.
"""


def environment_python(script: Path) -> str:
    """The interpreter that has the script's client."""
    name = script.stem.removeprefix("ask_")
    if not (HERE / "environments" / f"{name}.txt").is_file():
        return sys.executable
    python = ROOT / ".tools" / "peers" / name / "bin" / "python"
    if not python.is_file():
        pytest.fail(f"{python} is not there; `make test-peers` and tools/peers.sh make it")
    return str(python)


@pytest.fixture(scope="module")
def transcripts(pytestconfig):
    """Script -> what it printed; becomes the page once all of them have passed."""
    printed: dict[Path, str] = {}
    yield printed
    page = pytestconfig.getoption("--peers-page")
    if page and set(printed) == set(SCRIPTS):
        packages = ("sightline", "tensorflow", "grpcio", "uvicorn")
        versions = [f"{name} {metadata.version(name)}" for name in packages]
        parts = [PAGE.format(server=", ".join([f"Python {platform.python_version()}", *versions]))]
        for script, text in printed.items():
            told = " ".join(script.read_text().split('"""')[1].split())
            name = script.stem.removeprefix("ask_")
            parts.append(f"\n## {name}\n{textwrap.fill(told, 100)}\n\n```text\n{text}```\n")
        Path(page).write_text("".join(parts))


@pytest.mark.peers
@pytest.mark.shared_data
# To import TFX can take minutes where it was not compiled or the machine is busy.
@pytest.mark.timeout(600)
@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem[4:] for script in SCRIPTS])
def test_a_client_that_others_wrote_gets_its_answers(script, peer_facts, transcripts):
    if script.stem == "ask_curl" and shutil.which("curl") is None:
        pytest.skip("curl is not there")
    run = subprocess.run(
        [environment_python(script), str(script), str(peer_facts)],
        capture_output=True,
        text=True,
        timeout=540,
        # Nothing of this project may stand in for what the client brings.
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    print(run.stdout)
    assert run.returncode == 0, run.stderr
    transcripts[script] = run.stdout
