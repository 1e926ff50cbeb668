"""The check on our own files, and on copies of them with one thing wrong each."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("kubernetes_validate")
pytest.importorskip("check_jsonschema")

from serving.deploy.check import CheckError, check

DEPLOY = Path(__file__).parents[3] / "serving" / "deploy"
MODELS = ("digits_cnn", "digits_resnet", "digits_vit")
COMPOSE = "docker-compose.yml"
DEPLOYMENT = "kubernetes/deployment.yaml"
SERVICE = "kubernetes/service.yaml"
KSERVE = "kserve/inferenceservice.yaml"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of our deployment files, to break."""
    leave = shutil.ignore_patterns("*.py", "check", "__pycache__", "embedded")
    return Path(shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=leave))


@pytest.fixture
def models(tmp_path) -> Path:
    """Folders that look like the three models' bundles, versions 1 to 3."""
    for name in MODELS:
        for version in "123":
            path = tmp_path / "bundles" / name / version
            (path / "assets.extra").mkdir(parents=True)
            (path / "saved_model.pb").touch()
            (path / "assets.extra" / "tf_serving_warmup_requests").touch()
    return tmp_path / "bundles"


def edit(folder: Path, file: str, old: str, new: str) -> None:
    path = folder / file
    text = path.read_text()
    assert old in text, f"{file} has no {old!r} to break"
    path.write_text(text.replace(old, new, 1))


def told(findings, level: str) -> str:
    lines = [f"{f.file} {f.about} {f.finding} -> {f.remedy}" for f in findings.found]
    return "\n".join(
        line for line, f in zip(lines, findings.found, strict=True) if f.level == level
    )


def test_our_own_files_have_no_finding(models):
    findings = check(DEPLOY, models)
    assert findings.found == []
    assert {COMPOSE, DEPLOYMENT, SERVICE, KSERVE, "kustomization.yaml"} <= set(findings.looked_at)


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_our_own_files_fit_older_and_newer_kubernetes(models, version):
    assert check(DEPLOY, models, kubernetes_version=version).found == []


def test_without_bundles_unchecked_versions_are_reported(folder):
    findings = check(folder)
    assert "were not checked" in told(findings, "warning")
    # The Compose file says where its bundles lie, so that is where they are looked for.
    assert "digits_cnn does not exist" in told(findings, "error")


