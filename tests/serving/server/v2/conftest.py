"""Models made of NumPy behind the real dispatcher: no TensorFlow."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from serving.engines.signatures import GraphSignature, GraphTensor
from serving.server.errors import ServingError, invalid
from serving.server.extras.hooks import Hooks
from serving.server.observability.metrics import Metrics
from serving.server.scheduling.calls import EngineCall
from serving.server.scheduling.dispatch import Dispatcher
from serving.server.v2.service import OpenInference


class StubEngine:
    """The outputs of a function on arrays."""

    runtime = "TF1"

    def __init__(self, function, inputs, outputs):
        signature = GraphSignature(
            "serving_default", "predict", infos(inputs), infos(outputs), None
        )
        self.signatures = {"serving_default": signature}
        self.function = function

    def run_tensors(self, feeds, fetches):
        outputs = self.function(**feeds)
        return {name: outputs[name] for name in fetches}


def infos(tensors):
    return {name: GraphTensor(name, dtype, shape) for name, (dtype, shape) in tensors.items()}


@dataclass(eq=False)
class StubServable:
    name: str
    version: int
    engine: StubEngine
    batching: Any = None


class StubModels:
    """Models by name and version, with the methods of `ModelManager` that V2 uses."""

    def __init__(self):
        self.servables = {}
        self.labels = {}

    def add(self, name, version, engine, label=None):
        servable = StubServable(name, version, engine)
        self.servables.setdefault(name, {})[version] = servable
        if label:
            self.labels[name, label] = version

    def knows(self, name):
        return name in self.servables

    def available(self):
        return {name: sorted(versions) for name, versions in self.servables.items()}

    @contextlib.contextmanager
    def use(self, name, version=None, label=None):
        if label and (name, label) not in self.labels:
            raise invalid(f"Unrecognized servable version label: {label}")
        versions = self.servables.get(name, {})
        wanted = self.labels[name, label] if label else version
        found = versions.get(max(versions, default=0) if wanted is None else wanted)
        if found is None:
            raise ServingError("NOT_FOUND", f"Servable not found: {name}, {version}")
        yield found


class StubHooks(Hooks):
    """Runs the engine itself; the real one checks names first, with TensorFlow's protos loaded."""

    def call(self, api, servable, signature, request, output_filter=()):
        known = servable.engine.signatures[signature]
        for name in [*request, *output_filter]:
            if name not in {**known.inputs, **known.outputs}:
                raise invalid(f"no tensor {name}")
        wanted = tuple(output_filter) or tuple(known.outputs)
        return (yield EngineCall(servable, request, wanted))


def half_plus(offset):
    return StubEngine(
        lambda x: {"y": x / 2 + np.float32(offset)},
        {"x": ("DT_FLOAT", (-1,))},
        {"y": ("DT_FLOAT", (-1,))},
    )


@pytest.fixture
def models():
    """`half`: 1 (stable) adds 1, 2 adds 2; `echo` gives back its strings, halves and numbers."""
    stub = StubModels()
    stub.add("half", 1, half_plus(1), "stable")
    stub.add("half", 2, half_plus(2))
    tensors = {
        "words": ("DT_STRING", (-1,)),
        "halves": ("DT_HALF", (-1, 2)),
        "big": ("DT_UINT64", None),
        "one": ("DT_BOOL", ()),
    }
    stub.add("echo", 7, StubEngine(lambda **inputs: inputs, tensors, tensors))
    return stub


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def service(models, metrics):
    dispatcher = Dispatcher(2, metrics=metrics)
    yield OpenInference(models, metrics, dispatcher, hooks=StubHooks())
    dispatcher.close()


@pytest.fixture
def run():
    """Runs a coroutine to its end."""
    return lambda work: asyncio.run(work)
