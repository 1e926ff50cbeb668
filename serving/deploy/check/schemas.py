"""Published schemas, read from installed packages without a download.

`kubernetes-validate` has the schemas of Kubernetes, `check-jsonschema` that of Compose. The custom
resources KServe InferenceService, Prometheus ServiceMonitor and Kustomization are defined here with
their common fields; embedded Kubernetes types use the published schema.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

import jsonschema
from jsonschema.exceptions import best_match
from referencing import Registry, Resource

from serving.deploy.check.findings import CheckError

#: Default version of the Kubernetes schema.
KUBERNETES_VERSION = "1.34"

_REMEDY = "install the extra with the schemas, `sightline[deploy]`"
_DEFINITIONS = "https://kubernetes.io/api/_definitions.json#"
_META = f"{_DEFINITIONS}/$defs/io.k8s.apimachinery.pkg.apis.meta.v1"


def _strict(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TEXT: dict[str, Any] = {"type": "string"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_COUNT = {"type": "integer", "minimum": 0}
_SWITCH = {"type": "boolean"}
_SELECTOR = {"$ref": f"{_META}.LabelSelector"}
_PORT_NAME_OR_NUMBER = {"type": ["string", "integer"]}
_RELABELING = {
    "sourceLabels": _array(_TEXT),
    "separator": _TEXT,
    "regex": _TEXT,
    "targetLabel": _TEXT,
    "replacement": _TEXT,
    "action": _TEXT,
    "modulus": _COUNT,
}

# Fields of a predictor in addition to those of a container and a pod.
_MODEL_FIELDS = {
    "modelFormat": _strict({"name": _TEXT, "version": _TEXT}, "name"),
    "runtime": _TEXT,
    "runtimeVersion": _TEXT,
    "protocolVersion": {"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]},
    "storageUri": _TEXT,
    "storage": {"type": "object"},
}
_COMPONENT_FIELDS = {
    "minReplicas": _COUNT,
    "maxReplicas": _COUNT,
    "scaleTarget": _COUNT,
    "autoScaling": {"type": "object"},
    "scaleMetric": {"enum": ["cpu", "memory", "concurrency", "rps"]},
    "containerConcurrency": _COUNT,
    "timeout": _COUNT,
    "canaryTrafficPercent": {"type": "integer", "minimum": 0, "maximum": 100},
    "labels": _TEXTS,
    "annotations": _TEXTS,
    "deploymentStrategy": {"$ref": f"{_DEFINITIONS}/$defs/io.k8s.api.apps.v1.DeploymentStrategy"},
    "logger": {"type": "object"},
    "batcher": _strict({"maxBatchSize": _COUNT, "maxLatency": _COUNT, "timeout": _COUNT}),
}

_ENDPOINT = _strict(
    {
        "port": _TEXT,
        "targetPort": _PORT_NAME_OR_NUMBER,
        "path": _TEXT,
        "scheme": {"enum": ["http", "https", "HTTP", "HTTPS"]},
        "interval": _TEXT,
        "scrapeTimeout": _TEXT,
        "honorLabels": _SWITCH,
        "params": {"type": "object"},
        "tlsConfig": {"type": "object"},
        "authorization": {"type": "object"},
        "relabelings": _array(_strict(_RELABELING)),
        "metricRelabelings": _array(_strict(_RELABELING)),
    }
)
_SERVICE_MONITOR = _strict(
    {
        "endpoints": _array(_ENDPOINT),
        "selector": _SELECTOR,
        "namespaceSelector": _strict({"any": _SWITCH, "matchNames": _array(_TEXT)}),
        "jobLabel": _TEXT,
        "targetLabels": _array(_TEXT),
        "podTargetLabels": _array(_TEXT),
        "sampleLimit": _COUNT,
    },
    "endpoints",
    "selector",
)

_NAMES = {"oneOf": [_array(_TEXT), {"type": "array", "items": {"type": "object"}}]}
_GENERATOR = _strict(
    {
        "name": _TEXT,
        "namespace": _TEXT,
        "behavior": {"enum": ["create", "replace", "merge"]},
        "files": _array(_TEXT),
        "literals": _array(_TEXT),
        "envs": _array(_TEXT),
        "options": _strict(
            {
                "disableNameSuffixHash": _SWITCH,
                "immutable": _SWITCH,
                "labels": _TEXTS,
                "annotations": _TEXTS,
            }
        ),
    },
    "name",
)
_KUSTOMIZATION = _strict(
    {
        "apiVersion": {"enum": ["kustomize.config.k8s.io/v1beta1"]},
        "kind": {"enum": ["Kustomization"]},
        "metadata": {"type": "object"},
        "namespace": _TEXT,
        "namePrefix": _TEXT,
        "nameSuffix": _TEXT,
        "resources": _array(_TEXT),
        "components": _array(_TEXT),
        "configMapGenerator": _array(_GENERATOR),
        "secretGenerator": {"type": "array"},
        "generatorOptions": {"type": "object"},
        "labels": _array(
            _strict(
                {
                    "pairs": _TEXTS,
                    "includeSelectors": _SWITCH,
                    "includeTemplates": _SWITCH,
                    "fields": {"type": "array"},
                }
            )
        ),
        "commonAnnotations": _TEXTS,
        "images": _array(
            _strict({"name": _TEXT, "newName": _TEXT, "newTag": _TEXT, "digest": _TEXT}, "name")
        ),
        "replicas": _array(_strict({"name": _TEXT, "count": _COUNT}, "name", "count")),
        "patches": _NAMES,
        "replacements": {"type": "array"},
        "configurations": _array(_TEXT),
    }
)


def kubernetes_errors(data: dict[str, Any], version: str) -> list[str] | None:
    """The violations of the published schema of an object's kind, each with its path.

    Args:
      data: an object with `apiVersion` and `kind`.
      version: of Kubernetes, e.g. `1.34`.

    Returns:
      None if there is no schema for that kind and version.

    Raises:
      CheckError: the package with the schemas is not installed or lacks the version.
    """
    definitions = _definitions(version)
    group = str(data["apiVersion"])
    kind = str(data["kind"])
    custom = _custom_schema(group, kind, version)
    if custom is not None:
        return _errors(custom, data, definitions)
    # The file of `rbac.authorization.k8s.io/v1` ends in `rbac-v1`.
    name = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", group)
    file = _schema_folder(version) / f"{kind.lower()}-{name}.json"
    if not re.fullmatch(r"[\w.-]+", f"{kind}-{name}") or not file.is_file():
        return None
    return _errors(json.loads(file.read_text(encoding="utf-8")), data, definitions)


def compose_errors(data: dict[str, Any]) -> list[str]:
    """The violations of the Compose specification, each with its path.

    Raises:
      CheckError: the package with the schema is not installed.
    """
    return _errors(_compose_schema(), data, None)


def _custom_schema(group: str, kind: str, version: str) -> dict[str, Any] | None:
    spec: dict[str, Any] | None = None
    if (group, kind) == ("kustomize.config.k8s.io/v1beta1", "Kustomization"):
        return _KUSTOMIZATION
    if (group, kind) == ("monitoring.coreos.com/v1", "ServiceMonitor"):
        spec = _SERVICE_MONITOR
    if (group, kind) == ("serving.kserve.io/v1beta1", "InferenceService"):
        spec = _inference_service(version)
    if spec is None:
        return None
    metadata = {"$ref": f"{_META}.ObjectMeta"}
    return _strict(
        {"apiVersion": _TEXT, "kind": _TEXT, "metadata": metadata, "spec": spec},
        "metadata",
        "spec",
    )


def _inference_service(version: str) -> dict[str, Any]:
    definitions = _definitions(version)["$defs"]
    container = definitions["io.k8s.api.core.v1.Container"]["properties"]
    pod = definitions["io.k8s.api.core.v1.PodSpec"]["properties"]
    model = _strict({**_absolute(container), **_MODEL_FIELDS}, "modelFormat")
    formats = {name: {"type": "object"} for name in ("tensorflow", "tritonserver", "onnx")}
    component = {**_absolute(pod), **_COMPONENT_FIELDS, "model": model, **formats}
    other = {name: {"type": "object"} for name in ("transformer", "explainer")}
    return _strict({"predictor": _strict(component), **other}, "predictor")


def _absolute(properties: dict[str, Any]) -> dict[str, Any]:
    """The properties with absolute references, for use outside of their file."""
    text = json.dumps(properties)
    return json.loads(text.replace('"$ref": "#/', f'"$ref": "{_DEFINITIONS}/'))


@cache
def _definitions(version: str) -> dict[str, Any]:
    file = _schema_folder(version) / "_definitions.json"
    return json.loads(file.read_text(encoding="utf-8"))


@cache
def _schema_folder(version: str) -> Any:
    try:
        root = resources.files("kubernetes_validate") / "kubernetes-json-schema"
    except ModuleNotFoundError as error:
        raise CheckError(f"the Kubernetes schemas are missing: {error}; {_REMEDY}") from error
    folder = root / f"v{version}.0-local-strict"
    if not folder.is_dir():
        names = (entry.name for entry in root.iterdir())
        found = sorted(
            {
                match[1]
                for name in names
                if (match := re.match(r"v(\d+\.\d+)\.0-local-strict", name))
            }
        )
        raise CheckError(f"no schema of Kubernetes {version}; available: {', '.join(found)}")
    return folder


@cache
def _compose_schema() -> dict[str, Any]:
    try:
        from check_jsonschema.builtin_schemas import get_builtin_schema
    except ModuleNotFoundError as error:
        raise CheckError(f"the Compose schema is missing: {error}; {_REMEDY}") from error
    return get_builtin_schema("vendor.compose-spec")


def _errors(
    schema: dict[str, Any], data: dict[str, Any], definitions: dict[str, Any] | None
) -> list[str]:
    registry: Registry[Any] = Registry()
    if definitions is not None:
        resource = Resource.from_contents(definitions)
        registry = registry.with_resource(definitions["$id"], resource)
    validator = jsonschema.Draft202012Validator(schema, registry=registry)
    return list(dict.fromkeys(_message(error) for error in _leaves(validator.iter_errors(data))))


def _leaves(errors: Any) -> Iterator[Any]:
    """The specific errors: for alternatives, those of the best match."""
    for error in errors:
        if error.context:
            yield best_match([error])
        else:
            yield error


def _message(error: Any) -> str:
    path = ".".join(str(part) for part in error.absolute_path)
    message = str(error.message)
    if len(message) > 200:
        message = f"{message[:200]} ..."
    return f"{path}: {message}" if path else message
