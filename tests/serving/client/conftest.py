"""Stub servers: real sockets and real gRPC, with responses that each test sets."""

import contextlib
import http.server
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

#: A classifier's response for one image, in row format.
ROW = {"scores": [0.75, 0.25], "classes": [4, 1], "labels": ["four", "one"]}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.server.stub.connections += 1

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        seen = SimpleNamespace(
            method=self.command, path=self.path, headers=dict(self.headers), body=body
        )
        stub = self.server.stub
        with stub.lock:
            stub.requests.append(seen)
            reply = stub.answers.pop(0) if stub.answers else stub.reply
        answer = reply(seen) if callable(reply) else reply
        if answer is None:
            self.close_connection = True
            return
        status, content, *headers = answer
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers = dict(headers[0]) if headers else {}
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, format, *args):
        pass


class RestStub:
    """Sends `answers`, one by one, then `reply`.

    Each is (status, JSON or bytes, headers), a function from the request to one, or None to
    hang up.
    """

    def __init__(self):
        self.answers, self.requests, self.connections = [], [], 0
        self.reply = (500, {"error": "the test queued no response"})
        self.lock = threading.Lock()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.server.daemon_threads = True
        self.server.stub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def run(self):
        self.server.serve_forever(poll_interval=0.01)


@pytest.fixture
def rest():
    stub = RestStub()
    worker = threading.Thread(target=stub.run)
    worker.start()
    yield stub
    stub.server.shutdown()
    worker.join()
    stub.server.server_close()


@pytest.fixture
def listen():
    """`listen(handle) -> port`; `handle` handles each connection in its own thread."""
    workers = []
    with contextlib.ExitStack() as stack:

        def serve(connection, handle):
            with connection, contextlib.suppress(OSError):
                handle(connection)

        def start(handle):
            # With a small buffer, so that writes to a client that does not read soon block.
            listener = stack.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            listener.bind(("127.0.0.1", 0))
            listener.listen()

            def accept():
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = listener.accept()
                        workers.append(threading.Thread(target=serve, args=(connection, handle)))
                        workers[-1].start()

            workers.append(threading.Thread(target=accept))
            workers[-1].start()
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            return listener.getsockname()[1]

        yield start
    for worker in workers:
        worker.join()


class GrpcStub:
    """Responds with the bytes of `reply(method, request bytes, context)`."""

    def __init__(self, credentials=None):
        import grpc

        self.requests = []
        self.reply = lambda method, body, context: b""
        stub = self

        class Any(grpc.GenericRpcHandler):
            def service(self, handler_call_details):
                method = handler_call_details.method.rpartition("/")[2]

                def answer(body, context):
                    stub.requests.append((method, body, context.time_remaining()))
                    return stub.reply(method, body, context)

                return grpc.unary_unary_rpc_method_handler(answer)

        self.server = grpc.server(ThreadPoolExecutor(16), handlers=[Any()])
        if credentials is None:
            port = self.server.add_insecure_port("127.0.0.1:0")
        else:
            port = self.server.add_secure_port("127.0.0.1:0", credentials)
        self.url = f"grpc{'s' if credentials else ''}://127.0.0.1:{port}"
        self.server.start()

    def stop(self):
        self.server.stop(0).wait()


@pytest.fixture
def grpc_stub():
    stub = GrpcStub()
    yield stub
    stub.stop()


@pytest.fixture
def make_grpc_stub():
    """`(server credentials) -> GrpcStub`, stopped after the test."""
    made = []

    def make(credentials):
        made.append(GrpcStub(credentials))
        return made[-1]

    yield make
    for stub in made:
        stub.stop()


@pytest.fixture
def rows():
    """`(number of images) -> a classifier's response`, in row format."""
    return lambda count: (200, {"predictions": [ROW] * count})


@pytest.fixture
def no_jitter(monkeypatch):
    """Waits without jitter are recorded in the returned list instead of slept."""
    from serving.client import retry

    waits = []
    monkeypatch.setattr(retry.random, "uniform", lambda low, high: high)
    monkeypatch.setattr(retry.time, "sleep", waits.append)
    return waits
