"""curl over HTTP/1.1: REST requests from a terminal, with labels and errors."""

import base64
import json
import shlex
import subprocess
from pathlib import Path

from asking import Transcript, X, Y, check, read_facts

facts = read_facts()
ask = Transcript(facts)
api = f"http://{facts.rest}/v1/models"
version = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True)
ask.print("# " + " ".join(version.stdout.split()[:2]))


def curl(path, *options):
    """(status, body) of a request."""
    command = ["curl", "-s", *options, f"{api}/{path}"]
    ask.print(f"$ {shlex.join(command)}")
    run = subprocess.run(
        [*command[:1], "-w", "\n%{http_code}", "--max-time", "30", *command[1:]],
        cwd=facts.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    body, _, status = run.stdout.rpartition("\n")
    # Metadata are long, and in another order in every process.
    shown = body if len(body) < 1000 else f"{body[:100]} ..."
    ask.print(f"{status} {' '.join(shown.split())}")
    return int(status), body


def answer(path, *options):
    """The JSON of a successful response."""
    status, body = curl(path, *options)
    check(status, 200)
    return json.loads(body)


def refusal(status, path, *options):
    """The text of an error with this status."""
    got, body = curl(path, *options)
    check(got, status)
    return json.loads(body)["error"]


rows, columns = ("-d", json.dumps({"instances": X})), ("-d", json.dumps({"inputs": X}))
for where in ("", "/versions/123", "/versions/124", "/labels/stable", "/labels/canary"):
    check(answer(f"half_plus_two{where}:predict", *rows), {"predictions": Y})
check(answer("half_plus_two:predict", *columns), {"outputs": Y})
named = json.dumps({"instances": [{"x": row} for row in X]})
check(answer("half_plus_two:predict", "-d", named), {"predictions": Y})
examples = {"signature_name": "regress_x_to_y", "examples": [{"x": x} for (x,) in X]}
results = answer("half_plus_two:regress", "-d", json.dumps(examples))
check(results, {"results": [y for (y,) in Y]})
examples["signature_name"] = "classify_x_to_y"
results = answer("half_plus_two:classify", "-d", json.dumps(examples))
check(results, {"results": [[["", y]] for (y,) in Y]})

file = Path(facts.folder) / "photo.json"
encoded = base64.b64encode(facts.photo).decode()
file.write_text(json.dumps({"inputs": [{"b64": encoded}]}))
subprocess.run(["gzip", "--keep", str(file)], check=True)
ask.print(f"# photo.json is {file.stat().st_size} bytes of JSON, a JPEG in base64")
packed = ("--data-binary", "@photo.json.gz", "-H", "Content-Encoding: gzip")
for sent in (("--data-binary", "@photo.json"), packed):
    check(answer("colors/versions/1:predict", *sent), {"outputs": facts.answers["photo"]})

states = [one["state"] for one in answer("half_plus_two")["model_version_status"]]
check(states, ["AVAILABLE", "AVAILABLE"])
(only,) = answer("half_plus_two/versions/123")["model_version_status"]
check(only["version"], "123")
# TF Serving's response for this model is recorded beside it, under another name.
recorded = json.loads(Path(facts.recorded_metadata).read_text())
recorded["model_spec"]["name"] = "half_plus_two"
check(answer("half_plus_two/labels/stable/metadata"), recorded)

refusal(404, "no_such_model:predict", *rows)
refusal(404, "no_such_model")
refusal(404, "half_plus_two/versions/125:predict", *rows)
refusal(400, "half_plus_two/labels/no_such_label:predict", *rows)
refusal(400, "half_plus_two:predict", "-d", '{"instances": [1.0')
refusal(400, "half_plus_two:predict", "-d", '{"instances": ["one"]}')
refusal(400, "half_plus_two:predict", "-d", '{"instances": [[1.0], [2.0, 3.0]]}')
refusal(400, "colors:predict", "-d", '{"inputs": [["a"], ["b"]]}')
refusal(400, "colors:predict", "-d", '{"inputs": [{"b64": "bm8gcGljdHVyZQ=="}]}')