BROKEN = [
    # file, old text, new text, level, words of the finding
    (COMPOSE, "services:", "services: [", "error", ["not YAML", "line"]),
    (
        COMPOSE,
        "    init: true",
        "    init: true\n    init: false",
        "error",
        ["duplicated"],
    ),
    (COMPOSE, "cap_drop", "cap_dropped", "error", ["cap_dropped", "unexpected"]),
    (
        COMPOSE,
        "    deploy:",
        "    pids_limit: 9\n    deploy:",
        "error",
        ["pids is 1024", "distinct"],
    ),
    (COMPOSE, "          pids: 1024\n", "    pids_limit: 1024\n", "error", ["pids is not set"]),
    (
        COMPOSE,
        "    deploy:",
        "    mem_limit: 1g\n    deploy:",
        "error",
        ["memory is 4g", "distinct"],
    ),
    (COMPOSE, "--port=8500", "--port=eight", "error", ["--port=eight is not integer"]),
    (COMPOSE, "--enable_batching=true", "--enable_batching=yes", "error", ["true or false"]),
    (COMPOSE, "--enable_batching=", "--enable_batch=", "error", ["--enable_batch", "did you mean"]),
    (COMPOSE, "--port=8500", "--port 8500", "error", ["no flag --port 8500"]),
    (COMPOSE, "- --enable_batching=true", "- --version", "error", ["does not start"]),
    (COMPOSE, "--rest_api_port=8501", "--rest_api_port=8500", "error", ["are equal"]),
    (COMPOSE, "--port=8500", "--port=9500", "error", ["port 8500 is published, but"]),
    (COMPOSE, "tcp/127.0.0.1/8501", "tcp/127.0.0.1/8502", "error", ["uses port 8502"]),
    (COMPOSE, "models/digits_cnn", "models/digits_cmn", "error", ["model digits_cmn, which is"]),
    (COMPOSE, "127.0.0.1:8500:8500", "8500:8500", "warning", ["every interface"]),
    (COMPOSE, ":-2.16.1}", ":-latest}", "warning", ["latest is not pinned"]),
    (COMPOSE, "/config/models.config", "/conf/models.config", "error", ["is in no mount"]),
    (COMPOSE, "config/models.config", "config/model.config", "error", ["model.config is not in"]),
    (COMPOSE, "target: /bundles", "target: /models", "error", ["base path /bundles/digits_cnn"]),
    (COMPOSE, "${TF_SERVING_VERSION:-2.16.1}", "${TAG}", "warning", ["TAG has no default"]),
    ("models.config", "base_path:", "basepath:", "error", ["ModelServerConfig", "basepath"]),
    (
        "models.config",
        "/bundles/digits_vit",
        "/bundles/vit",
        "error",
        ["vit does not exist"],
    ),
    ("models.config", '"/bundles/digits_vit"', '"digits_vit"', "error", ["is relative"]),
    ("models.config", 'name: "digits_vit"', 'name: "digits_cnn"', "error", ["listed twice"]),
    ("models.config", '"tensorflow"', '"pytorch"', "error", ["model_platform 'pytorch'"]),
    (
        "models.config",
        "latest { num_versions: 1 }",
        "specific { versions: 7 }",
        "error",
        ["digits_cnn: version 7 does not exist", "versions 1, 2, 3"],
    ),
    (
        "models.config",
        "num_versions: 1",
        "num_versions: 9",
        "warning",
        ["9, and there are 3"],
    ),
    (
        "models.config",
        "latest { num_versions: 1 } }",
        'latest { num_versions: 1 } }\n version_labels { key: "stable" value: 2 }',
        "error",
        ["label stable refers to version 2, which the policy does not serve", "it serves 3"],
    ),
    (
        "models.config",
        "latest { num_versions: 1 } }",
        'all {} }\n version_labels { key: "canary" value: 5 }',
        "error",
        ["label canary refers to version 5, which does not exist"],
    ),
    ("batching.config", "max_batch_size {", "max_batch {", "error", ["BatchingParameters"]),
    ("batching.config", "value: 32", 'value: "x"', "error", ["BatchingParameters"]),
    ("batching.config", "value: 32", "value: 64", "error", ["end in 32, max_batch_size is 64"]),
    ("batching.config", "sizes: 8", "sizes: 80", "error", ["do not increase"]),
    ("batching.config", "threads { value: 4", "threads { value: 0", "error", ["threads is 0"]),
    ("monitoring.config", "enable", "enabel", "error", ["not a MonitoringConfig", "enabel"]),
    ("monitoring.config", "/metrics", "/metric", "error", ["prometheus.io/path is /monitoring"]),
    (DEPLOYMENT, "revisionHistoryLimit: 5", "revisionHistory: 5", "error", ["revisionHistory"]),
    (DEPLOYMENT, "periodSeconds: 5", 'periodSeconds: "5"', "error", ["startupProbe.periodSec"]),
    (DEPLOYMENT, "apps/v1", "apps/v1beta7", "error", ["has no apps/v1beta7 Deployment"]),
    (
        DEPLOYMENT,
        "grpc: {port: 8500}",
        "grpc: {port: 8600}",
        "error",
        ["startupProbe uses port 8600"],
    ),
    (DEPLOYMENT, "grpc: {port: 8500}", "grpc: {port: 8501}", "error", ["uses grpc on port 8501"]),
    (DEPLOYMENT, "PredictionService", "Prediction", "error", ["health of 'Prediction'"]),
    (DEPLOYMENT, "--enable_grpc_healthcheck_service=true", "--version", "error", ["which is off"]),
    (
        DEPLOYMENT,
        "grpc: {port: 8500, service: PredictionService}",
        "httpGet: {port: rest, path: /healthz}",
        "error",
        ["requests /healthz", "/metadata"],
    ),
    (
        DEPLOYMENT,
        "grpc: {port: 8500, service: PredictionService}",
        "httpGet: {port: rest, path: /v1/models/digits_cnn}",
        "warning",
        ["200 even if the model failed"],
    ),
    (
        DEPLOYMENT,
        "containerPort: 8501",
        "containerPort: 8511",
        "error",
        ["its port 8511"],
    ),
    (DEPLOYMENT, "{name: config, mountPath", "{name: conf, mountPath", "error", ["volume conf"]),
    (DEPLOYMENT, "tensorflow-serving-models}", "models}", "error", ["ConfigMap models is not"]),
    (DEPLOYMENT, "mountPath: /config", "mountPath: /conf", "error", ["is in no mount"]),
    (DEPLOYMENT, "config/batching.config", "config/b.config", "error", ["has no b.config"]),
    (DEPLOYMENT, "claimName: bundles", "claimName: bundle", "warning", ["PersistentVolumeClaim"]),
    (
        DEPLOYMENT,
        "revisionHistoryLimit: 5",
        "replicas: 1",
        "error",
        ["1 replicas, outside 2 to 10"],
    ),
    (DEPLOYMENT, '{cpu: "2", memory: 2Gi}', "{memory: 2Gi}", "error", ["requests none"]),
    (DEPLOYMENT, 'port: "8501"', 'port: "8502"', "error", ["prometheus.io/port is 8502"]),
    (
        DEPLOYMENT,
        "    matchLabels: {app.kubernetes.io/name: tensorflow-serving}",
        "    matchLabels: {app: other}",
        "error",
        ["does not match its own pods"],
    ),
    (SERVICE, "targetPort: rest", "targetPort: http", "error", ["port rest goes to http"]),
    (
        SERVICE,
        "selector: {app.kubernetes.io/name: tensorflow-serving}",
        "selector: {app: other}",
        "error",
        ["matches no pods"],
    ),
    ("kubernetes/autoscaler.yaml", "minReplicas: 2", "minReplicas: 20", "error", ["above max"]),
    (
        "kubernetes/autoscaler.yaml",
        "Deployment, name: t",
        "Deployment, name: s",
        "error",
        ["it scales"],
    ),
    (
        "kubernetes/disruption.yaml",
        "maxUnavailable: 1",
        "minAvailable: 2",
        "error",
        ["no pod can be evicted"],
    ),
    ("kubernetes/network.yaml", "port: 8500", "port: 8502", "error", ["allows port 8502"]),
    ("kubernetes/monitor.yaml", "port: rest", "port: web", "error", ["no port named web"]),
    ("kubernetes/monitor.yaml", "/metrics", "/metric", "error", ["metrics are at"]),
    ("kubernetes/monitor.yaml", "interval", "intervall", "error", ["intervall", "unexpected"]),
    (
        "kustomization.yaml",
        "kubernetes/service.yaml",
        "service.yaml",
        "error",
        ["service.yaml does not exist"],
    ),
    (
        "kustomization.yaml",
        "[models.config]",
        "[m.config]",
        "error",
        ["file m.config of tensorflow"],
    ),
    ("kustomization.yaml", "[models.config]", "[../models.config]", "error", ["kustomize rejects"]),
    ("kustomization.yaml", "newTag", "tag", "error", ["tag", "unexpected"]),
    (KSERVE, "minReplicas: 1", "minReplicas: 9", "error", ["minReplicas 9 is above"]),
    (
        KSERVE,
        "pvc://bundles/digits_cnn",
        "pvc://bundles/cnn",
        "error",
        ["bundles/cnn does not exist"],
    ),
    (KSERVE, "storageUri: pvc", "storageUrl: pvc", "error", ["storageUrl", "unexpected"]),
    (KSERVE, "--enable_batching=true", "--port=1", "error", ["already set by"]),
    (KSERVE, "    serving.kserve.io/autoscalerClass: hpa\n", "", "error", ["no autoscaler class"]),
    (KSERVE, "Mode: Standard", "Mode: Knative", "error", ["cpu is rejected: in Knative mode"]),
    (KSERVE, "Mode: Standard", "Mode: Raw", "error", ["'Raw', which is not a mode of KServe"]),
    (KSERVE, "Mode: Standard", "Mode: RawDeployment", "warning", ["0.16 and newer reject"]),
    (KSERVE, "Metric: cpu", "Metric: rps", "error", ["scaleMetric rps needs Knative's"]),
    (KSERVE, "scaleTarget: 70", "scaleTarget: 700", "error", ["700 is not a percentage"]),
    (KSERVE, "minReplicas: 1", "minReplicas: 0", "warning", ["only Knative scales to zero"]),
    (KSERVE, "requests: {cpu", "request: {cpu", "error", ["request", "unexpected"]),
]


