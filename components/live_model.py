"""What the bundle store serves, as a component; see `components.live`."""

import json
from pathlib import Path

from tfx.v1.dsl.components import OutputArtifact, Parameter, component

from components import artifacts
from components.live import changed, find_live, write_live


@component
def LiveModel(
    live: OutputArtifact[artifacts.LiveModel],
    model_dir: Parameter[str],
    classes: Parameter[str],
    state: Parameter[str],
    code_digest: Parameter[str],
) -> None:
    """Writes `live.json` and copies of what is compared with.

    Args:
      live: the artifact.
      model_dir: `<bundles>/<model name>`.
      classes: JSON list of the data set's class names.
      state: JSON of the store's state when the graph was made: the part of the cache key that a
        push, a rollback or a deletion changes.
      code_digest: part of the cache key.
    """
    folder = Path(model_dir)
    found = find_live(folder, tuple(json.loads(classes)))
    if found.state != json.loads(state):
        raise changed(folder, json.loads(state))
    write_live(found, folder, Path(live.uri))
