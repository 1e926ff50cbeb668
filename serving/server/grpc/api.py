"""The gRPC API: PredictionService, ModelService and `grpc.health.v1.Health`."""

from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Executor
from functools import partial
from typing import Any

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.engines.saved_model import DEFAULT_SIGNATURE
from serving.limits import DEFAULT_LIMITS
from serving.protocol import wire
from serving.server.errors import ServingError, invalid
from serving.server.extras.hooks import NO_HOOKS, Hooks
from serving.server.grpc.methods import (
    CallThreads,
    Method,
    abort,
    call_headers,
    reporting_errors,
    serialize,
    time_left,
    unary_service,
)
from serving.server.models import inference
from serving.server.models.config import ServedModel
from serving.server.models.manager import ModelManager
from serving.server.models.protos import model_configs, status_response
from serving.server.models.tensors import check_examples, fill_proto, to_arrays
from serving.server.observability.health import Readiness
from serving.server.observability.metrics import Metrics
from serving.server.scheduling.calls import Steps, cancelled
from serving.server.scheduling.dispatch import Dispatcher

HEALTH_SERVICE = "grpc.health.v1.Health"
#: Clients that may watch the health at a time; they occupy no threads.
MOST_WATCHERS = 1000
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3
_HEALTH_NAMES = ("", "ModelService", "PredictionService")


