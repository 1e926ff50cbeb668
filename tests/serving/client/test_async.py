import asyncio
import base64
import inspect
import json
import threading

import grpc
import numpy as np
import pytest

from serving.client import AsyncClient, Client, ClientError
from serving.client.tasks import in_order
from serving.protocol import wire


class Echo:
    """Both stubs return the bytes of each image as its label, and count requests in progress."""

    def __init__(self, rest, grpc_stub):
        self.rest, self.grpc_stub = rest, grpc_stub
        rest.reply, grpc_stub.reply = self.over_rest, self.over_grpc
        self.sizes, self.under_way, self.most = [], 0, 0
        self.gate = threading.Semaphore(0)
        self.gated = False
        self.lock = threading.Lock()

    def labels(self, images):
        with self.lock:
            self.sizes.append(len(images))
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        if self.gated:
            self.gate.acquire(timeout=20)
        with self.lock:
            self.under_way -= 1
        return [image.decode() for image in images]

    def over_rest(self, request):
        images = [base64.b64decode(row["b64"]) for row in json.loads(request.body)["instances"]]
        rows = [{"scores": [1], "classes": [0], "labels": [x]} for x in self.labels(images)]
        return 200, {"predictions": rows}

    def over_grpc(self, method, body, context):
        request = wire.message("PredictRequest").FromString(body)
        labels = self.labels(wire.to_array(request.inputs[0].value).tolist())
        answer = wire.message("PredictResponse")()
        columns = {
            "labels": np.array([[label] for label in labels]),
            "classes": np.zeros((len(labels), 1), np.int32),
            "scores": np.ones((len(labels), 1), np.float32),
        }
        for name, array in columns.items():
            wire.fill_tensor(answer.outputs.add(key=name).value, array)
        return answer.SerializeToString()


@pytest.fixture
def echo(rest, grpc_stub):
    return Echo(rest, grpc_stub)


@pytest.fixture(params=["rest", "grpc"])
def url(request, rest, grpc_stub):
    return {"rest": rest, "grpc": grpc_stub}[request.param].url


def names(count):
    return [f"image {number}" for number in range(count)]


def test_the_same_methods_and_arguments():
    """Both clients have the same methods."""

    def surface(kind):
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {
            name: list(inspect.signature(method).parameters.values())
            for name, method in methods
            if not name.startswith("_")
        }

    mine, other = surface(Client), surface(AsyncClient)
    assert mine == other
    extra = set(inspect.signature(AsyncClient).parameters) - set(
        inspect.signature(Client).parameters
    )
    assert extra == {"max_concurrency"}


def test_long_lists_come_back_in_order(echo, url):
    async def main():
        async with AsyncClient(url, max_concurrency=3) as client:
            images = [name.encode() for name in names(20)]
            found = await client.predict(images, model="m", batch_size=3)
            assert [one.label for one in found] == names(20)
            assert await client.predict([], model="m") == []

    asyncio.run(main())
    assert sorted(echo.sizes) == [2, 3, 3, 3, 3, 3, 3]


def test_the_number_of_requests_in_progress_is_limited(echo, url):
    echo.gated = True

    async def main():
        async with AsyncClient(url, max_concurrency=3) as client:
            calls = [
                asyncio.ensure_future(client.predict([b"x"] * 4, model="m", batch_size=1))
                for _ in range(2)
            ]
            while echo.under_way < 3:
                await asyncio.sleep(0.01)
            # Time for a fourth one to come, if it would.
            await asyncio.sleep(0.2)
            echo.gated = False
            echo.gate.release(3)
            await asyncio.gather(*calls)

    asyncio.run(main())
    assert echo.most == 3
    assert len(echo.sizes) == 8


