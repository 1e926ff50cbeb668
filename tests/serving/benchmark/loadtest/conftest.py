"""Servers with scripted responses and delays, on real sockets."""

import asyncio
import contextlib
import threading

import pytest

from serving.benchmark.loadtest.generator import precise_loop

OK_BODY = b'{"predictions": []}'


class RestStub:
    """Responds to request n with `response(n)` -> (delay in seconds, status, body, headers).

    A status of None drops the request: the connection is closed, and `dropped` counts it.

    With `queue` the delay is a service time, and requests are served one at a time, in order of
    arrival. Requests are numbered in that order; the generator's first, unmeasured one is number 0.
    """

    def __init__(self, response=lambda number: (0.0, 200, OK_BODY, ""), *, queue=False):
        self.response = response
        self.queue = queue
        self.requests = []
        self.fields = {}
        self.connections = 0
        self.dropped = 0
        self.served_until = 0.0
        self.stalled_until = 0.0
        self.late = []

    def due(self, loop, delay):
        now = loop.time()
        if self.queue:
            self.served_until = max(now, self.served_until) + delay
            return self.served_until
        return max(now + delay, self.stalled_until)


class _Protocol(asyncio.Protocol):
    def __init__(self, stub):
        self.stub = stub
        self.data = bytearray()

    def connection_made(self, transport):
        self.stub.connections += 1
        self.transport = transport

    def data_received(self, data):
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            head = self.data[:end].decode()
            fields = dict(line.lower().split(": ") for line in head.split("\r\n")[1:])
            total = end + 4 + int(fields["content-length"])
            if len(self.data) < total:
                return
            number = len(self.stub.requests)
            self.stub.fields = fields
            self.stub.requests.append((head.split("\r\n")[0], bytes(self.data[end + 4 : total])))
            del self.data[:total]
            delay, status, body, extra = self.stub.response(number)
            loop = asyncio.get_running_loop()
            due = self.stub.due(loop, delay)
            if status is None:
                self.stub.dropped += 1
                loop.call_at(due, self.transport.abort)
                return
            text = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode()
            loop.call_at(due, self.write, due, text + body)

    def write(self, due, response):
        self.stub.late.append(asyncio.get_running_loop().time() - due)
        if not self.transport.is_closing():
            self.transport.write(response)
            if b"Connection: close" in response:
                self.transport.close()


@contextlib.contextmanager
def in_thread(serve):
    """Runs `await serve(stop)`, which yields the port, in a separate event loop."""
    loop = precise_loop()
    ready = threading.Event()
    state = {}

    async def main():
        state["stop"] = asyncio.Event()
        async with serve() as port:
            state["port"] = port
            ready.set()
            await state["stop"].wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield state["port"]
    finally:
        loop.call_soon_threadsafe(state["stop"].set)
        thread.join(20)
        loop.close()


@pytest.fixture
def rest_stub():
    """`rest_stub(response, queue=...) -> (stub, url)`."""
    with contextlib.ExitStack() as stack:

        def start(*arguments, **options):
            stub = RestStub(*arguments, **options)

            @contextlib.asynccontextmanager
            async def serve():
                loop = asyncio.get_running_loop()
                server = await loop.create_server(lambda: _Protocol(stub), "127.0.0.1", 0)
                yield server.sockets[0].getsockname()[1]
                server.close()

            return stub, f"http://127.0.0.1:{stack.enter_context(in_thread(serve))}"

        yield start


@pytest.fixture
def grpc_stub():
    """`grpc_stub(handler, credentials) -> url`; the handler takes (request bytes, context)."""
    import grpc

    with contextlib.ExitStack() as stack:

        def start(handler, credentials=None):
            @contextlib.asynccontextmanager
            async def serve():
                server = grpc.aio.server()
                method = grpc.unary_unary_rpc_method_handler(handler)
                service = "tensorflow.serving.PredictionService"
                server.add_generic_rpc_handlers(
                    (grpc.method_handlers_generic_handler(service, {"Predict": method}),)
                )
                if credentials is None:
                    port = server.add_insecure_port("127.0.0.1:0")
                else:
                    port = server.add_secure_port("127.0.0.1:0", credentials)
                await server.start()
                yield port
                await server.stop(None)

            scheme = "grpc" if credentials is None else "grpcs"
            return f"{scheme}://127.0.0.1:{stack.enter_context(in_thread(serve))}"

        yield start
