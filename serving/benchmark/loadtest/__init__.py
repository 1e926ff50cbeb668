"""Load tests of any server with TF Serving's API; README.md defines the figures.

target = Target("http://127.0.0.1:8501", "digits_cnn")
requests = from_images(Path("images"), target)
result = run_load(target, requests, Plan(rate=200, seconds=30))
result.percentile(99)
"""

from serving.benchmark.loadtest.bodies import (
    Requests,
    from_file,
    from_folder,
    from_images,
    generated,
)
from serving.benchmark.loadtest.generator import Progress
from serving.benchmark.loadtest.plan import LoadError, Plan, Target
from serving.benchmark.loadtest.result import LoadResult
from serving.benchmark.loadtest.run import run_load
from serving.benchmark.loadtest.search import Search, find_max

__all__ = [
    "LoadError",
    "LoadResult",
    "Plan",
    "Progress",
    "Requests",
    "Search",
    "Target",
    "find_max",
    "from_file",
    "from_folder",
    "from_images",
    "generated",
    "run_load",
]