def test_an_error_ends_the_rest(echo, url, grpc_stub, rest):
    def over_grpc(method, body, context):
        grpc_stub.reply = echo.over_grpc
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "image_bytes[0]: not an image")

    def over_rest(request):
        rest.reply = echo.over_rest
        return 400, {"error": "image_bytes[0]: not an image"}

    rest.reply, grpc_stub.reply = over_rest, over_grpc

    async def main():
        async with AsyncClient(url, max_concurrency=1) as client:
            with pytest.raises(ClientError, match=r"^images\[0:2\]: .*image_bytes\[0\]: not an im"):
                await client.predict([b"x"] * 100, model="m", batch_size=2)
            # The client is still usable.
            assert len(await client.predict([b"x"], model="m")) == 1

    asyncio.run(main())
    assert len(echo.sizes) == 1


def test_busy_is_retried(echo, url, grpc_stub, rest, monkeypatch):
    waits, sleep = [], asyncio.sleep

    def over_grpc(method, body, context):
        grpc_stub.reply = echo.over_grpc
        context.set_trailing_metadata((("retry-after", "2"),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "loading")

    def over_rest(request):
        rest.reply = echo.over_rest
        return 503, b"", {"Retry-After": "2"}

    async def noted(seconds):
        waits.append(seconds)
        await sleep(0)

    rest.reply, grpc_stub.reply = over_rest, over_grpc

    async def main():
        async with AsyncClient(url) as client:
            monkeypatch.setattr(asyncio, "sleep", noted)
            assert (await client.predict([b"x"], model="m"))[0].label == "x"
            monkeypatch.undo()

    asyncio.run(main())
    (wait,) = [seconds for seconds in waits if seconds > 1]
    assert 2 <= wait <= 2.1


def test_the_deadline_includes_waiting_for_a_slot(echo, url):
    echo.gated = True

    async def main():
        async with AsyncClient(url, max_concurrency=1) as client:
            first = asyncio.ensure_future(client.predict([b"x"], model="m", timeout_s=20))
            while not echo.under_way:
                await asyncio.sleep(0.01)
            with pytest.raises(ClientError) as caught:
                await client.predict([b"y"], model="m", timeout_s=0.3)
            assert caught.value.status == "DEADLINE_EXCEEDED"
            echo.gate.release(9)
            assert len(await first) == 1

    asyncio.run(main())


def test_the_loop_stays_free(echo, url):
    """While a server takes its time, other tasks run."""
    echo.gated = True

    async def main():
        async with AsyncClient(url) as client:
            call = asyncio.ensure_future(client.predict([b"x"], model="m"))
            turns = 0
            while not echo.under_way:
                await asyncio.sleep(0.001)
                turns += 1
            echo.gate.release(1)
            await call
            return turns

    assert asyncio.run(main()) > 0


def test_a_cancelled_task_cancels_the_call(grpc_stub):
    ended = threading.Event()

    def reply(method, body, context):
        context.add_callback(ended.set)
        ended.wait(20)
        return b""

    grpc_stub.reply = reply

    async def main():
        async with AsyncClient(grpc_stub.url) as client:
            call = asyncio.ensure_future(client.status("m"))
            while not grpc_stub.requests:
                await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await asyncio.get_running_loop().run_in_executor(None, ended.wait, 10)

    asyncio.run(main())


def test_a_cancelled_task_frees_its_thread(listen, rest):
    """Over REST too, a canceled request must not delay the next call."""
    arrived, ended = threading.Event(), threading.Event()

    def hang(connection):
        connection.recv(65536)
        arrived.set()
        if not connection.recv(65536):
            ended.set()

    async def main():
        loop = asyncio.get_running_loop()
        async with AsyncClient(f"http://127.0.0.1:{listen(hang)}", retries=0) as client:
            call = asyncio.ensure_future(client.status("m", timeout_s=20))
            assert await loop.run_in_executor(None, arrived.wait, 10)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            return await loop.run_in_executor(None, ended.wait, 10)

    assert asyncio.run(main())


def test_slow_downloads_do_not_delay_other_calls(rest):
    release = threading.Event()

    def reply(request):
        if request.path == "/slow.png":
            release.wait(20)
            return 404, b""
        return 200, {"model_version_status": []}

    rest.reply = reply

    async def main():
        async with AsyncClient(rest.url, max_concurrency=1, retries=0) as client:
            slow = client.predict([f"{rest.url}/slow.png"], model="m")
            slow = asyncio.ensure_future(slow)
            while not rest.requests:
                await asyncio.sleep(0.01)
            assert await client.status("m", timeout_s=5) == []
            release.set()
            with pytest.raises(ClientError, match="404"):
                await slow

    asyncio.run(main())


def test_other_methods(rest):
    status = {"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": {}}]}
    info = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}]}}
    signature = {"inputs": {"x": info}, "outputs": {"y": info}, "method_name": ""}
    metadata = {"metadata": {"signature_def": {"signature_def": {"s": signature}}}}

    def reply(request):
        verb = request.path.rpartition(":")[2].rpartition("/")[2]
        answers = {
            "metadata": metadata,
            "predict": {"outputs": [3.5]},
            "classify": {"results": [[["a", 1.0]]]},
            "regress": {"results": [0.5]},
        }
        return 200, answers.get(verb, status)

    rest.reply = reply

    async def main():
        async with AsyncClient(rest.url) as client:
            assert (await client.status("m"))[0].state == "AVAILABLE"
            assert await client.is_ready("m")
            await client.wait_until_ready("m", timeout_s=5)
            assert list(await client.signatures("m")) == ["s"]
            assert await client.metadata("m") == metadata
            outputs = await client.run({"x": np.ones(1)}, model="m", signature="s")
            assert outputs["y"].tolist() == [3.5]
            assert await client.classify([{"x": 1.0}], model="m") == [[("a", 1.0)]]
            assert (await client.regress([{"x": 1.0}], model="m")).tolist() == [0.5]
            rest.reply = (404, {"error": "gone"})
            assert not await client.is_ready("m")
            with pytest.raises(ClientError, match=r"m is not ready after 1 s: gone"):
                await client.wait_until_ready("m", timeout_s=1)

    asyncio.run(main())


