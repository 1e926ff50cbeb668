"""`Client`: blocking calls, over REST or gRPC."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from core import bundle as bundles
from serving.client import results
from serving.client.address import Tls
from serving.client.api import (
    Api,
    Columns,
    Done,
    Example,
    ModelSpec,
    Steps,
    Transport,
    advance,
    read_signatures,
)
from serving.client.errors import ClientError
from serving.client.images import MAX_DOWNLOAD_BYTES
from serving.client.ready import POLL_TIMEOUT_S, ReadinessPoll, reason_of, why_not_ready
from serving.client.rest import RestApi, RestTransport
from serving.client.retry import Deadline, Tries, call
from serving.client.settings import Settings, import_grpc
from serving.protocol.images import Image
from serving.protocol.types import ClassNames, Detections, ModelVersion, Prediction, Signature


class Client:
    """A client of one server; safe to use from several threads.

    Each call has one deadline, `timeout_s`, which includes downloads, every request of a long list,
    every retry and the waits between them. Over gRPC the deadline is sent to the server.
    Connections are kept open: one for all calls over gRPC, one per active thread over REST.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 30.0,
        retries: int = 3,
        headers: Mapping[str, str] | None = None,
        tls: Tls | None = None,
        max_download_bytes: int = MAX_DOWNLOAD_BYTES,
    ) -> None:
        """Connects at the first call.

        Args:
          url: `http://host:8501`, `https://...`, `grpc://host:8500` or `grpcs://...`.
          timeout_s: default timeout of a call; `math.inf` is no deadline.
          retries: further attempts of a request after a failed connection, 429, 502, 503, 504,
            UNAVAILABLE, and RESOURCE_EXHAUSTED if the server names a wait.
          headers: sent with every request, over gRPC as metadata.
          tls: trusted authorities and client certificate, for https and grpcs.
          max_download_bytes: largest image that is downloaded from a URL.

        Raises:
          ClientError: not a server address.
          FileNotFoundError: a file of `tls` does not exist.
          ValueError: `timeout_s` or `retries` is out of range, a file of `tls` is not PEM, or the
            address is not encrypted.
        """
        self._settings = Settings(
            url,
            timeout_s=timeout_s,
            retries=retries,
            tls=tls,
            max_download_bytes=max_download_bytes,
        )
        self._api, self._transport = _connect(self._settings, headers or {})

    @property
    def url(self) -> str:
        """The server's URL, without a trailing slash."""
        return self._settings.address.url

    def predict(
        self,
        images: Sequence[Image],
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        top_k: int | None = None,
        batch_size: int | None = None,
        timeout_s: float | None = None,
        signature: str = bundles.SIGNATURE_BYTES,
    ) -> list[Prediction]:
        """One prediction per image, in order; [] for no images.

        Args:
          images: paths, http(s) and data URLs, encoded bytes, or (H, W, 3) uint8 arrays, which
            are sent as PNG.
          model: model name.
          version: model version; None is the newest.
          label: version label, e.g. `stable`, instead of `version`.
          top_k: number of classes, at most as many as the model returns.
          batch_size: images per request; None sends all in one request.
          timeout_s: of the whole call; None is the client's default.
          signature: a signature that takes encoded images.

        Raises:
          ClientError: the server rejected the request or did not respond in time.
          FileNotFoundError: a path does not exist.
          ValueError: an array is not an image, or both `version` and `label` are given.
        """
        spec = ModelSpec(model, version, label)
        return self._over_images(
            images,
            spec,
            partial(results.predictions, spec=spec, top_k=top_k),
            batch_size=batch_size,
            timeout_s=timeout_s,
            signature=signature,
        )

    def detect(
        self,
        images: Sequence[Image],
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        class_names: ClassNames | None = None,
        batch_size: int | None = None,
        timeout_s: float | None = None,
        signature: str = bundles.SIGNATURE_BYTES,
    ) -> list[Detections]:
        """The objects in each image, in order; [] for no images.

        Args:
          images: as in `predict`.
          model: model name.
          version: model version; None is the newest.
          label: version label, instead of `version`.
          class_names: by class number, for models that return no labels.
          batch_size: images per request; None sends all in one request.
          timeout_s: of the whole call; None is the client's default.
          signature: a signature that takes encoded images and returns boxes, scores, classes and
            num_detections, with or without the prefix `detection_`.

        Raises:
          ClientError: the server rejected the request or did not respond in time.
          FileNotFoundError: a path does not exist.
          ValueError: an array is not an image, or both `version` and `label` are given.
        """
        spec = ModelSpec(model, version, label)
        return self._over_images(
            images,
            spec,
            partial(results.detections, spec=spec, class_names=class_names),
            batch_size=batch_size,
            timeout_s=timeout_s,
            signature=signature,
        )

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        signature: str = bundles.SIGNATURE_BYTES,
        timeout_s: float | None = None,
    ) -> dict[str, np.ndarray]:
        """The outputs of any signature, as arrays.

        gRPC sends values as bytes. REST sends JSON numbers, requests the metadata first (again
        after a minute, and if a response does not match), and does not support half precision,
        bfloat16 and complex numbers.

        Args:
          inputs: by name; strings are object arrays of bytes or text.
          model: model name.
          version: model version; None is the newest.
          label: version label, instead of `version`.
          signature: signature name.
          timeout_s: of the whole call; None is the client's default.

        Returns:
          The outputs by name; strings are object arrays of bytes.

        Raises:
          ClientError: the server rejected the request or did not respond in time.
          ValueError: the transport cannot represent an array, an array's type is not the
            signature's (REST), or both `version` and `label` are given.
        """
        return self._do(
            self._api.run(inputs, ModelSpec(model, version, label), signature), timeout_s
        )

    def classify(
        self,
        examples: Sequence[Example],
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        timeout_s: float | None = None,
    ) -> list[list[tuple[str, float]]]:
        """(label, score) pairs of each tf.Example, from a classify signature.

        Args:
          examples: `{"feature": value or list}`; over gRPC also serialized tf.Examples.
          model: model name.
          version: model version; None is the newest.
          label: version label, instead of `version`.
          signature: signature name; empty is the model's default.
          timeout_s: of the whole call; None is the client's default.

        Raises:
          ClientError: the server rejected the request or did not respond in time.
          ValueError: a feature has mixed types, or serialized examples over REST.
        """
        spec = ModelSpec(model, version, label)
        return self._do(self._api.classify(examples, spec, signature), timeout_s)

    def regress(
        self,
        examples: Sequence[Example],
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        timeout_s: float | None = None,
    ) -> np.ndarray:
        """(B,) float32, one value per tf.Example, from a regress signature; see `classify`.

        Raises:
          ClientError: the server rejected the request or did not respond in time.
          ValueError: a feature has mixed types, or serialized examples over REST.
        """
        spec = ModelSpec(model, version, label)
        return self._do(self._api.regress(examples, spec, signature), timeout_s)

    def status(
        self, model: str, version: int | None = None, *, timeout_s: float | None = None
    ) -> list[ModelVersion]:
        """The model's versions on the server, newest first.

        Raises:
          ClientError: no such model or version, or no server.
        """
        return self._do(self._api.status(ModelSpec(model, version)), timeout_s)

    def metadata(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """TF Serving's metadata response: `model_spec`, and the signatures under `metadata`.

        Raises:
          ClientError: no such model or version, or no server.
        """
        return self._do(self._api.metadata(ModelSpec(model, version, label)), timeout_s)

    def signatures(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Signature]:
        """The model's signatures by name.

        Raises:
          ClientError: no such model or version, or no server.
        """
        return self._do(read_signatures(self._api, ModelSpec(model, version, label)), timeout_s)

    def is_ready(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout_s: float = POLL_TIMEOUT_S,
    ) -> bool:
        """Whether the model is ready to serve; False if the server cannot be reached."""
        return not self._why_not_ready(ModelSpec(model, version, label), timeout_s)

    def wait_until_ready(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Returns as soon as the model is ready to serve.

        Raises:
          ClientError: it is not ready within `timeout_s`; the message has the reason.
        """
        poll = ReadinessPoll(ModelSpec(model, version, label), timeout_s)
        while True:
            reason = self._why_not_ready(poll.spec, poll.timeout_s, known=poll.reason)
            pause = poll.pause_s(reason)
            if pause is None:
                return
            time.sleep(pause)

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()
        self._settings.images.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _do(self, steps: Steps[Any], timeout_s: float | None) -> Any:
        return self._finish(steps, self._settings.deadline(timeout_s), self._settings.retries)

    def _finish(self, steps: Steps[Any], deadline: Deadline, retries: int) -> Any:
        """The result of an operation, whose requests are sent one by one."""
        found = advance(steps)
        while not isinstance(found, Done):
            request = found
            tries = Tries(deadline, retries)
            response = call(lambda left, r=request: self._transport.send(r, left), tries)
            found = advance(steps, response)
        return found.result

    def _over_images(
        self,
        images: Sequence[Image],
        spec: ModelSpec,
        read: Callable[[Columns], list[Any]],
        *,
        batch_size: int | None,
        timeout_s: float | None,
        signature: str,
    ) -> list[Any]:
        deadline = self._settings.deadline(timeout_s)
        batches = results.batches(images, batch_size)
        found: list[Any] = []
        for index, batch in enumerate(batches):
            try:
                encoded = self._settings.images.load(batch, deadline)
                steps = self._api.images(encoded, spec, signature)
                columns = self._finish(steps, deadline, self._settings.retries)
                found += results.checked(read(columns), len(batch), spec)
            except ClientError as error:
                if len(batches) == 1:
                    raise
                raise error.within(results.span(index, batch_size, len(images))) from error
        return found

    def _why_not_ready(self, spec: ModelSpec, timeout_s: float, *, known: str = "") -> str:
        try:
            return self._finish(why_not_ready(self._api, spec), Deadline(timeout_s), 0)
        except ClientError as error:
            return reason_of(error, known)


def connect(url: str, *, timeout_s: float = 30.0, retries: int = 3) -> Client:
    """A client for `http://host:8501`, `https://...`, `grpc://host:8500` or `grpcs://...`.

    Raises:
      ClientError: not a server address.
    """
    return Client(url, timeout_s=timeout_s, retries=retries)


def _connect(settings: Settings, headers: Mapping[str, str]) -> tuple[Api, Transport]:
    address, tls = settings.address, settings.tls
    if address.transport == "rest":
        return RestApi(), RestTransport(address, tls, headers)
    module = import_grpc(address.url)
    return module.GrpcApi(), module.GrpcTransport(address, tls, headers)
