# Any name, of any type: see [tool.basedpyright] in pyproject.toml.
from typing import Any

def __getattr__(name: str) -> Any: ...
