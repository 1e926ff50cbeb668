"""OpenTelemetry spans of requests: the whole, its wait for a thread, and its runs of the model.

OpenTelemetry's own variables set the destination, e.g. OTEL_EXPORTER_OTLP_ENDPOINT and
OTEL_SERVICE_NAME. A client's `traceparent` (W3C), over REST or in gRPC metadata, is the parent.
Creating an `OpenTelemetry` imports the package.
"""

import time
from collections.abc import Generator, Mapping
from typing import Any, TypeVar

from serving.server.errors import ServerError, ServingError
from serving.server.scheduling.calls import EngineCall, Outputs, Steps

T = TypeVar("T")

_SERVICE = "sightline"


class OpenTelemetry:
    """Creates spans; `traced` is thread-safe."""

    def __init__(self, provider: Any = None) -> None:
        """Creates the tracer.

        Args:
          provider: a TracerProvider; None sends them in batches over OTLP (HTTP).

        Raises:
          ServerError: OpenTelemetry is not installed.
        """
        try:
            from opentelemetry import trace
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            self._provider = _otlp_provider() if provider is None else provider
        except ImportError as error:
            raise ServerError(
                f"--tracing needs OpenTelemetry ({error}); install sightline[otel]"
            ) from error
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._tracer = self._provider.get_tracer("serving.server")

    def traced(self, steps: Steps[T], name: str, headers: Mapping[str, str]) -> Steps[T]:
        """The same steps, recorded as a span from now until they end.

        Args:
          steps: not begun yet.
          name: of the span, e.g. `Predict digits_cnn`.
          headers: of the request, by lower-case name.
        """
        span = self._tracer.start_span(
            name,
            context=self._propagator.extract(dict(headers)),
            kind=self._trace.SpanKind.SERVER,
        )
        return _TracedSteps(steps, span, self)

    def child(self, span: Any, name: str, **keywords: Any) -> Any:
        """A span under another."""
        context = self._trace.set_span_in_context(span)
        return self._tracer.start_span(name, context=context, **keywords)

    def fail(self, span: Any, error: BaseException) -> None:
        """Marks a span as failed."""
        code = error.code if isinstance(error, ServingError) else type(error).__name__
        span.set_attribute("error.type", code)
        span.set_status(self._trace.StatusCode.ERROR, str(error))

    def close(self) -> None:
        """Sends the remaining spans."""
        self._provider.shutdown()


class _TracedSteps(Generator[EngineCall, Outputs, T]):
    """Steps that record other steps.

    A class, not a generator function: closing a generator that has not begun runs none of its code,
    but a request that is dropped before it begins must end its span.
    """

    def __init__(self, steps: Steps[T], span: Any, tracing: OpenTelemetry) -> None:
        self._steps = steps
        self._span = span
        self._tracing = tracing
        self._queue: Any = tracing.child(span, "queue")
        self._compute: Any = None
        self._ended = False

    def close(self) -> None:
        """Closes the steps, unless they are over."""
        if not self._ended:
            super().close()

    def send(self, value: Any) -> EngineCall:
        self._end_part()
        return self._step(self._steps.send, value)

    def throw(self, *error: Any) -> EngineCall:
        raised = error[0] if isinstance(error[0], BaseException) else error[0]()
        self._end_part(raised)
        return self._step(self._steps.throw, *error)

    def __del__(self) -> None:
        # A request that is refused before it waits is dropped without `close`.
        self.close()

    def _step(self, step: Any, *values: Any) -> EngineCall:
        try:
            call = step(*values)
        except BaseException as error:
            if not isinstance(error, StopIteration):
                self._tracing.fail(self._span, error)
            self._span.end()
            self._ended = True
            raise
        self._compute = self._tracing.child(
            self._span,
            "compute",
            attributes={
                "model.name": call.servable.name,
                "model.version": call.servable.version,
                # With batching, includes the wait for the batch.
                "model.batched": call.servable.batching is not None,
            },
            start_time=time.time_ns(),
        )
        return call

    def _end_part(self, error: BaseException | None = None) -> None:
        part = self._compute or self._queue
        self._compute = self._queue = None
        if part is None:
            return
        if error is not None:
            self._tracing.fail(part, error)
        part.end()


def _otlp_provider() -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # The environment overrides the name.
    resource = Resource({SERVICE_NAME: _SERVICE}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
