"""Predict, classify, regress and metadata, independent of REST and gRPC.

Functions that run the model return steps; see `serving.server.scheduling.calls`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    input_pb2,
    regression_pb2,
)

from serving.engines.saved_model import DEFAULT_SIGNATURE, EngineError
from serving.server.errors import ServingError, invalid
from serving.server.models.servable import Servable
from serving.server.models.tensors import to_array
from serving.server.scheduling.calls import EngineCall, Steps

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
_METADATA_FIELD = "signature_def"


def predict(
    servable: Servable,
    signature_name: str,
    inputs: Mapping[str, np.ndarray],
    output_filter: Sequence[str] = (),
) -> Steps[dict[str, np.ndarray]]:
    """Output name -> array.

    Args:
      servable: the version, kept loaded.
      signature_name: empty for `serving_default`.
      inputs: input name -> array.
      output_filter: outputs to compute; empty for all.

    Raises:
      ServingError: in TF Serving's words, or the graph refuses the inputs.
    """
    name = signature_name or DEFAULT_SIGNATURE
    signature = servable.engine.signatures.get(name)
    if signature is None:
        raise ServingError("FAILED_PRECONDITION", f'Serving signature key "{name}" not found.')
    inputs = _with_defaults(signature, inputs)
    _check_names(inputs, signature.inputs)
    if len(set(output_filter)) != len(output_filter):
        twice = next(alias for alias in output_filter if list(output_filter).count(alias) > 1)
        raise invalid(f"duplicate output tensor alias: {twice}")
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in "
                f"the set {{{','.join(signature.outputs)}}}."
            )
    try:
        feeds, tensors = servable.engine.prepare(name, inputs, output_filter or None)
    except EngineError as error:
        raise ServingError(error.code, str(error)) from error
    # A session refuses to fetch a tensor twice, and two outputs may share one.
    fetched = yield EngineCall(servable, feeds, tuple(dict.fromkeys(tensors.values())))
    return {alias: fetched[tensor] for alias, tensor in tensors.items()}


def _with_defaults(signature: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`inputs`, with the signature's default values for those that were not sent."""
    defaults = getattr(signature.proto, "defaults", {})
    missing = {name: to_array(name, defaults[name]) for name in defaults if name not in inputs}
    return {**missing, **inputs}


