"""The gRPC API: PredictionService and ModelService."""

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
from serving.server.errors import ServingError, invalid
from serving.server.extras.hooks import NO_HOOKS, Hooks
from serving.server.grpc.methods import (
    Behavior,
    CallThreads,
    abort,
    call_headers,
    refusing,
    time_left,
    unary_service,
)
from serving.server.models import inference
from serving.server.models.manager import ModelConfig, ModelManager
from serving.server.models.protos import model_configs, status_response
from serving.server.models.repeated import check_examples
from serving.server.models.tensors import fill_proto, to_arrays
from serving.server.observability.metrics import Metrics
from serving.server.scheduling.calls import Steps
from serving.server.scheduling.dispatch import Dispatcher
from serving.server.scheduling.request import gone


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
        """Takes what the server is made of.

        Args:
          models: those served.
          metrics: get every request.
          dispatcher: gives them places to run in.
          tensor_content: answer with `tensor_content` and not with typed values.
          hooks: what is done beside answering.
          max_repeated_bytes: that the single values of one request may be repeated to.
        """
        self._models = models
        self._metrics = metrics
        self._dispatcher = dispatcher
        self._tensor_content = tensor_content
        self._hooks = hooks
        self._max_repeated = max_repeated_bytes

    def handler(self, threads: CallThreads) -> grpc.GenericRpcHandler:
        """The service, for `server.add_generic_rpc_handlers`."""
        methods = {
            "Predict": (self._predict, predict_pb2.PredictRequest),
            "Classify": (self._classify, classification_pb2.ClassificationRequest),
            "Regress": (self._regress, regression_pb2.RegressionRequest),
            "MultiInference": (self._multi_inference, inference_pb2.MultiInferenceRequest),
        }
        handlers: dict[str, tuple[Behavior, Any]] = {
            api: (partial(self._call, api, steps), request)
            for api, (steps, request) in methods.items()
        }
        metadata = threads.at_once(refusing(self._metadata))
        handlers["GetModelMetadata"] = metadata, get_model_metadata_pb2.GetModelMetadataRequest
        return unary_service("tensorflow.serving.PredictionService", handlers, threads)

    def _call(
        self, api: str, steps: Callable[[Any], Steps[Any]], request: Any, context: Any
    ) -> Any:
        spec = _model_spec(request)
        # Names that clients make up must not become metrics.
        name = spec.name if self._models.knows(spec.name) else ""
        try:
            with self._metrics.counting(name, api, "GRPC"):
                headers = call_headers(context) if self._hooks.read_headers else {}
                self._steer(spec, headers)
                work = self._hooks.traced(steps(request), f"{api} {name}", headers)
                return self._dispatcher.run_here(
                    work, timeout=time_left(context), on_gone=context.add_callback
                )
        except ServingError as error:
            abort(context, error)

    def _steer(self, spec: Any, headers: Mapping[str, str]) -> None:
        """Writes a canary's choice into a request that leaves the version open."""
        if spec.HasField("version") or spec.version_label:
            return
        version, label = self._hooks.steer(spec.name, None, None, headers)
        if version is not None:
            spec.version.value = version
        elif label:
            spec.version_label = label

    def _predict(self, request: Any) -> Steps[predict_pb2.PredictResponse]:
        with _use(self._models, request) as servable:
            inputs = to_arrays(request.inputs, self._max_repeated)
            signature = request.model_spec.signature_name
            wanted = list(request.output_filter)
            outputs = yield from self._hooks.predict(servable, signature, inputs, wanted)
            response = predict_pb2.PredictResponse()
            _fill_spec(response.model_spec, servable, signature)
        for name, array in outputs.items():
            fill_proto(response.outputs[name], array, content=self._tensor_content)
        return response

    def _classify(self, request: Any) -> Steps[classification_pb2.ClassificationResponse]:
        with _use(self._models, request) as servable:
            signature = request.model_spec.signature_name
            check_examples(request.input, self._max_repeated)
            result = yield from self._hooks.classify(servable, signature, request.input)
            response = classification_pb2.ClassificationResponse(result=result)
            _fill_spec(response.model_spec, servable, signature)
        return response

    def _regress(self, request: Any) -> Steps[regression_pb2.RegressionResponse]:
        with _use(self._models, request) as servable:
            signature = request.model_spec.signature_name
            check_examples(request.input, self._max_repeated)
            result = yield from self._hooks.regress(servable, signature, request.input)
            response = regression_pb2.RegressionResponse(result=result)
            _fill_spec(response.model_spec, servable, signature)
        return response

    def _multi_inference(self, request: Any) -> Steps[inference_pb2.MultiInferenceResponse]:
        if not request.tasks:
            raise invalid("Inference request must have at least one inference task.")
        check_examples(request.input, self._max_repeated)
        with _use(self._models, request.tasks[0]) as servable:
            return (yield from self._hooks.multi_inference(servable, request))

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
        reload: Callable[[list[ModelConfig]], None],
        workers: Executor,
        metrics: Metrics,
    ) -> None:
        self._models = models
        self._reload = reload
        self._workers = workers
        self._metrics = metrics

    def handler(self, threads: CallThreads) -> grpc.GenericRpcHandler:
        """The service, for `server.add_generic_rpc_handlers`."""
        status = threads.at_once(refusing(self._get_status))
        reload = threads.reloading(refusing(self._handle_reload))
        methods = {
            "GetModelStatus": (status, get_model_status_pb2.GetModelStatusRequest),
            "HandleReloadConfigRequest": (reload, model_management_pb2.ReloadConfigRequest),
        }
        return unary_service("tensorflow.serving.ModelService", methods, threads)

    def _get_status(
        self, request: Any, context: Any
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """The state of a model's versions; like TF Serving it pays no heed to a label."""
        spec = _checked_spec(request)
        version = spec.version.value if spec.HasField("version") else None
        return status_response(self._models.status(spec.name, version))

    def _handle_reload(
        self, request: Any, context: Any
    ) -> model_management_pb2.ReloadConfigResponse:
        """Replaces the list of models; answers once the new ones are available.

        Tells by how much the counters that the request names grew meanwhile, in this process.
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
            # Only what has not begun can be cancelled.
            raise gone() from error
        for name, number in before.items():
            increase = self._metrics.total(name) - number
            response.metric.add(name=name, int64_value_increase=increase)
        return response


def _model_spec(request: Any) -> Any:
    """The request's ModelSpec; of a MultiInference the first task's."""
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
