"""The header of a model card as huggingface_hub reads it; runs in its environment.

    python ask_huggingface.py README.md

Prints JSON: the header's values, and one row for each result of `model-index`.
"""

import json
import sys
from pathlib import Path

from huggingface_hub import ModelCard  # pyright: ignore[reportMissingImports]

card = ModelCard(Path(sys.argv[1]).read_text(encoding="utf-8"))
results = card.data.eval_results or []
print(
    json.dumps(
        {
            "data": {
                "license": card.data.license,
                "library_name": card.data.library_name,
                "pipeline_tag": card.data.pipeline_tag,
                "tags": card.data.tags,
                "datasets": card.data.datasets,
                "metrics": card.data.metrics,
                "model_name": card.data.model_name,
            },
            "results": [
                [one.task_type, one.dataset_name, one.metric_type, one.metric_value]
                for one in results
            ],
            "title": card.text.strip().splitlines()[0],
        }
    )
)
