"""Small requests that would take long: their cost is in proportion to what a good one costs."""

import asyncio
import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from core.image_header import MAX_PIXELS, MAX_SCANS, ImageTooLargeError, check_image
from serving.server.errors import ServingError
from serving.server.http.json_decode import decode_predict, read_document
from serving.server.http.json_examples import decode_examples

pytestmark = pytest.mark.onednn

COUNT = 300_000
#: CPU time of the refusal, of that of the same request without its fault. It was 60 to 300.
MOST = 12


def seconds(body, decode, *, refused=None):
    began = time.process_time()
    if refused is None:
        decode(body)
    else:
        with pytest.raises(ServingError, match=refused):
            decode(body)
    return time.process_time() - began


def predict(body, dtypes=(("x", "DT_FLOAT"),)):
    return decode_predict(read_document(body), dict(dtypes))


def regress(body):
    return decode_examples(read_document(body))


TWO = (("a", "DT_FLOAT"), ("b", "DT_INT32"))
CASES = {
    "rows": (predict, '{"instances": [%s]}', "1", '"x"', f"element: {COUNT} of"),
    "rows_of_one": (predict, '{"instances": [%s]}', "[1]", "[1, 1]", f"element: {COUNT} of"),
    "one_row": (predict, '{"instances": [[%s]]}', "1", '"x"', '"x" Type: String is not'),
    "rows_in_a_row": (predict, '{"instances": [[%s]]}', "[1]", '["x"]', '"x" Type: String'),
    "columns": (predict, '{"inputs": [%s]}', "[1]", "[]", "unexpected size: 0 at level: 1"),
    "named_rows": (
        lambda body: predict(body, TWO),
        '{"instances": [%s]}',
        '{"a":1,"b":1}',
        '{"a":1,"b":1.5}',
        f"element: {COUNT} key: b of",
    ),
    "features": (regress, '{"examples": [{"x": [%s]}]}', "1.5", '"x"', "expecting type: float"),
    "null_feature": (regress, '{"examples": [{"x": [%s]}]}', "1", "null", "JSON type: Null"),
}


@pytest.mark.parametrize("case", CASES)
def test_explaining_a_fault_costs_no_more_than_reading(case):
    decode, form, good, bad, words = CASES[case]
    plain = (form % ",".join([good] * COUNT)).encode()
    faulty = (form % ",".join([*[good] * COUNT, bad])).encode()
    assert seconds(faulty, decode, refused=words) < MOST * seconds(plain, decode)


@pytest.mark.parametrize("end", [b",]}", b',"\\ud800"]}'])
def test_what_the_slow_parser_reads_is_limited(end):
    """A fault at the end of millions of values, which it took seconds a million to reach."""
    values = b"1," * 4_000_000
    fast = seconds(b'{"x":[' + values + b"1]}", read_document)
    assert seconds(b'{"x":[' + values + end, read_document, refused="JSON Parse") < MOST * fast


def test_nesting_without_end_is_refused_and_that_of_the_contract_is_not():
    with pytest.raises(ServingError, match="deep nesting in more than"):
        read_document(b"[" * 5_000_000)
    with pytest.raises(ServingError, match="at most 32 dimensions"):
        predict(b'{"instances": ' + b"[" * 500_000 + b"]" * 500_000 + b"}")


def test_pairs_of_surrogates_take_the_fast_way():
    """Python's own `json.dumps` writes every emoji so."""
    values = list(range(700_000))
    body = json.dumps({"x": values, "text": "\U0001f600\\ud83d"}).encode()
    assert b"\\ud83d\\ude00" in body
    assert read_document(body) == {"x": values, "text": "\U0001f600\\ud83d"}


