"""Ranks the trained architectures by validation, so that only the best gets every method."""

from pathlib import Path
from typing import Any

from tfx import types as tfx_types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.types.standard_artifacts import Model

from components import files
from components.artifacts import Selection


def rank(trained: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `name`, `val_top1` and `val_loss`, best first; at equal top-1, the lower loss.

    Args:
      trained: model name -> content of its `trained.json`.
    """
    rows = [
        {"name": name, "val_top1": row["val_top1"], "val_loss": row["val_loss"]}
        for name, row in trained.items()
    ]
    return sorted(rows, key=lambda row: (-row["val_top1"], row["val_loss"]))


class _Executor(base_executor.BaseExecutor):
    def Do(self, input_dict: Any, output_dict: Any, exec_properties: Any) -> None:
        trained = {}
        for artifact in input_dict["models"]:
            folder = Path(artifact.uri) / files.SERVING_MODEL
            name = files.read_json(folder / "config.json")["name"]
            trained[name] = files.read_json(folder / "trained.json")
        (selection,) = output_dict["selection"]
        files.write_json(Path(selection.uri) / files.SELECTION, rank(trained))


class _Spec(ComponentSpec):
    PARAMETERS = {"code_digest": ExecutionParameter(type=str)}  # noqa: RUF012
    INPUTS = {"models": ChannelParameter(type=Model)}  # noqa: RUF012
    OUTPUTS = {"selection": ChannelParameter(type=Selection)}  # noqa: RUF012


class ModelSelector(base_component.BaseComponent):
    """Takes the union of all Trainers' models; a function component takes only one artifact."""

    SPEC_CLASS = _Spec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(_Executor)

    def __init__(self, models: tfx_types.BaseChannel, code_digest: str) -> None:
        selection = tfx_types.Channel(type=Selection)
        super().__init__(_Spec(models=models, selection=selection, code_digest=code_digest))