def _check_names(inputs: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    sent, required = sorted(inputs), sorted(wanted)
    if sent == required:
        return
    extra = sorted(set(sent) - set(required))
    missing = sorted(set(required) - set(sent))
    raise invalid(
        f"input size does not match signature: {len(sent)}!={len(required)} "
        f"len({{{','.join(sent)}}}) != len({{{','.join(required)}}}). "
        f"Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}."
    )


def classify(
    servable: Servable, signature_name: str, examples: input_pb2.Input
) -> Steps[classification_pb2.ClassificationResult]:
    """Classes and scores of each example, from the signature's `classes` and `scores`.

    Raises:
      ServingError: a signature that does not classify, no examples, or the graph refuses them.
    """
    spec = _classify_spec(_signature(servable, signature_name))
    values = _serialized(examples)
    fetched = yield _examples_call(servable, "Classify", [spec], values)
    return _classifications(spec, fetched, len(values))


def regress(
    servable: Servable, signature_name: str, examples: input_pb2.Input
) -> Steps[regression_pb2.RegressionResult]:
    """One number per example, from the signature's `outputs`.

    Raises:
      ServingError: a signature that does not regress, no examples, or the graph refuses them.
    """
    spec = _regress_spec(_signature(servable, signature_name))
    values = _serialized(examples)
    fetched = yield _examples_call(servable, "Regress", [spec], values)
    return _regressions(spec, fetched, len(values))


def multi_inference(
    servable: Servable, request: inference_pb2.MultiInferenceRequest
) -> Steps[inference_pb2.MultiInferenceResponse]:
    """Several classify and regress signatures in one run of the graph.

    Raises:
      ServingError: tasks of several models, a signature twice, or that take different inputs.
    """
    specs = _task_specs(servable, request)
    values = _serialized(request.input)
    fetched = yield _examples_call(servable, "MultiInference", specs, values)
    response = inference_pb2.MultiInferenceResponse()
    for task, spec in zip(request.tasks, specs, strict=True):
        result = response.results.add()
        result.model_spec.name = servable.name
        result.model_spec.version.value = servable.version
        result.model_spec.signature_name = task.model_spec.signature_name
        if task.method_name == CLASSIFY:
            result.classification_result.CopyFrom(_classifications(spec, fetched, len(values)))
        else:
            result.regression_result.CopyFrom(_regressions(spec, fetched, len(values)))
    return response


def _task_specs(servable: Servable, request: inference_pb2.MultiInferenceRequest) -> list["_Spec"]:
    specs: list[_Spec] = []
    seen: set[str] = set()
    for task in request.tasks:
        if task.model_spec.name != servable.name:
            raise invalid(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if name in seen:
            raise invalid(f"Duplicate evaluation of signature: {name}")
        seen.add(name)
        if name not in servable.engine.signatures:
            raise invalid(f"Requested signature not found in model graph: {name}")
        reader = {CLASSIFY: _classify_spec, REGRESS: _regress_spec}.get(task.method_name)
        if reader is None:
            raise ServingError(
                "UNIMPLEMENTED", f"Unsupported signature method_name: {task.method_name}"
            )
        specs.append(reader(servable.engine.signatures[name]))
    if len({spec.input for spec in specs}) > 1:
        raise invalid("Input tensor must be the same for all Signatures.")
    return specs


class _Spec:
    """Tensor names of a classify or regress signature; None for a missing output."""

    def __init__(self, input_: str, first: str | None, second: str | None = None) -> None:
        self.input = input_
        self.first = first
        self.second = second

    def fetches(self) -> list[str]:
        return [tensor for tensor in (self.first, self.second) if tensor]


def _signature(servable: Servable, signature_name: str) -> Any:
    name = signature_name or DEFAULT_SIGNATURE
    if name not in servable.engine.signatures:
        raise invalid(f"No signature was found with the name: {name}")
    return servable.engine.signatures[name]


def _classify_spec(signature: Any) -> _Spec:
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if "inputs" not in signature.inputs:
        raise _failed(f"No classification inputs found in SignatureDef: {signature.proto}")
    classes, scores = signature.outputs.get("classes"), signature.outputs.get("scores")
    if classes is None and scores is None:
        raise _failed(
            "Expected classification signature outputs to contain at least one of "
            f'"classes" or "scores". Signature was: {signature.proto}'
        )
    return _Spec(
        signature.inputs["inputs"].tensor,
        classes.tensor if classes else None,
        scores.tensor if scores else None,
    )


def _regress_spec(signature: Any) -> _Spec:
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if "inputs" not in signature.inputs:
        raise _failed(f"No regression inputs found in SignatureDef: {signature.proto}")
    if "outputs" not in signature.outputs:
        raise _failed(f"No regression outputs found in SignatureDef: {signature.proto}")
    return _Spec(signature.inputs["inputs"].tensor, signature.outputs["outputs"].tensor)


def _failed(message: str) -> ServingError:
    return ServingError("FAILED_PRECONDITION", message)


def _serialized(examples: input_pb2.Input) -> np.ndarray:
    """(B,) object array of serialized tf.Examples, each with the context merged in."""
    kind = examples.WhichOneof("kind")
    if kind == "example_list_with_context":
        listed = examples.example_list_with_context
        # Concatenated messages parse as one, merged.
        context = listed.context.SerializeToString()
        values = [context + example.SerializeToString() for example in listed.examples]
    else:
        values = [example.SerializeToString() for example in examples.example_list.examples]
    if not values:
        raise invalid("Input is empty.")
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _examples_call(
    servable: Servable, api: str, specs: Sequence[_Spec], values: np.ndarray
) -> EngineCall:
    fetches = dict.fromkeys(tensor for spec in specs for tensor in spec.fetches())
    return EngineCall(
        servable, {specs[0].input: values}, tuple(fetches), api=api, examples=len(values)
    )


def _classifications(
    spec: _Spec, fetched: Mapping[str, np.ndarray], batch: int
) -> classification_pb2.ClassificationResult:
    classes = fetched[spec.first] if spec.first else None
    scores = fetched[spec.second] if spec.second else None
    for name, array, kinds in (("classes", classes, "OS"), ("scores", scores, "f")):
        if array is None:
            continue
        if array.ndim != 2:
            raise invalid(
                f"Expected Tensor shape: [batch_size num_classes] but got {list(array.shape)}"
            )
        if array.dtype.kind not in kinds:
            raise invalid(f"Expected {name} Tensor of another type. Got: {array.dtype}")
        if array.shape[0] != batch:
            raise invalid(f"Expected {name} output batch size of {batch}. Got: {array.shape[0]}")
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise invalid(
            "Tensors class and score should match in dim_size(1). Got "
            f"{classes.shape[1]} vs. {scores.shape[1]}"
        )
    count = (scores if classes is None else classes).shape[1]  # type: ignore[union-attr]
    result = classification_pb2.ClassificationResult()
    for row in range(batch):
        entry = result.classifications.add()
        for column in range(count):
            entry.classes.add(
                label="" if classes is None else classes[row, column].decode("utf-8", "replace"),
                score=0.0 if scores is None else float(scores[row, column]),
            )
    return result


def _regressions(
    spec: _Spec, fetched: Mapping[str, np.ndarray], batch: int
) -> regression_pb2.RegressionResult:
    values = fetched[spec.first or ""]
    if values.ndim != 1 and not (values.ndim == 2 and values.shape[1] == 1):
        raise invalid(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{list(values.shape)}"
        )
    if values.shape[0] != batch:
        raise invalid(
            f"Input batch size did not match output batch size: {batch} vs. {values.shape[0]}"
        )
    if values.dtype != np.float32:
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {values.dtype}")
    result = regression_pb2.RegressionResult()
    for value in values.ravel().tolist():
        result.regressions.add(value=value)
    return result


def metadata(
    servable: Servable, fields: Sequence[str]
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The response of `GetModelMetadata`: the signatures of a model.

    Raises:
      ServingError: no field, or one other than `signature_def`.
    """
    if not fields:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for name in fields:
        if name != _METADATA_FIELD:
            raise invalid(f"Metadata field {name} is not supported")
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = servable.name
    response.model_spec.version.value = servable.version
    listed = get_model_metadata_pb2.SignatureDefMap()
    for name, proto in servable.engine.signature_defs.items():
        listed.signature_def[name].CopyFrom(proto)
    response.metadata[_METADATA_FIELD].Pack(listed)
    return response


def signature_map(
    response: get_model_metadata_pb2.GetModelMetadataResponse,
) -> get_model_metadata_pb2.SignatureDefMap:
    """The signatures in a metadata response."""
    listed = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[_METADATA_FIELD].Unpack(listed)
    return listed
