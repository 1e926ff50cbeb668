"""Clients of a server that speaks TF Serving's API, and predictions without a server.

    from serving.client import Client
    with Client("http://127.0.0.1:8501") as client:           # or grpc://127.0.0.1:8500
        client.predict(["seven.png"], model="digits_cnn")[0].label

| file | holds |
|---|---|
| `sync.py`, `aio.py` | `Client` and `AsyncClient`: the same methods, on either transport |
| `settings.py` | what both are made with |
| `api.py`, `ready.py`, `results.py` | operations, whatever the transport |
| `rest.py`, `rest_values.py`, `signatures.py` | REST; needs `numpy` and `requests` only |
| `grpc_transport.py` | gRPC; needs `grpcio` and `protobuf`, and imports no TensorFlow |
| `http.py`, `connections.py` | one HTTP request within a time; the connection pool |
| `retry.py` | which failures are tried again, when, and until when |
| `images.py` | paths, arrays, bytes and URLs to encoded images |
| `local.py` | `predict_local`: a bundle without a server |
"""

from serving.client.address import Tls
from serving.client.aio import AsyncClient
from serving.client.errors import ClientError
from serving.client.local import predict_local
from serving.client.sync import Client, connect
from serving.protocol.types import (
    Detections,
    ModelVersion,
    Prediction,
    Signature,
    TensorInfo,
    detections_from_outputs,
)

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Detections",
    "ModelVersion",
    "Prediction",
    "Signature",
    "TensorInfo",
    "Tls",
    "connect",
    "detections_from_outputs",
    "predict_local",
]