class PredictionService:
    """Predict, Classify, Regress, MultiInference and GetModelMetadata."""

    def __init__(
        self,
        models: ModelManager,
        metrics: Metrics,
        dispatcher: Dispatcher,
        *,
        tensor_content: bool = False,
        hooks: Hooks = NO_HOOKS,
        max_repeated_bytes: int = DEFAULT_LIMITS.max_repeated_bytes,
    ) -> None:
        """Creates the service.

        Args:
          models: the served models.
          metrics: count every request.
          dispatcher: runs the requests.
          tensor_content: write `tensor_content` in responses, not typed values.
          hooks: optional features around a call.
          max_repeated_bytes: memory that single values of one request may be expanded to.
        """
        self._models = models
        self._metrics = metrics
        self._dispatcher = dispatcher
        self._tensor_content = tensor_content
        self._hooks = hooks
        self._max_repeated = max_repeated_bytes

    def handler(self, threads: CallThreads) -> grpc.GenericRpcHandler:
        """The service, for `server.add_generic_rpc_handlers`."""
        classify = partial(self._examples, "Classify", classification_pb2.ClassificationResponse)
        regress = partial(self._examples, "Regress", regression_pb2.RegressionResponse)
        calls: dict[str, tuple[Callable[[Any], Steps[Any]], Any]] = {
            "Predict": (self._predict, predict_pb2.PredictRequest),
            "Classify": (classify, classification_pb2.ClassificationRequest),
            "Regress": (regress, regression_pb2.RegressionRequest),
            "MultiInference": (self._multi_inference, inference_pb2.MultiInferenceRequest),
        }
        methods: dict[str, tuple[Method, Any]] = {
            api: (partial(self._call, api, steps), request)
            for api, (steps, request) in calls.items()
        }
        metadata = threads.quick(reporting_errors(self._metadata))
        methods["GetModelMetadata"] = metadata, get_model_metadata_pb2.GetModelMetadataRequest
        return unary_service("tensorflow.serving.PredictionService", methods, threads)

    def _call(
        self, api: str, steps: Callable[[Any], Steps[Any]], request: Any, context: Any
    ) -> Any:
        spec = _model_spec(request)
        # Unknown names must not become metrics: clients can invent any number of them.
        name = spec.name if self._models.knows(spec.name) else ""
        try:
            with self._metrics.counting(name, api, "GRPC"):
                headers = call_headers(context) if self._hooks.reads_headers else {}
                self._choose_version(spec, headers)
                work = self._hooks.traced(steps(request), f"{api} {name}", headers)
                return self._dispatcher.run_here(
                    work, timeout=time_left(context), on_disconnect=context.add_callback
                )
        except ServingError as error:
            abort(context, error)

    def _choose_version(self, spec: Any, headers: Mapping[str, str]) -> None:
        """Sets the canary's choice in a request that names no version."""
        if spec.HasField("version") or spec.version_label:
            return
        version, label = self._hooks.choose_version(spec.name, None, None, headers)
        if version is not None:
            spec.version.value = version
        elif label:
            spec.version_label = label

    def _predict(self, request: Any) -> Steps[predict_pb2.PredictResponse]:
        with _use(self._models, request) as servable:
            inputs = to_arrays(request.inputs, self._max_repeated)
            signature, names = request.model_spec.signature_name, list(request.output_filter)
            outputs = yield from self._hooks.call("Predict", servable, signature, inputs, names)
            response = predict_pb2.PredictResponse()
            _fill_spec(response.model_spec, servable, signature)
        for name, array in outputs.items():
            fill_proto(response.outputs[name], array, content=self._tensor_content)
        return response

    def _examples(self, api: str, message: Any, request: Any) -> Steps[Any]:
        with _use(self._models, request) as servable:
            signature = request.model_spec.signature_name
            check_examples(request.input, self._max_repeated)
            result = yield from self._hooks.call(api, servable, signature, request.input)
            response = message(result=result)
            _fill_spec(response.model_spec, servable, signature)
        return response

    def _multi_inference(self, request: Any) -> Steps[inference_pb2.MultiInferenceResponse]:
        if not request.tasks:
            raise invalid("Inference request must have at least one inference task.")
        check_examples(request.input, self._max_repeated)
        with _use(self._models, request.tasks[0]) as servable:
            return (yield from self._hooks.call("MultiInference", servable, "", request))

    def _metadata(
        self, request: Any, context: Any
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        with _use(self._models, request) as servable:
            return inference.metadata(servable, list(request.metadata_field))


class ModelService:
    """GetModelStatus and HandleReloadConfigRequest."""

    def __init__(
        self,
        models: ModelManager,
        reload: Callable[[list[ServedModel]], None],
        workers: Executor,
        metrics: Metrics,
    ) -> None:
        self._models = models
        self._reload = reload
        self._workers = workers
        self._metrics = metrics

    def handler(self, threads: CallThreads) -> grpc.GenericRpcHandler:
        """The service, for `server.add_generic_rpc_handlers`."""
        status = threads.quick(reporting_errors(self._get_status))
        reload = threads.reloading(reporting_errors(self._handle_reload))
        methods = {
            "GetModelStatus": (status, get_model_status_pb2.GetModelStatusRequest),
            "HandleReloadConfigRequest": (reload, model_management_pb2.ReloadConfigRequest),
        }
        return unary_service("tensorflow.serving.ModelService", methods, threads)

    def _get_status(
        self, request: Any, context: Any
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """The states of a model's versions; a label is ignored, as in TF Serving."""
        spec = _checked_spec(request)
        version = spec.version.value if spec.HasField("version") else None
        return status_response(self._models.status(spec.name, version))

    def _handle_reload(
        self, request: Any, context: Any
    ) -> model_management_pb2.ReloadConfigResponse:
        """Replaces the list of models and returns once the new ones are available.

        The response holds the increase of each requested counter meanwhile, in this process.
        """
        before = {name: self._metrics.total(name) for name in request.metric_names}
        response = model_management_pb2.ReloadConfigResponse()
        # Without this an OK status would not be written at all.
        response.status.SetInParent()
        work = self._workers.submit(self._reload, model_configs(request.config))
        if not context.add_callback(work.cancel):
            work.cancel()
        try:
            work.result()
        except CancelledError as error:
            # Only a reload that has not begun can be cancelled.
            raise cancelled() from error
        for name, number in before.items():
            increase = self._metrics.total(name) - number
            response.metric.add(name=name, int64_value_increase=increase)
        return response


def _model_spec(request: Any) -> Any:
    """The request's ModelSpec; for MultiInference that of the first task."""
    if hasattr(request, "tasks"):
        request = request.tasks[0] if request.tasks else inference_pb2.InferenceTask()
    return request.model_spec


def _checked_spec(request: Any) -> Any:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    if not request.model_spec.name:
        raise invalid("ModelSpec has no name specified.")
    return request.model_spec


def _use(models: ModelManager, request: Any) -> Any:
    spec = _checked_spec(request)
    version = spec.version.value if spec.HasField("version") else None
    return models.use(spec.name, version, spec.version_label or None)


def _fill_spec(spec: Any, servable: Any, signature: str) -> None:
    spec.name = servable.name
    spec.version.value = servable.version
    spec.signature_name = signature or DEFAULT_SIGNATURE


def health_handler(threads: CallThreads, readiness: Readiness) -> grpc.GenericRpcHandler:
    """The health service, for `server.add_generic_rpc_handlers`.

    Its messages come from `serving.protocol.wire`, so grpcio-health-checking is not needed.
    """
    request, response = wire.message("HealthCheckRequest"), wire.message("HealthCheckResponse")

    def status(ready: bool) -> Any:
        return response(status=_SERVING if ready else _NOT_SERVING)

    def check(message: Any, context: Any) -> Any:
        if message.service not in _HEALTH_NAMES:
            raise ServingError("NOT_FOUND", f"unknown service {message.service!r}")
        return status(readiness.is_ready())

    def watch(message: Any, context: Any, send_response_callback: Any) -> None:
        send = send_response_callback
        if message.service not in _HEALTH_NAMES:
            # As the protocol specifies: the service may become known later.
            send(response(status=_SERVICE_UNKNOWN))
            return

        def watcher(ready: bool) -> None:
            send(status(ready))

        if not readiness.watch(watcher, most=MOST_WATCHERS):
            context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
            context.set_details(f"{MOST_WATCHERS} clients watch already; use Check")
            send(None)
        elif not context.add_callback(partial(readiness.unwatch, watcher)):
            readiness.unwatch(watcher)

    # As in gRPC's own health service: a blocking method would occupy a thread per client.
    watch.experimental_non_blocking = True  # type: ignore[attr-defined]
    handlers = {
        "Check": grpc.stream_unary_rpc_method_handler(
            threads.receiving(threads.quick(reporting_errors(check)), request),
            response_serializer=serialize,
        ),
        "Watch": grpc.stream_stream_rpc_method_handler(
            threads.receiving(threads.quick(watch), request), response_serializer=serialize
        ),
    }
    return grpc.method_handlers_generic_handler(HEALTH_SERVICE, handlers)
