"""Clients of a server that speaks TF Serving's API, and predictions without a server.

    from serving.client import Client
    with Client("http://127.0.0.1:8501") as client:           # or grpc://127.0.0.1:8500
        client.predict(["seven.png"], model="digits_cnn")[0].label

| file | holds |
|---|---|
| `sync.py`, `aio.py` | `Client` and `AsyncClient`: the same methods, on either transport |
| `settings.py`, `address.py` | their validated arguments; server addresses and TLS |
| `api.py`, `ready.py`, `results.py` | operations, independent of the transport |
| `rest.py`, `rest_values.py` | REST; needs only `numpy` and `requests` |
| `grpc_transport.py` | gRPC; needs `grpcio` and `protobuf`, not TensorFlow |
| `http.py`, `connections.py` | HTTP requests within a deadline; the connection pool |
| `retry.py` | retries and deadlines |
| `images.py` | encoded images from paths, arrays, bytes and URLs |
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
