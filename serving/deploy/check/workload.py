"""Pods that other objects refer to."""

from dataclasses import dataclass, field
from typing import Any

from serving.deploy.check.server import Server
from serving.deploy.check.sources import Document


@dataclass
class Workload:
    """The pods of one object.

    Attributes:
      document: the object.
      labels: of its pods.
      annotations: of its pods.
      spec: of its pods.
      ports: name, or number as text -> number, of all containers.
      servers: of the TF Serving containers.
    """

    document: Document
    labels: dict[str, str]
    annotations: dict[str, str]
    spec: dict[str, Any]
    ports: dict[str, int] = field(default_factory=dict)
    servers: list[Server] = field(default_factory=list)

    @property
    def kind_and_name(self) -> tuple[str, str]:
        """E.g. `("Deployment", "tensorflow-serving")`."""
        data = self.document.data
        return data["kind"], data["metadata"].get("name", "")
