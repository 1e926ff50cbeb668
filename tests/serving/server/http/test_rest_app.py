"""The ASGI application on a real socket: bodies that come slowly, or never to their end."""

import asyncio
import contextlib

import pytest

from serving.server.http.web import Response
from serving.server.lifecycle.listeners import listen, start_rest

WAIT = 20
HEAD = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\n"
LENGTH = HEAD + b"Content-Length: 6\r\n\r\n"


def talk(pieces, *, body_timeout_s, handler_s=0.0):
    """All that the server says to a client that sends the pieces, a moment apart, and then waits.

    The server returns the body of the request.
    """
    from serving.server.http.asgi import RestApp

    async def handle(method, path, headers, body):
        await asyncio.sleep(handler_s)
        return Response(200, body, {"Connection": "close"})

    async def main():
        listener = listen("127.0.0.1", 0)
        app = RestApp(handle, 1000, body_timeout_s=body_timeout_s)
        front = start_rest(app, listener, host="127.0.0.1", tls=None)
        try:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            with contextlib.closing(writer):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.01)
                return await asyncio.wait_for(reader.read(), WAIT)
        finally:
            await front.stop()

    return asyncio.run(main())


@pytest.mark.parametrize(
    "pieces",
    [[LENGTH], [LENGTH, b"a", b"b"], [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"]],
    ids=["nothing", "a_part", "chunks"],
)
def test_a_body_that_does_not_end_is_refused_and_the_connection_closed(pieces):
    answer = talk(pieces, body_timeout_s=0.2)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer
    assert b"not there within 0.2 s" in answer


def test_a_body_in_pieces_is_put_together():
    answer = talk([LENGTH, b"ab", b"cd", b"ef"], body_timeout_s=WAIT)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nabcdef")


def test_the_limit_applies_to_bodies_not_to_responses():
    answer = talk([LENGTH + b"abcdef"], body_timeout_s=0.2, handler_s=0.4)
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("hangs_up", [True, False])
def test_a_request_ends_when_its_client_hangs_up(hangs_up):
    from serving.server.http.asgi import RestApp

    async def main():
        outcome = asyncio.get_running_loop().create_future()

        async def handle(method, path, headers, body):
            try:
                await asyncio.sleep(WAIT if hangs_up else 0.1)
            except asyncio.CancelledError:
                outcome.set_result("cancelled")
                raise
            outcome.set_result("done")
            return Response(200, body)

        listener = listen("127.0.0.1", 0)
        front = start_rest(RestApp(handle, 1000), listener, host="127.0.0.1", tls=None)
        try:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            with contextlib.closing(writer):
                writer.write(LENGTH + b"abcdef")
                if not hangs_up:
                    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            return await asyncio.wait_for(outcome, WAIT)
        finally:
            await front.stop()

    assert asyncio.run(main()) == ("cancelled" if hangs_up else "done")
