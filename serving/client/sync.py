"""`Client`: blocking calls, over REST or gRPC."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from core import bundle as bundles
from serving.client import results
from serving.client.address import Tls, import_grpc
from serving.client.api import (
    Api,
    Columns,
    Done,
    Example,
    Steps,
    Target,
    Transport,
    advance,
    read_signatures,
)
from serving.client.errors import ClientError
from serving.client.images import MAX_DOWNLOAD_BYTES
from serving.client.ready import LOOK_TIMEOUT_S, Waiting, reason_of, why_not_ready
from serving.client.rest import RestApi, RestTransport
from serving.client.retry import Deadline, Tries, call
from serving.client.settings import Settings
from serving.protocol.images import Image
from serving.protocol.types import ClassNames, Detections, ModelVersion, Prediction, Signature


class Client:
    """Calls one server. Any number of threads may use one client.

    Each call has one deadline, `timeout_s`, for everything it does: downloads, every request of a
    long list, every try and the waits between them. gRPC tells the server what is left of it.
    Connections are kept: one for all calls over gRPC, one for each thread at work over REST.
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
          timeout_s: of a call that names none; `math.inf` is no deadline.
          retries: further tries of a request after no connection, 429, 502, 503, 504, UNAVAILABLE,
            and RESOURCE_EXHAUSTED when the server says how long to wait.
          headers: sent along with every request, over gRPC as metadata.
          tls: whom to trust over https and grpcs, and who we are.
          max_download_bytes: largest image that is taken from a URL.

        Raises:
          ClientError: an address of another kind.
          FileNotFoundError: a file of `tls` that is not there.
          ValueError: `timeout_s` or `retries` out of range, or a `tls` whose files are not PEM or
            whose address is not encrypted.
        """
        self._settings = Settings(
            url,
            timeout_s=timeout_s,
            retries=retries,
            tls=tls,
            max_download_bytes=max_download_bytes,
        )
        self._api, self._transport = _connected(self._settings, headers or {})

    @property
    def url(self) -> str:
        """The server's, without a trailing slash."""
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
        """One prediction an image, in order; [] for no images.

        Args:
          images: paths, http(s) and data URLs, encoded bytes, or (H, W, 3) uint8 arrays, which
            travel as PNG.
          model: its name on the server.
          version: None is the newest.
          label: instead of a version, e.g. `stable`.
          top_k: cuts the list of classes; the model decides how many there are at most.
          batch_size: images in a request; None sends all in one.
          timeout_s: for the whole call; None is the client's.
          signature: one that takes encoded images.

        Raises:
          ClientError: with the server's reason, or no answer in time.
          FileNotFoundError: a path to nothing.
          ValueError: an array that is no image, `version` and `label` at once.
        """
        target = Target(model, version, label)
        return self._over_images(
            images,
            target,
            partial(results.predictions, target=target, top_k=top_k),
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
        """The objects of each image, in order; [] for no images.

        Args:
          images: as in `predict`.
          model: its name on the server.
          version: None is the newest.
          label: instead of a version.
          class_names: by class number, for models that give no labels.
          batch_size: images in a request; None sends all in one.
          timeout_s: for the whole call; None is the client's.
          signature: one that takes encoded images and returns boxes, scores, classes and
            num_detections, with or without `detection_` in front.

        Raises:
          ClientError: with the server's reason, or no answer in time.
          FileNotFoundError: a path to nothing.
          ValueError: an array that is no image, `version` and `label` at once.
        """
        target = Target(model, version, label)
        return self._over_images(
            images,
            target,
            partial(results.detections, target=target, class_names=class_names),
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
        """Any signature, arrays in and out.

        Over gRPC values travel as bytes. REST writes them as JSON numbers, asks for the metadata
        first (again after a minute, and when an answer does not fit), and carries no half
        precision, no bfloat16 and no complex numbers.

        Args:
          inputs: by name; strings are object arrays of bytes or text.
          model: its name on the server.
          version: None is the newest.
          label: instead of a version.
          signature: its name.
          timeout_s: for the whole call; None is the client's.

        Returns:
          The outputs by name; strings are object arrays of bytes.

        Raises:
          ClientError: with the server's reason, or no answer in time.
          ValueError: an array that the transport cannot carry, over REST one of another kind than
            the signature takes; `version` and `label` at once.
        """
        return self._do(self._api.run(inputs, Target(model, version, label), signature), timeout_s)

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
          examples: `{"feature": value or list}`; over gRPC serialized tf.Examples as well.
          model: its name on the server.
          version: None is the newest.
          label: instead of a version.
          signature: its name; empty is the model's default.
          timeout_s: for the whole call; None is the client's.

        Raises:
          ClientError: with the server's reason, or no answer in time.
          ValueError: a feature of mixed types, or serialized examples over REST.
        """
        target = Target(model, version, label)
        return self._do(self._api.classify(examples, target, signature), timeout_s)

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
        """(B,) float32, one value a tf.Example, from a regress signature; see `classify`.

        Raises:
          ClientError: with the server's reason, or no answer in time.
          ValueError: a feature of mixed types, or serialized examples over REST.
        """
        target = Target(model, version, label)
        return self._do(self._api.regress(examples, target, signature), timeout_s)

    def status(
        self, model: str, version: int | None = None, *, timeout_s: float | None = None
    ) -> list[ModelVersion]:
        """The model's versions that the server knows of, newest first.

        Raises:
          ClientError: no such model or version, or no server.
        """
        return self._do(self._api.status(Target(model, version)), timeout_s)

    def metadata(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """TF Serving's metadata answer: `model_spec`, and the signatures under `metadata`.

        Raises:
          ClientError: no such model or version, or no server.
        """
        return self._do(self._api.metadata(Target(model, version, label)), timeout_s)

    def signatures(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Signature]:
        """What can be asked of the model, by signature name.

        Raises:
          ClientError: no such model or version, or no server.
        """
        return self._do(read_signatures(self._api, Target(model, version, label)), timeout_s)

    def is_ready(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout_s: float = LOOK_TIMEOUT_S,
    ) -> bool:
        """Whether the server would answer a request to the model now; False if there is none."""
        return not self._why_not_ready(Target(model, version, label), timeout_s)

    def wait_until_ready(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Returns as soon as the server would answer a request to the model.

        Raises:
          ClientError: it does not within `timeout_s`; the message says what is missing.
        """
        waiting = Waiting(Target(model, version, label), timeout_s)
        while True:
            reason = self._why_not_ready(waiting.target, waiting.look_s, known=waiting.reason)
            pause = waiting.pause_s(reason)
            if pause is None:
                return
            time.sleep(pause)

    def close(self) -> None:
        """Ends the connections."""
        self._transport.close()
        self._settings.images.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _do(self, steps: Steps[Any], timeout_s: float | None) -> Any:
        return self._finish(steps, self._settings.deadline(timeout_s), self._settings.retries)

    def _finish(self, steps: Steps[Any], deadline: Deadline, retries: int) -> Any:
        """An operation's result, its requests sent one after the other."""
        found = advance(steps)
        while not isinstance(found, Done):
            request = found
            tries = Tries(deadline, retries)
            answer = call(lambda left, r=request: self._transport.send(r, left), tries)
            found = advance(steps, answer)
        return found.result

    def _over_images(
        self,
        images: Sequence[Image],
        target: Target,
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
                coded = self._settings.images.load(batch, deadline)
                steps = self._api.images(coded, target, signature)
                columns = self._finish(steps, deadline, self._settings.retries)
                found += results.checked(read(columns), len(batch), target)
            except ClientError as error:
                if len(batches) == 1:
                    raise
                raise error.within(results.span(index, batch_size, len(images))) from error
        return found

    def _why_not_ready(self, target: Target, timeout_s: float, *, known: str = "") -> str:
        try:
            return self._finish(why_not_ready(self._api, target), Deadline(timeout_s), 0)
        except ClientError as error:
            return reason_of(error, known)


def connect(url: str, *, timeout_s: float = 30.0, retries: int = 3) -> Client:
    """A client for `http://host:8501`, `https://...`, `grpc://host:8500` or `grpcs://...`.

    Raises:
      ClientError: another kind of address.
    """
    return Client(url, timeout_s=timeout_s, retries=retries)


def _connected(settings: Settings, headers: Mapping[str, str]) -> tuple[Api, Transport]:
    address, tls = settings.address, settings.tls
    if address.transport == "rest":
        return RestApi(), RestTransport(address, tls, headers)
    module = import_grpc(address.url)
    return module.GrpcApi(), module.GrpcTransport(address, tls, headers)