def test_detections(rest):
    row = {
        "boxes": [[0, 0, 1, 1]],
        "scores": [0.5],
        "classes": [1],
        "labels": ["cat"],
        "num_detections": 1,
    }
    rest.reply = (200, {"predictions": [row]})

    async def main():
        async with AsyncClient(rest.url) as client:
            return await client.detect([b"x"], model="m")

    (found,) = asyncio.run(main())
    with Client(rest.url) as client:
        (same,) = client.detect([b"x"], model="m")
        assert (found.labels, same.labels) == (("cat",), ("cat",))
        np.testing.assert_array_equal(found.boxes, same.boxes)
        rest.reply = (200, {"predictions": [{"scores": [1.0]}]})
        with pytest.raises(ClientError, match="m is not a detector: no boxes"):
            client.detect([b"x"], model="m")


def test_a_client_that_is_closed(url):
    async def main():
        client = AsyncClient(url)
        await client.close()
        with pytest.raises(ClientError, match="this client is closed"):
            await client.predict([b"x"], model="m")
        with pytest.raises(ClientError, match="this client is closed"):
            await client.status("m")

    asyncio.run(main())


def test_wrong_numbers_are_errors_at_once():
    with pytest.raises(ValueError, match="`max_concurrency` must be 1 or more, got 0"):
        AsyncClient("http://x", max_concurrency=0)


def test_missing_files(url, tmp_path):
    async def main():
        async with AsyncClient(url) as client:
            with pytest.raises(FileNotFoundError):
                await client.predict([tmp_path / "none.png"], model="m")

    asyncio.run(main())


def test_in_order_stops_at_the_first_error():
    started = []

    async def work(index):
        started.append(index)
        await asyncio.sleep(0)
        if index == 3:
            raise KeyError(index)
        return index

    async def main():
        assert await in_order(work, 3, 2) == [0, 1, 2]
        assert await in_order(work, 0, 2) == []
        started.clear()
        with pytest.raises(KeyError):
            await in_order(work, 1000, 2)

    asyncio.run(main())
    assert len(started) < 10
