"""The TFX adapter: `Trainer(run_fn="trainers.run_fn.run_fn")` -> Config -> fit -> weights.

All arguments are in `custom_config`, which is part of TFX's cache key: `config` (nested, as
`trainers.config.to_dict` writes it), `work_dir` (checkpoints, outside the artifact, so that a
killed run resumes), `index` (file with digests of data and code, optional) and `code_digest`. If
the graph has a Tuner, its best values are in `hyperparameters` and override the configuration.
`SIGHTLINE_RESUME_ANYWAY` in the environment has the effect of `--resume-anyway`.
"""

import json
import os
from pathlib import Path
from typing import Any

from trainers.config import from_dict, override
from trainers.distributed.workers import save_once
from trainers.loop import fit
from trainers.training.progress import RESUME_ANYWAY, announce, reporter


def run_fn(fn_args: Any) -> None:
    """Trains and writes the model into `fn_args.serving_model_dir`.

    Args:
      fn_args: TFX's `FnArgs`; `custom_config` is as above, `hyperparameters` None or KerasTuner's
        `HyperParameters.get_config()`, whose values are named by configuration keys.

    Raises:
      What `trainers.loop.fit` raises.
    """
    custom = fn_args.custom_config
    values = (fn_args.hyperparameters or {}).get("values", {})
    tuned = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    config = override(from_dict(custom["config"]), tuned)
    trained = fit(
        config,
        Path(custom["work_dir"]),
        report=reporter(),
        announce=announce,
        resume_anyway=bool(os.environ.get(RESUME_ANYWAY)),
        index=Path(custom["index"]) if custom.get("index") else None,
    )
    save_once(trained, Path(fn_args.serving_model_dir))
