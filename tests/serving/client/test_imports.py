"""What a client needs to be installed, each in a separate process."""

import subprocess
import sys

import pytest

#: Refuses every import but the standard library's, ours, and those named.
REFUSE = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in {allowed!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed here", name=name)
sys.meta_path.insert(0, Refuse())
"""
#: With what requests itself brings.
REQUESTS = {"requests", "urllib3", "certifi", "idna", "charset_normalizer"}


def run(program, allowed):
    program = REFUSE.format(allowed=sorted({"core", "serving", "numpy", *allowed})) + program
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


USE = """
import asyncio, numpy as np
from serving.client import AsyncClient, Client
def use(url):
    with Client(url, retries=0) as client:
        assert client.predict([np.zeros((2, 2, 3), np.uint8)], model="m")[0].label == "four"
    async def main():
        async with AsyncClient(url) as client:
            assert (await client.predict([b"x"], model="m"))[0].label == "four"
    asyncio.run(main())
"""


def test_rest_needs_numpy_and_requests_only(rest, rows):
    rest.reply = rows(1)
    program = USE + f"use({rest.url!r})\n"
    program += "import importlib.util\n"
    # The hook works.
    program += "try:\n    import grpc\nexcept ModuleNotFoundError:\n    print('refused')\n"
    assert run(program, REQUESTS) == "refused\n"
    assert len(rest.requests) == 2


def test_grpc_needs_no_tensorflow(grpc_stub):
    import numpy as np

    from serving.protocol import wire

    answer = wire.message("PredictResponse")()
    columns = {
        "labels": np.array([["four"]]),
        "classes": np.array([[4]], np.int32),
        "scores": np.array([[1.0]], np.float32),
    }
    for name, array in columns.items():
        wire.fill_tensor(answer.outputs.add(key=name).value, array)
    grpc_stub.reply = lambda method, body, context: answer.SerializeToString()
    program = USE + f"use({grpc_stub.url!r})\nimport sys\n"
    program += "print(sorted(n for n in sys.modules if n.startswith('tensorflow')))\n"
    found = run(program, REQUESTS | {"grpc", "google", "typing_extensions"})
    assert found == "[]\n"
    assert len(grpc_stub.requests) == 2


@pytest.mark.parametrize("name", ["Client", "AsyncClient"])
def test_missing_grpc_is_an_error_that_names_it(name):
    program = f"""
from serving.client import {name}, ClientError
try:
    {name}("grpc://127.0.0.1:8500")
except ClientError as error:
    print(error)
"""
    assert "needs grpcio and protobuf" in run(program, REQUESTS)
