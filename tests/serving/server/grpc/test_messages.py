"""Messages that are large, late, absent or damaged, over real channels and raw HTTP/2."""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from urllib.parse import urlsplit

import grpc
import pytest

from serving.protocol import wire
from serving.server.grpc import methods as grpc_messages
from serving.server.grpc.methods import CallThreads, Messages, unary_service
from serving.server.lifecycle.listeners import start_grpc

WAIT = 20
REQUEST, RESPONSE = wire.message("HealthCheckRequest"), wire.message("HealthCheckResponse")
HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 1, 3, 4, 6, 7


@contextlib.contextmanager
def serving(messages, behavior, *, at_once=False):
    """A channel to a server whose one method is `/t.T/Do`, and its port."""
    threads = CallThreads(0, messages=messages)
    call = threads.quick(behavior) if at_once else behavior
    handler = unary_service("t.T", {"Do": (call, REQUEST)}, threads)
    front = start_grpc("127.0.0.1", 0, [handler], threads=threads, max_request_bytes=10_000)
    with grpc.insecure_channel(front.url.removeprefix("grpc://")) as channel:
        yield channel, urlsplit(front.url).port
        asyncio.run(front.stop())


def do(channel, data, timeout=WAIT):
    stub = channel.unary_unary("/t.T/Do", response_deserializer=RESPONSE.FromString)
    return stub.future(data, timeout=timeout)


def ok(request, context):
    return RESPONSE(status=1)


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class Unfinished:
    """A connection of HTTP/2 with calls of which nothing but the headers was sent."""

    def __init__(self, port, calls):
        self.connection = socket.create_connection(("127.0.0.1", port), WAIT)
        pairs = {":method": "POST", ":scheme": "http", ":path": "/t.T/Do", ":authority": "x"}
        pairs |= {"content-type": "application/grpc", "te": "trailers"}
        block = b"".join(
            b"\x00" + bytes([len(key)]) + key.encode() + bytes([len(value)]) + value.encode()
            for key, value in pairs.items()
        )
        sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)
        sent += b"".join(frame(HEADERS, 4, 2 * n + 1, block) for n in range(calls))
        self.connection.sendall(sent)
        self._data = b""

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.connection.close()

    def wait_ended(self, count):
        """Waits until the server has ended so many of the calls."""
        while count:
            kind, flags, payload = self._frame()
            if kind == RST_STREAM:
                count -= 1
            elif kind in (SETTINGS, PING) and not flags & 1:
                self.connection.sendall(frame(kind, 1, 0, payload if kind == PING else b""))
            assert kind != GOAWAY, payload

    def _frame(self):
        head = self._read(9)
        kind, flags = head[3], head[4]
        return kind, flags, self._read(int.from_bytes(head[:3], "big"))

    def _read(self, size):
        while len(self._data) < size:
            piece = self.connection.recv(65536)
            assert piece, "the server has closed the connection"
            self._data += piece
        data, self._data = self._data[:size], self._data[size:]
        return data


def test_messages_beyond_the_limit_are_refused_until_others_end():
    entered, gate = threading.Semaphore(0), threading.Event()

    def slow(request, context):
        entered.release()
        assert gate.wait(WAIT)
        return RESPONSE(status=1)

    data = REQUEST(service="x" * 9000).SerializeToString()
    with serving(Messages(20_000), slow) as (channel, _):
        held = [do(channel, data) for _ in range(2)]
        assert all(entered.acquire(timeout=WAIT) for _ in held)
        refused = do(channel, data).exception(WAIT)
        assert refused.code().name == "RESOURCE_EXHAUSTED"
        words = "may take 20000 bytes together (--max_body_bytes_in_flight); try again later"
        assert words in refused.details()
        assert dict(refused.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
        assert not entered.acquire(blocking=False)
        gate.set()
        assert [future.result(WAIT).status for future in held] == [1, 1]
        # All of it was given back, that of the refused one was never taken.
        for _ in range(5):
            assert do(channel, data).result(WAIT).status == 1


@pytest.mark.parametrize("at_once", [True, False])
def test_calls_without_a_message_do_not_keep_others_from_their_threads(at_once):
    with serving(Messages(), ok, at_once=at_once) as (channel, port), Unfinished(port, 50) as late:
        # There are eight threads, or four, and each has a call that waits for its message.
        late.wait_ended(20)
        assert do(channel, b"").result(WAIT).status == 1


def test_a_call_without_a_message_keeps_its_thread_while_no_call_waits():
    with serving(Messages(), ok) as (channel, port), Unfinished(port, 1) as late:
        end = time.monotonic() + grpc_messages.SLOW_S + 1
        while time.monotonic() < end:
            assert do(channel, b"").result(WAIT).status == 1
        late.connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            late.wait_ended(1)


def test_a_message_must_arrive_in_time(monkeypatch):
    monkeypatch.setattr(grpc_messages, "MESSAGE_TIMEOUT_S", 1.5)
    with serving(Messages(), ok) as (_, port), Unfinished(port, 1) as late:
        late.wait_ended(1)


def test_messages_that_arrive_give_way_when_the_process_grows():
    """gRPC shows no part of a message: only the process's memory shows that it holds any."""
    memory, looked = [1000], threading.Event()

    def resident():
        looked.set()
        return memory[0]

    with serving(Messages(500, resident=resident), ok) as (channel, port):
        assert do(channel, b"").result(WAIT).status == 1
        assert looked.wait(WAIT)
        with Unfinished(port, 3) as late:
            time.sleep(2 * grpc_messages.SLOW_S)
            memory[0] = 1501
            late.wait_ended(3)
        assert do(channel, b"").result(WAIT).status == 1


def test_no_message_and_one_that_is_damaged(caplog):
    with serving(Messages(), ok) as (channel, _):
        damaged = do(channel, b"\xff").exception(WAIT)
        assert (damaged.code().name, damaged.details()) == (
            "INTERNAL",
            "Exception deserializing request!",
        )
        none = channel.stream_unary("/t.T/Do").future(iter(()), timeout=WAIT).exception(WAIT)
        assert none.code().name == "UNIMPLEMENTED"
    assert [record.message for record in caplog.records] == [
        "a call sent 1 bytes that are not a valid HealthCheckRequest"
    ]


def test_the_process_knows_its_memory():
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    kib = int(lines["VmRSS"].split()[0])
    assert grpc_messages.resident_bytes() == pytest.approx(kib * 1024, rel=0.1)