@pytest.mark.parametrize(
    ("file", "old", "new", "level", "words"), BROKEN, ids=[f"{b[0]}:{b[2][:40]}" for b in BROKEN]
)
def test_one_thing_wrong_is_found(folder, models, file, old, new, level, words):
    edit(folder, file, old, new)
    findings = check(folder, models)
    text = told(findings, level)
    for word in words:
        assert word in text, f"missing; reported:\n{text}"
    if level == "warning":
        assert findings.errors == 0


@pytest.mark.parametrize(
    ("annotations", "metric"),
    [
        ("{}", "concurrency"),
        ("{serving.kserve.io/deploymentMode: Knative}", "rps"),
        ("{autoscaling.knative.dev/class: hpa.autoscaling.knative.dev}", "cpu"),
    ],
)
def test_other_ways_to_scale_under_kserve(folder, models, annotations, metric):
    text = (folder / KSERVE).read_text()
    start, end = text.index("  annotations:"), text.index("spec:")
    text = f"{text[:start]}  annotations: {annotations}\n{text[end:]}"
    (folder / KSERVE).write_text(text.replace("scaleMetric: cpu", f"scaleMetric: {metric}"))
    assert check(folder, models).found == []


def test_a_pinned_version_that_a_rollback_withdrew(folder, models):
    from serving.deploy.rollback import rollback

    edit(folder, "models.config", "latest { num_versions: 1 }", "specific { versions: 3 }")
    rollback(models / "digits_cnn")
    text = told(check(folder, models), "error")
    assert "version 3 was withdrawn by a rollback -> pin one of 1, 2" in text


