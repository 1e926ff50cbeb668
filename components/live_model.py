"""The LiveModel component: the versions of the bundle store; see `components.live`."""

import json
from pathlib import Path

from tfx.v1.dsl.components import OutputArtifact, Parameter, component

from components import artifacts
from components.live import find_live, store_changed, write_live


@component
def LiveModel(
    live: OutputArtifact[artifacts.LiveModel],
    model_dir: Parameter[str],
    classes: Parameter[str],
    state: Parameter[str],
    code_digest: Parameter[str],
) -> None:
    """Writes `live.json` and copies of the versions to compare with.

    Args:
      live: the artifact.
      model_dir: `<bundles>/<model name>`.
      classes: JSON list of the data set's class names.
      state: JSON of the store's state when the graph was built: the part of the cache key that
        changes with a push, a rollback or a deletion.
      code_digest: part of the cache key.
    """
    folder = Path(model_dir)
    found = find_live(folder, tuple(json.loads(classes)))
    if found.state != json.loads(state):
        raise store_changed(folder, json.loads(state))
    write_live(found, folder, Path(live.uri))
