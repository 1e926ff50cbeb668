"""Compares a run's statistics with the schema, between splits, and with those of live models.

`components.data_validation.statistics_checks` has the comparisons. `compared.json` reports a live
model whose push kept no statistics as not compared.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_data_validation as tfdv
from tfx import types as tfx_types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.types.standard_artifacts import ExampleAnomalies, ExampleStatistics, Schema

from components import artifacts, files
from components.data_validation.statistics_checks import (
    ClassNames,
    LiveStatistics,
    Statistics,
    check_statistics,
    compared_features,
)
from components.data_validation.statistics_settings import StatisticsSettings
from components.live import Live
from core.files import write_bytes

_STATISTICS, _SCHEMA, _ANOMALIES = "FeatureStats.pb", "schema.pbtxt", "SchemaDiff.pb"
_LIVE = "live_"


def _load(uri: str, split: str) -> Statistics:
    return tfdv.load_stats_binary(str(Path(uri) / f"Split-{split}" / _STATISTICS))


def statistics_of(
    lives: Sequence[Live], train: Statistics
) -> tuple[list[LiveStatistics], list[dict[str, Any]]]:
    """The statistics of live models, and for each live model whether it is compared, or why not.

    Models with the same statistics are compared once. A row's `reason` lists features that only one
    of the two data sets has.
    """
    before: dict[bytes, LiveStatistics] = {}
    rows = []
    for live in lives:
        row = {"model": live.model, "version": live.baseline, "compared": False, "reason": ""}
        rows.append(row)
        if live.baseline is None:
            row["reason"] = "; ".join(live.unusable.values()) or "no version is live"
            continue
        one, path = live.versions[live.baseline], live.statistics(live.baseline)
        if path is None:
            row["reason"] = one.no_lineage or "its push kept no statistics"
            continue
        row["compared"] = True
        data = path.read_bytes()
        names = ClassNames(one.classes, one.label_offset or 0)
        loaded = tfdv.load_stats_binary(str(path))
        before.setdefault(data, LiveStatistics(f"{live.model} {live.baseline}", loaded, names))
        either = compared_features(loaded) ^ compared_features(train)
        if either:
            row["reason"] = f"only one of the two data sets has {', '.join(sorted(either))}"
    return [*before.values()], rows


def validate(
    statistics: ExampleStatistics,
    schema: Schema,
    anomalies: ExampleAnomalies,
    settings: dict[str, Any],
    lives: Sequence[Live],
) -> None:
    """Writes anomalies in the layout of TFX's ExampleValidator, and `compared.json`.

    Args:
      statistics: of this run.
      schema: of the data.
      anomalies: `Split-*/SchemaDiff.pb`.
      settings: `statistics` with the fields of `StatisticsSettings`, `classes`, `label_offset`.
      lives: of every architecture of the pipeline.
    """
    splits = artifact_utils.decode_split_names(statistics.split_names)
    loaded = {split: _load(statistics.uri, split) for split in splits}
    train = loaded.get("train")
    before, rows = statistics_of(lives, train) if train is not None else ([], [])
    found = check_statistics(
        loaded,
        tfdv.load_schema_text(str(Path(schema.uri) / _SCHEMA)),
        StatisticsSettings(**settings["statistics"]),
        before,
        ClassNames(tuple(settings["classes"]), settings["label_offset"]),
    )
    anomalies.split_names = artifact_utils.encode_split_names(splits)
    for split, one in found.items():
        target = Path(anomalies.uri) / f"Split-{split}" / _ANOMALIES
        write_bytes(target, one.SerializeToString())
    files.write_json(Path(anomalies.uri) / files.COMPARED, rows)


class _Executor(base_executor.BaseExecutor):
    def Do(self, input_dict: Any, output_dict: Any, exec_properties: Any) -> None:
        lives = [input_dict[key][0] for key in sorted(input_dict) if key.startswith(_LIVE)]
        validate(
            input_dict["statistics"][0],
            input_dict["schema"][0],
            output_dict["anomalies"][0],
            json.loads(exec_properties["settings"]),
            [Live.load(one.uri) for one in lives],
        )


def _spec(count: int) -> type[ComponentSpec]:
    live = {f"{_LIVE}{i:03d}": ChannelParameter(type=artifacts.LiveModel) for i in range(count)}
    return type(
        "StatisticsValidatorSpec",
        (ComponentSpec,),
        {
            "PARAMETERS": {
                "settings": ExecutionParameter(type=str),
                "code_digest": ExecutionParameter(type=str),
            },
            "INPUTS": {
                "statistics": ChannelParameter(type=ExampleStatistics),
                "schema": ChannelParameter(type=Schema),
                **live,
            },
            "OUTPUTS": {"anomalies": ChannelParameter(type=ExampleAnomalies)},
        },
    )


class StatisticsValidator(base_component.BaseComponent):
    """Has one input per live model, because function components accept no list of artifacts."""

    SPEC_CLASS = ComponentSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(_Executor)

    def __init__(
        self,
        *,
        statistics: tfx_types.BaseChannel,
        schema: tfx_types.BaseChannel,
        lives: Sequence[tfx_types.BaseChannel],
        settings: str,
        code_digest: str,
    ) -> None:
        self.SPEC_CLASS = _spec(len(lives))
        super().__init__(
            self.SPEC_CLASS(
                statistics=statistics,
                schema=schema,
                anomalies=tfx_types.Channel(type=ExampleAnomalies),
                settings=settings,
                code_digest=code_digest,
                **{f"{_LIVE}{i:03d}": live for i, live in enumerate(lives)},
            )
        )
