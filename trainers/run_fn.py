"""The TFX adapter: `Trainer(run_fn="trainers.run_fn.run_fn")` -> Config -> fit -> weights.

Everything arrives in `custom_config`, which is part of TFX's cache key: `config` (nested, as
`trainers.config.to_dict` writes it), `work_dir` (checkpoints, outside the artifact, so that a
killed run goes on where it was) and `code_digest`.
"""

from pathlib import Path
from typing import Any

from trainers.config import from_dict
from trainers.loop import fit, save_trained
from trainers.progress import reporter


def run_fn(fn_args: Any) -> None:
    """Trains and writes the model into `fn_args.serving_model_dir`.

    Args:
      fn_args: TFX's `FnArgs`; `custom_config` is as above.

    Raises:
      What `trainers.loop.fit` raises.
    """
    custom = fn_args.custom_config
    config = from_dict(custom["config"])
    trained = fit(config, Path(custom["work_dir"]), report=reporter())
    save_trained(trained, Path(fn_args.serving_model_dir))
