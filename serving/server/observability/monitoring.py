"""TF Serving's monitoring config: `prometheus_config { enable: true path: "/metrics" }`."""

from pathlib import Path

from serving.protocol import config_messages
from serving.server.errors import ServerError

_PATH = "/monitoring/prometheus/metrics"


def read_monitoring_path(file: Path) -> str | None:
    """The path of the Prometheus metrics, None when the config does not enable them.

    Raises:
      ServerError: no such file, or it is not a MonitoringConfig.
    """
    try:
        config = config_messages.parse(
            "MonitoringConfig", config_messages.decode(file.read_bytes())
        )
    except (OSError, ValueError) as error:  # bytes that are no text are a ValueError
        raise ServerError(f"{file} is not a MonitoringConfig: {error}") from error
    prometheus = config.prometheus_config
    return (prometheus.path or _PATH) if prometheus.enable else None
