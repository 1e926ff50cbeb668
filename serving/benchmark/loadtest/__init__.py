"""Load tests of any server with TF Serving's API; README.md defines the figures.

target = LoadTarget("http://127.0.0.1:8501", "digits_cnn")
requests = from_images(Path("images"), target)
result = run_load(target, requests, LoadPlan(rate=200, seconds=30))
result.percentile(99)
"""

from serving.benchmark.loadtest.bodies import (
    Requests,
    from_file,
    from_folder,
    from_images,
    generated,
)
from serving.benchmark.loadtest.generator import LoadProgress
from serving.benchmark.loadtest.plan import LoadError, LoadPlan, LoadTarget
from serving.benchmark.loadtest.result import LoadResult
from serving.benchmark.loadtest.run import run_load
from serving.benchmark.loadtest.search import RateSearch, find_max

__all__ = [
    "LoadError",
    "LoadPlan",
    "LoadProgress",
    "LoadResult",
    "LoadTarget",
    "RateSearch",
    "Requests",
    "find_max",
    "from_file",
    "from_folder",
    "from_images",
    "generated",
    "run_load",
]