def test_a_version_without_its_graph_and_one_without_warm_up(folder, models):
    for version in "123":
        (models / "digits_cnn" / version / "saved_model.pb").unlink()
    (models / "digits_vit" / "3" / "assets.extra" / "tf_serving_warmup_requests").unlink()
    findings = check(folder, models)
    assert "digits_cnn has no version" in told(findings, "error")
    assert "digits_vit version 3 has no assets.extra/" in told(findings, "warning")


def test_the_image_s_own_script_brings_ports_and_a_model(folder, models):
    edit(folder, COMPOSE, "    entrypoint: [tensorflow_model_server]\n", "")
    edit(folder, COMPOSE, "      - --port=8500\n      - --rest_api_port=8501\n", "")
    assert check(folder, models).found == []
    edit(folder, COMPOSE, "      - --model_config_file=/config/models.config\n", "")
    text = told(check(folder, models), "error")
    assert "/models/model is in no mount" in text


def test_consequences_of_a_broken_object_are_not_reported(folder, models):
    edit(folder, DEPLOYMENT, "revisionHistoryLimit: 5", "revisionHistory: 5")
    errors = [finding for finding in check(folder, models).found if finding.level == "error"]
    assert [error.file for error in errors] == [DEPLOYMENT]


def test_ssl_configuration(folder, models):
    edit(
        folder,
        COMPOSE,
        "- --port=8500",
        "- --ssl_config_file=/config/ssl.config\n      - --port=8500",
    )
    (folder / "ssl.config").write_text('server_key: "/key.pem" server_cert: "/cert.pem"')
    text = told(check(folder, models), "error")
    assert "server_key of --ssl_config_file is not PEM text" in text
    (folder / "ssl.config").write_text("server_keys: 1")
    assert "not a SSLConfig" in told(check(folder, models), "error")


def test_config_map_written_out_with_items_and_sub_path(tmp_path, models):
    folder = tmp_path / "own"
    folder.mkdir()
    text = (DEPLOY / DEPLOYMENT).read_text()
    projected = text[text.index("          projected:") : text.index("        - name: scratch\n")]
    items = "{name: c, items: [{key: m, path: models.config}, {key: x, path: y}]}"
    items = f"          configMap: {items}\n"
    text = text.replace(projected, items)
    (folder / "d.yaml").write_text(text)
    (folder / "c.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  m: |\n"
        + "".join(f"    {line}\n" for line in (DEPLOY / "models.config").read_text().splitlines())
    )
    text = told(check(folder, models), "error")
    assert "ConfigMap c has no key x -> keys: m" in text
    assert "has no batching.config -> it has models.config" in text
    assert "names /config/models.config" not in text


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path / "nowhere", "is not a folder"),
        (lambda path: path, "has no .yaml"),
    ],
)
def test_nothing_to_check_is_an_error(tmp_path, make, words):
    with pytest.raises(CheckError, match=words):
        check(make(tmp_path))


def test_an_unknown_kubernetes_lists_those_there_are(folder):
    with pytest.raises(CheckError, match=r"no schema of Kubernetes 1\.2; available: .*1\.34"):
        check(folder, kubernetes_version="1.2")


def test_the_check_needs_no_tensorflow():
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from serving.deploy.check import check\n"
        f"check(Path({str(DEPLOY)!r})); assert 'tensorflow' not in sys.modules"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=DEPLOY.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr


def test_an_unchecked_custom_kind_is_reported(folder, models):
    (folder / "r.yaml").write_text(
        "apiVersion: a.example.com/v1\nkind: Route\nmetadata: {name: r}\n"
    )
    findings = check(folder, models)
    assert "no schema of a.example.com/v1 Route" in told(findings, "warning")
    assert findings.errors == 0
