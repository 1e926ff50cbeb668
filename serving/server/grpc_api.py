"""The gRPC API: PredictionService, ModelService and, on request, the health service."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NoReturn

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving import wire
from serving.server import inference
from serving.server.errors import ServingError, invalid
from serving.server.metrics import Metrics
from serving.server.models import ModelConfig, ModelManager
from serving.server.protos import model_configs, status_response
from serving.server.tensors import to_array, to_proto

_LOG = logging.getLogger(__name__)
_SERVING = 1
_HEALTH_NAMES = ("", "ModelService", "PredictionService")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify, Regress, MultiInference and GetModelMetadata."""

    def __init__(self, models: ModelManager, metrics: Metrics, workers: Executor) -> None:
        self._models = models
        self._metrics = metrics
        self._workers = workers

    async def Predict(self, request: Any, context: Any) -> predict_pb2.PredictResponse:
        """Any signature, tensors in and out."""
        return await self._call("Predict", self._predict, request, context)

    async def Classify(
        self, request: Any, context: Any
    ) -> classification_pb2.ClassificationResponse:
        """A signature that takes tf.Examples and returns classes and scores."""
        return await self._call("Classify", self._classify, request, context)

    async def Regress(self, request: Any, context: Any) -> regression_pb2.RegressionResponse:
        """A signature that takes tf.Examples and returns one number each."""
        return await self._call("Regress", self._regress, request, context)

    async def MultiInference(
        self, request: Any, context: Any
    ) -> inference_pb2.MultiInferenceResponse:
        """Several of those at once."""
        return await self._call("MultiInference", self._multi_inference, request, context)

    async def GetModelMetadata(
        self, request: Any, context: Any
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """The signatures of a model."""
        try:
            return self._metadata(request)
        except ServingError as error:
            await _abort(context, error)

    async def _call(self, api: str, run: Callable[[Any], Any], request: Any, context: Any) -> Any:
        began = time.perf_counter()
        status = "INTERNAL"
        loop = asyncio.get_running_loop()
        try:
            answer = await loop.run_in_executor(self._workers, run, request)
            status = "OK"
            return answer
        except ServingError as error:
            status = error.code
            await _abort(context, error)
        finally:
            name = _model_spec(request).name
            # Names that clients make up must not become metrics.
            name = name if self._models.knows(name) else ""
            self._metrics.request(name, api, "GRPC", status, time.perf_counter() - began)

    def _predict(self, request: Any) -> predict_pb2.PredictResponse:
        with _use(self._models, request) as servable:
            inputs = {name: to_array(name, proto) for name, proto in request.inputs.items()}
            signature = request.model_spec.signature_name
            outputs = inference.predict(servable, signature, inputs, list(request.output_filter))
            response = predict_pb2.PredictResponse()
            _fill_spec(response.model_spec, servable, signature)
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(to_proto(array))
        return response

    def _classify(self, request: Any) -> classification_pb2.ClassificationResponse:
        with _use(self._models, request) as servable:
            signature = request.model_spec.signature_name
            result = inference.classify(servable, signature, request.input)
            response = classification_pb2.ClassificationResponse(result=result)
            _fill_spec(response.model_spec, servable, signature)
        return response

    def _regress(self, request: Any) -> regression_pb2.RegressionResponse:
        with _use(self._models, request) as servable:
            signature = request.model_spec.signature_name
            result = inference.regress(servable, signature, request.input)
            response = regression_pb2.RegressionResponse(result=result)
            _fill_spec(response.model_spec, servable, signature)
        return response

    def _multi_inference(self, request: Any) -> inference_pb2.MultiInferenceResponse:
        if not request.tasks:
            raise invalid("Inference request must have at least one inference task.")
        with _use(self._models, request.tasks[0]) as servable:
            return inference.multi_inference(servable, request)

    def _metadata(self, request: Any) -> get_model_metadata_pb2.GetModelMetadataResponse:
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        with _use(self._models, request) as servable:
            return inference.metadata(servable, list(request.metadata_field))


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and HandleReloadConfigRequest."""

    def __init__(
        self,
        models: ModelManager,
        reload: Callable[[list[ModelConfig]], None],
        workers: Executor,
    ) -> None:
        self._models = models
        self._reload = reload
        self._workers = workers

    async def GetModelStatus(
        self, request: Any, context: Any
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """The state of a model's versions; like TF Serving it pays no heed to a label."""
        try:
            spec = _checked_spec(request)
            version = spec.version.value if spec.HasField("version") else None
            return status_response(self._models.status(spec.name, version))
        except ServingError as error:
            await _abort(context, error)

    async def HandleReloadConfigRequest(
        self, request: Any, context: Any
    ) -> model_management_pb2.ReloadConfigResponse:
        """Replaces the list of models; answers once the new ones are available."""
        response = model_management_pb2.ReloadConfigResponse()
        # Without this an OK status would not be written at all.
        response.status.SetInParent()
        loop = asyncio.get_running_loop()
        try:
            configs = model_configs(request.config)
            await loop.run_in_executor(self._workers, self._reload, configs)
        except ServingError as error:
            await _abort(context, error)
        return response


def health_handler() -> grpc.GenericRpcHandler:
    """`grpc.health.v1.Health/Check`: SERVING for the server and its two services.

    The messages come from `serving.wire`, so grpcio-health-checking is not needed.
    """
    request, response = wire.message("HealthCheckRequest"), wire.message("HealthCheckResponse")

    async def check(asked: Any, context: Any) -> Any:
        if asked.service not in _HEALTH_NAMES:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {asked.service!r}")
        return response(status=_SERVING)

    method = grpc.unary_unary_rpc_method_handler(
        check,
        request_deserializer=request.FromString,
        response_serializer=_serialize,
    )
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method})


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
    spec.signature_name = signature or inference.DEFAULT_SIGNATURE


async def _abort(context: Any, error: ServingError) -> NoReturn:
    await context.abort(grpc.StatusCode[error.code], error.grpc_message)
    raise AssertionError("abort returned")


def _serialize(message: Any) -> bytes:
    return message.SerializeToString()