@pytest.mark.parametrize("position", [0, 1, 1023, 1024, 1025, 3000, 4095])
@pytest.mark.parametrize("shape", [(4096,), (4096, 2), (2, 4096), (64, 64, 1)])
def test_the_first_of_two_faults_is_named(shape, position):
    values = np.ones(shape).tolist()
    flat = np.arange(np.prod(shape)).reshape(shape)
    for fault, number in ((f"first{position}", position), ("second", flat.size - 1)):
        where = np.unravel_index(number, shape)
        target = values
        for index in where[:-1]:
            target = target[index]
        if not isinstance(target[where[-1]], str):
            target[where[-1]] = fault
    with pytest.raises(ServingError) as caught:
        predict(json.dumps({"inputs": values}).encode())
    assert f'"first{position}" Type: String' in caught.value.message
    with pytest.raises(ServingError) as caught:
        predict(json.dumps({"instances": values}).encode())
    row = int(np.unravel_index(position, shape)[0])
    assert f"element: {row} of" in caught.value.message


def progressive(size, extra_scans):
    """A progressive JPEG whose last scan is repeated."""
    buffer = io.BytesIO()
    Image.new("L", (size, size), 128).save(buffer, "JPEG", progressive=True, quality=50)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    assert data[-2:] == b"\xff\xd9"
    return data[:-2] + data[last:-2] * extra_scans + b"\xff\xd9"


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded():
    assert check_image(progressive(64, 0)).width == 64
    assert check_image(progressive(64, MAX_SCANS - 10)).width == 64
    words = f"JPEG of 64 x 64 with more than {MAX_SCANS} scans"
    with pytest.raises(ImageTooLargeError, match=words):
        check_image(progressive(64, MAX_SCANS))
    # The larger the image, the fewer.
    data = progressive(64, 14)
    frame = data.index(b"\xff\xc2")
    wide = data[: frame + 5] + (8192).to_bytes(2, "big") * 2 + data[frame + 9 :]
    assert MAX_PIXELS == 8192 * 8192
    with pytest.raises(ImageTooLargeError, match="8192 x 8192 with more than 16 scans"):
        check_image(wide)


def test_scans_in_an_embedded_thumbnail_are_not_counted():
    inner = progressive(8, MAX_SCANS)
    outer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(outer, "JPEG")
    data = outer.getvalue()
    segment = b"\xff\xe1" + (len(inner) + 2).to_bytes(2, "big") + inner
    header = check_image(data[:2] + segment + data[2:])
    assert (header.height, header.width) == (30, 40)


@pytest.mark.parametrize("entry", ["rest", "grpc"])
def test_work_beyond_its_deadline_does_not_keep_its_slot(entry):
    """Four pieces of work that cannot be stopped, with a single slot."""
    import threading

    from serving.server.observability.metrics import Metrics
    from serving.server.scheduling.dispatch import Dispatcher

    release, begun = threading.Event(), threading.Semaphore(0)
    dispatcher = Dispatcher(1, metrics=Metrics())

    def stuck():
        begun.release()
        release.wait(60)
        return "late"
        yield

    def quick():
        return "done"
        yield

    def run_here(steps, timeout):
        gone = []
        timer = threading.Timer(timeout, lambda: gone[0]())
        timer.start()
        return dispatcher.run_here(
            steps, timeout=timeout, on_disconnect=lambda tell: gone.append(tell) or True
        )

    async def scenario():
        loop = asyncio.get_running_loop()
        # The second waits for the deadline of the first, and needs time after that.
        for timeout in (2, 8):
            if entry == "rest":
                with pytest.raises(ServingError, match="Timed out"):
                    await dispatcher.run(stuck(), timeout=timeout)
            else:
                loop.run_in_executor(None, run_here, stuck(), timeout)
            assert await loop.run_in_executor(None, begun.acquire, True, 30)
        assert await dispatcher.run(quick(), timeout=30) == "done"
        # Beyond two overdue requests per slot it waits as before, as threads are limited.
        third = asyncio.ensure_future(dispatcher.run(stuck(), timeout=0.05))
        with pytest.raises(ServingError, match="Timed out"):
            await third
        with pytest.raises(ServingError, match="Timed out"):
            await dispatcher.run(quick(), timeout=0.3)
        release.set()
        assert await dispatcher.run(quick(), timeout=30) == "done"

    try:
        asyncio.run(asyncio.wait_for(scenario(), 90))
    finally:
        release.set()
        dispatcher.close()
