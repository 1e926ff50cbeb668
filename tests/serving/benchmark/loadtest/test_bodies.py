import base64
import json

import numpy as np
import pytest

from serving.benchmark.loadtest import (
    LoadError,
    LoadTarget,
    from_file,
    from_folder,
    from_images,
    generated,
)
from serving.protocol import wire
from serving.protocol.images import encode_png

REST = LoadTarget("http://h", "m", signature="s")
GRPC = LoadTarget("grpc://h", "m", version=4)


def decoded(body):
    request = wire.message("PredictRequest").FromString(body)
    return request, {entry.key: wire.to_array(entry.value) for entry in request.inputs}


def test_images_of_a_folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.PNG").write_bytes(b"2")
    (tmp_path / "deep" / "a.jpg").write_bytes(b"3")
    (tmp_path / "a.jpeg").write_bytes(b"1")
    (tmp_path / "notes.txt").write_text("no image")
    found = from_folder(tmp_path, REST, rows=2)
    rows = [
        [base64.b64decode(row["b64"]) for row in json.loads(body)["instances"]]
        for body in found.bodies
    ]
    assert rows == [[b"1", b"2"], [b"3", b"1"]]
    assert json.loads(found.bodies[0])["signature_name"] == "s"
    assert found.rows == 2
    one = from_folder(tmp_path / "a.jpeg", GRPC)
    request, inputs = decoded(one.bodies[0])
    assert (request.model_spec.name, request.model_spec.version.value) == ("m", 4)
    assert inputs["image_bytes"].tolist() == [b"1"]


def test_generated_images_are_images():
    import io

    from PIL import Image

    body = json.loads(generated(REST).bodies[0])
    image = Image.open(io.BytesIO(base64.b64decode(body["instances"][0]["b64"])))
    assert image.size == (224, 224)


def test_arrays(tmp_path):
    file = tmp_path / "in.npz"
    np.savez(file, x=np.float32([[1, 2], [3, 4]]), name=np.array(["a", "b"]))
    _, inputs = decoded(from_file(file, GRPC).bodies[0])
    assert inputs["x"].tolist() == [[1, 2], [3, 4]]
    assert inputs["x"].dtype == np.float32
    assert inputs["name"].tolist() == [b"a", b"b"]
    columns = json.loads(from_file(file, REST).bodies[0])["inputs"]
    assert columns == {"x": [[1, 2], [3, 4]], "name": [{"b64": "YQ=="}, {"b64": "Yg=="}]}
    assert from_file(file, REST).rows == 2


def test_bodies_of_a_file(tmp_path):
    (tmp_path / "a.json").write_text('{\n"instances": [1.5, NaN]}')
    assert b"NaN" in from_file(tmp_path / "a.json", REST).bodies[0]
    (tmp_path / "a.jsonl").write_text('{"inputs": 1}\n\n{"examples": []}\n')
    assert len(from_file(tmp_path / "a.jsonl", REST).bodies) == 2


def test_a_file_goes_to_the_signature_that_is_asked_for(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"inputs": 1}\n{"inputs": 2, "signature_name": "s"}\n')
    named = [
        json.loads(body)["signature_name"] for body in from_file(tmp_path / "a.jsonl", REST).bodies
    ]
    assert named == ["s", "s"]
    plain = from_file(tmp_path / "a.jsonl", LoadTarget("http://h", "m")).bodies
    assert [json.loads(body).get("signature_name") for body in plain] == [None, "s"]
    with pytest.raises(LoadError, match=r"line 2: .* signature 's', and --signature is 't'"):
        from_file(tmp_path / "a.jsonl", LoadTarget("http://h", "m", signature="t"))


def test_lines_end_at_line_feeds_only(tmp_path):
    texts = ["a\u2028b", "\x85", "\u2029"]
    lines = [json.dumps({"instances": [text]}, ensure_ascii=False) for text in texts]
    (tmp_path / "a.jsonl").write_bytes("\r\n".join(lines).encode())
    found = from_file(tmp_path / "a.jsonl", REST)
    assert [json.loads(body)["instances"] for body in found.bodies] == [[text] for text in texts]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b'{\n "instances": [1,]\n}', "a.json, line 2, column 1"),
        ("a.jsonl", b'{"inputs": 1}\n{"inputs"\n', "a.jsonl, line 2"),
        ("a.json", b"[1]", "line 1: a request is an object with one of instances"),
        ("a.json", b'{"instances": [\n"\xff"]}', "line 2: not UTF-8"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.jsonl", b"\n", "no request to send from"),
        ("a.txt", b"", "got .txt"),
        ("a.npz", b"nothing", "not an .npz"),
    ],
)
def test_malformed_files_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LoadError) as caught:
        from_file(tmp_path / name, REST)
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_what_cannot_be_sent(tmp_path):
    (tmp_path / "a.json").write_text('{"inputs": 1}')
    with pytest.raises(LoadError, match="npz for gRPC"):
        from_file(tmp_path / "a.json", GRPC)
    np.savez(tmp_path / "o.npz", x=np.array([{}], object))
    with pytest.raises(LoadError, match="plain arrays"):
        from_file(tmp_path / "o.npz", GRPC)
    np.savez(tmp_path / "c.npz", x=np.array(["2026-11-23"], "datetime64[D]"))
    for target in (GRPC, REST):
        with pytest.raises(LoadError, match=r"c\.npz: "):
            from_file(tmp_path / "c.npz", target)
    with pytest.raises(LoadError, match="does not exist"):
        from_file(tmp_path / "none.json", REST)
    with pytest.raises(LoadError, match="does not exist"):
        from_folder(tmp_path / "none", REST)
    with pytest.raises(LoadError, match="no image"):
        from_folder(tmp_path, REST)
    with pytest.raises(LoadError, match="at least 1"):
        from_images([encode_png(np.zeros((1, 1, 3), np.uint8))], REST, rows=0)
