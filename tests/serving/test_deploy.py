import re
from pathlib import Path

import pytest
import yaml

from serving.server.monitoring import read_monitoring_path

DEPLOY = Path(__file__).parents[2] / "serving" / "deploy"


@pytest.fixture(scope="module")
def service():
    compose = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())
    (only,) = compose["services"].values()
    return only


def test_ports_are_the_flags_ports_on_loopback(service):
    flags = dict(flag.removeprefix("--").split("=") for flag in service["command"])
    published = {port.rpartition(":")[2]: port for port in service["ports"]}
    assert set(published) == {flags["port"], flags["rest_api_port"]} == {"8500", "8501"}
    assert all(port.startswith("127.0.0.1:") for port in published.values())


def test_every_mount_is_read_only_and_every_config_exists(service):
    assert all(volume["read_only"] for volume in service["volumes"])
    targets = [volume["target"] for volume in service["volumes"]]
    assert targets == ["/bundles", "/config"]
    named = [flag.partition("=")[2] for flag in service["command"] if "=/config/" in flag]
    assert len(named) == 3
    for path in named:
        assert (DEPLOY / Path(path).name).is_file()


def test_models_lie_in_the_mounted_folder_under_their_own_names():
    from serving.server.protos import read_model_config_file

    configs = read_model_config_file(DEPLOY / "models.config")
    assert configs
    for config in configs:
        assert config.base_path == Path("/bundles") / config.name
        assert config.policy.choose([1, 2, 3]) == [3]


def test_health_check_asks_for_a_configured_model(service):
    from serving.server.protos import read_model_config_file

    names = [config.name for config in read_model_config_file(DEPLOY / "models.config")]
    command = service["healthcheck"]["test"][-1]
    (asked,) = re.findall(r"GET /v1/models/(\w+) ", command)
    assert asked in names
    assert "127.0.0.1/8501" in command


def test_monitoring_path_is_where_the_embedded_server_has_it():
    assert read_monitoring_path(DEPLOY / "monitoring.config") == "/monitoring/prometheus/metrics"


def test_batching_keys_and_sizes():
    text = (DEPLOY / "batching.config").read_text()
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    wrapped = dict(re.findall(r"^(\w+) \{ value: (\d+) \}$", text, re.MULTILINE))
    assert set(wrapped) == {
        "max_batch_size",
        "batch_timeout_micros",
        "num_batch_threads",
        "max_enqueued_batches",
    }
    sizes = [int(size) for size in re.findall(r"^allowed_batch_sizes: (\d+)$", text, re.MULTILINE)]
    # TF Serving refuses a list that does not rise to max_batch_size.
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == int(wrapped["max_batch_size"])
    assert len(wrapped) + len(sizes) == len(text.strip().splitlines())


def test_monitoring_that_is_off_or_broken(tmp_path):
    from serving.server.errors import ServerError

    file = tmp_path / "m.config"
    file.write_text("prometheus_config { enable: false }")
    assert read_monitoring_path(file) is None
    file.write_text("prometheus_config { enabel: true }")
    with pytest.raises(ServerError, match="not a MonitoringConfig"):
        read_monitoring_path(file)
