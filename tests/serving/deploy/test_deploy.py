"""Properties of the deployment files that the check does not cover."""

import re
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[3] / "serving" / "deploy"
ROOT = DEPLOY.parents[1]


def load(name):
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


@pytest.fixture(scope="module")
def service():
    ((compose),) = load("docker-compose.yml")
    (only,) = compose["services"].values()
    return only


@pytest.fixture(scope="module")
def pod():
    ((deployment),) = load("kubernetes/deployment.yaml")
    return deployment["spec"]["template"]["spec"]


def test_compose_ports_are_on_the_loopback_address(service):
    assert service["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]


def test_compose_takes_away_what_the_server_does_not_need(service):
    assert service["read_only"] is True
    assert all(volume["read_only"] for volume in service["volumes"])
    assert [volume["target"] for volume in service["volumes"]] == ["/bundles", "/config"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"].split(":")[0] not in ("0", "root")
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert re.fullmatch(r"tensorflow/serving:\$\{TF_SERVING_VERSION:-[\d.]+\}", service["image"])


def test_kubernetes_takes_away_what_the_server_does_not_need(pod):
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in [*pod["initContainers"], *pod["containers"]]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        writable = [m["name"] for m in container["volumeMounts"] if not m.get("readOnly")]
        assert writable in ([], ["scratch"])


def test_the_server_hears_sigterm(service, pod):
    # As process 1 it would not, and neither would it as the child of the image's script.
    assert service["init"] is True
    assert service["entrypoint"] == ["tensorflow_model_server"]
    assert pod["shareProcessNamespace"] is True
    assert pod["containers"][0]["command"] == ["tensorflow_model_server"]
    (grace, pause) = (
        pod["terminationGracePeriodSeconds"],
        int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1]),
    )
    assert grace > pause


def test_compose_and_kubernetes_run_the_same_server(service, pod):
    assert service["command"] == pod["containers"][0]["args"]
    version = re.search(r":-([\d.]+)\}", service["image"])[1]
    ((kustomization),) = load("kustomization.yaml")
    ((kserve),) = load("kserve/inferenceservice.yaml")
    assert kustomization["images"] == [{"name": "tensorflow/serving", "newTag": version}]
    assert {c["image"] for c in [*pod["initContainers"], *pod["containers"]]} == {
        f"tensorflow/serving:{version}"
    }
    assert kserve["spec"]["predictor"]["model"]["runtimeVersion"] == version


def test_every_object_but_the_optional_one_is_applied():
    ((kustomization),) = load("kustomization.yaml")
    there = {f"kubernetes/{path.name}" for path in (DEPLOY / "kubernetes").iterdir()}
    assert there - set(kustomization["resources"]) == {"kubernetes/monitor.yaml"}


def test_no_object_names_a_namespace():
    for path in DEPLOY.rglob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            assert "namespace" not in document
            assert "namespace" not in document.get("metadata", {})


@pytest.fixture(scope="module")
def dockerfile():
    """(instruction, rest) of the Dockerfile, continued lines joined."""
    text = (DEPLOY / "embedded" / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def test_dockerfile_ends_as_a_user_that_is_not_root_and_has_a_health_check(dockerfile):
    last = max(i for i, (word, _) in enumerate(dockerfile) if word == "FROM")
    final = dict(dockerfile[last:])
    assert final["USER"] == "10001:10001"
    assert "8501" in final["HEALTHCHECK"]
    assert set(final["EXPOSE"].split()) == {"8500", "8501"}
    # The second stage downloads nothing and has no compiler, no uv.
    assert not any("pip" in rest or "apt" in rest for word, rest in dockerfile[last:])


def test_dockerfile_copies_what_exists_and_its_ignore_file_lets_through(dockerfile):
    let_through = (DEPLOY / "embedded" / "Dockerfile.dockerignore").read_text().splitlines()
    for word, rest in dockerfile:
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in let_through


def test_dockerfile_syncs_extras_that_exist(dockerfile):
    (sync,) = [rest for word, rest in dockerfile if word == "RUN" and "uv sync" in rest]
    project = (ROOT / "pyproject.toml").read_text()
    extras = re.findall(r"--extra (\w+)", sync)
    assert extras
    for extra in extras:
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE)


def test_dockerfile_s_flags_are_the_embedded_server_s(dockerfile):
    import json

    from serving.server.flags import make_parser

    words = {word: rest for word, rest in dockerfile if word in ("ENTRYPOINT", "CMD")}
    entry, command = (json.loads(words[word]) for word in ("ENTRYPOINT", "CMD"))
    assert entry[:3] == ["python", "-m", "serving.server"]
    flags = make_parser().parse_args([*entry[3:], *command])
    assert (flags.host, flags.port, flags.rest_api_port) == ("0.0.0.0", 8500, 8501)
    assert str(flags.bundles_dir) == "/bundles"


def test_the_embedded_server_reads_the_same_files():
    from serving.server.models.protos import read_model_config_file
    from serving.server.options import read_monitoring_path

    assert read_monitoring_path(DEPLOY / "monitoring.config") == "/monitoring/prometheus/metrics"
    configs = read_model_config_file(DEPLOY / "models.config")
    assert [config.base_path for config in configs] == [
        Path("/bundles") / config.name for config in configs
    ]
    assert all(config.policy.choose([1, 2, 3]) == [3] for config in configs)


def test_monitoring_that_is_off_or_broken(tmp_path):
    from serving.server.errors import ServerError
    from serving.server.options import read_monitoring_path

    file = tmp_path / "m.config"
    file.write_text("prometheus_config { enable: false }")
    assert read_monitoring_path(file) is None
    for content in (b"prometheus_config { enabel: true }", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(ServerError, match="not a MonitoringConfig"):
            read_monitoring_path(file)
