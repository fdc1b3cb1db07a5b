"""Checks config/deploy/ against the formats' schemas and the gateway itself, and the size of the image.

    target/python/bin/python tests/deploy.py BINARY
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "config" / "deploy"
KUBERNETES = sorted(DEPLOY.glob("kubernetes/*.yaml"))
MONITORING = DEPLOY / "kubernetes" / "monitoring"
# Bytes of the image's files; docs/en/deploy-kubernetes.md says so.
IMAGE_LIMIT = 40_000_000
# Seconds that a gateway may need to close connections after its grace period (src/shutdown.rs).
CLOSING = 5
# Installed in this Python's environment.
TOOLS = Path(sys.executable).parent


def run(*command, **options):
    print("+", *command, flush=True)
    return subprocess.run([str(word) for word in command], check=True, **options)


def settings(binary, environment):
    """The settings as the gateway reads them, by key; it refuses unknown names and invalid values."""
    variables = {"PATH": os.environ["PATH"], "GATEWAY_PROFILE": "production", **environment}
    printed = run(binary, "--check", env=variables, stdout=subprocess.PIPE, text=True).stdout
    return dict(line.split(" = ", 1) for line in printed.splitlines() if " = " in line)


def seconds(text):
    number, unit = re.fullmatch(r'"?(\d+)(s|m)"?', text).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


def compose(binary):
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["gateway"]
    given = {
        "WECHAT_ENV": "prod-1a2b3c",
        "WECHAT_APPID": "wx0123456789abcdef",
        "WECHAT_SECRET": "0" * 32,
        "PANEL_KEY_SHA256": "0" * 64,
        "PUBLIC_URL": "https://files.example.com",
    }

    def value(text):
        match = re.fullmatch(r"\$\{(\w+)(?::-(.*)|:\?.*)?\}", text)
        return given.get(match[1], match[2] or "") if match else text

    understood = settings(binary, {key: value(text) for key, text in service["environment"].items()})
    grace = seconds(understood["server.shutdown_grace"])
    assert seconds(service["stop_grace_period"]) > grace + CLOSING, "compose ends a gateway before its uploads"
    assert service["deploy"]["replicas"] > 1 and understood["redis.url"] == '"***"'


def kubernetes(binary):
    documents = [one for path in KUBERNETES for one in yaml.safe_load_all(path.read_text())]
    kinds = {document["kind"]: document for document in documents}
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    environment |= {name: value or "0" * 32 for name, value in kinds["Secret"]["stringData"].items()}
    understood = settings(binary, environment)

    # The image has no shell and no `sleep`.
    assert "lifecycle" not in container
    delay, grace = (seconds(understood[f"server.shutdown_{name}"]) for name in ("delay", "grace"))
    assert pod["terminationGracePeriodSeconds"] > grace + CLOSING, "a pod ends before its uploads"
    assert delay >= 5 and grace - delay >= 30, "uploads have no time"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        kinds["Deployment"]["spec"]["selector"]["matchLabels"],
        kinds["Service"]["spec"]["selector"],
        kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        kinds["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items(), selector
    autoscaler = kinds["HorizontalPodAutoscaler"]
    # The budget lets one pod at a time be removed, so another has to be there.
    assert autoscaler["spec"]["minReplicas"] > 1 and kinds["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert autoscaler["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 300
    image_in(container, pod)
    ingress(kinds["Ingress"])
    network(kinds["NetworkPolicy"], container)
    monitoring(kinds, understood, labels)


def image_in(container, pod):
    """Checks what the manifest says of the image against the Dockerfile and Cargo.toml."""
    manifest = (ROOT / "Cargo.toml").read_text()
    version = re.search(r'^version = "(.+)"$', manifest, re.MULTILINE)[1]
    repository = re.search(r'^repository = "https://github.com/(.+)"$', manifest, re.MULTILINE)[1]
    assert container["image"] == f"ghcr.io/{repository}:{version}", "the image of the release"
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    context = pod["securityContext"]
    assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user.groups()
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False


def network(policy, container):
    """Checks that the policy lets in what the port serves, and lets out what the settings may name."""
    spec = policy["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"], "either one open to all"
    (port,) = container["ports"]
    for rule in spec["ingress"]:
        assert rule["from"] and [one["port"] for one in rule["ports"]] == [port["name"]], rule
    out = {(one["port"], one["protocol"]) for rule in spec["egress"] for one in rule["ports"]}
    assert out == {(53, "UDP"), (53, "TCP"), (443, "TCP"), (6379, "TCP")}, "DNS, WeChat and COS, Redis"


def monitoring(kinds, understood, labels):
    """Checks what is for the Prometheus operator and prometheus-adapter against the metrics and the alerts."""
    monitor = yaml.safe_load((MONITORING / "service-monitor.yaml").read_text())
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "ServiceMonitor")
    service = kinds["Service"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]] and endpoint["path"] == "/metrics"
    (job,) = (one["replacement"] for one in endpoint["relabelings"] if one["targetLabel"] == "job")
    assert f'job="{job}"' in (DEPLOY / "alerts.yaml").read_text(), "GatewayDown would never fire"

    usual, scaler = kinds["HorizontalPodAutoscaler"], yaml.safe_load((MONITORING / "autoscaler.yaml").read_text())
    cpu, uploads = scaler["spec"]["metrics"]
    assert cpu in usual["spec"]["metrics"]
    same = {**scaler, "spec": {**scaler["spec"], "metrics": usual["spec"]["metrics"]}}
    assert same == usual, "it replaces the other one, and differs in its metrics only"
    metric, target = uploads["pods"]["metric"]["name"], int(uploads["pods"]["target"]["averageValue"])
    assert 0 < target <= int(understood["upload.max_concurrent"]) // 2, "gateways are full before it scales"
    (rule,) = yaml.safe_load((DEPLOY / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert rule["name"]["as"] == metric and rule["seriesQuery"].startswith(f"{metric}{{")
    assert f'"{metric}{{' in (DEPLOY / "grafana.json").read_text(), "no metric of the gateway"


def image(binary):
    """Assembles the image's files as the Dockerfile does, and checks their size."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", "").splitlines()
    (assemble,) = (line.removeprefix("RUN ") for line in lines if line.startswith("RUN ") and "ldd" in line)
    with tempfile.TemporaryDirectory() as folder:
        dist, root = Path(folder) / "target" / "dist", Path(folder) / "image"
        dist.mkdir(parents=True)
        run("strip", "-o", dist / "tcb-upload-gateway", binary)
        run("sh", "-ec", assemble.replace("/image", str(root)), cwd=folder)
        sizes = {path: path.stat().st_size for path in root.rglob("*") if path.is_file()}
    total = sum(sizes.values())
    print(f"the image's {len(sizes)} files have {total / 1e6:.1f} MB")
    assert total <= IMAGE_LIMIT, sizes


def ingress(document):
    """Checks that the ingress publishes the clients' endpoints only, not metrics and health checks."""
    (rule,) = document["spec"]["rules"]
    assert "defaultBackend" not in document["spec"], "it would publish everything"

    def published(path):
        elements = path.rstrip("/").split("/")
        for one in rule["http"]["paths"]:
            prefix = one["path"].rstrip("/").split("/")
            if one["pathType"] == "Exact" and path == one["path"]:
                return True
            if one["pathType"] == "Prefix" and elements[: len(prefix)] == prefix:
                return True
        return False

    inside = ("/metrics", "/metrics/", "/healthz", "/readyz")
    outside = (
        "/v1/files", "/v1/files/reports/photo.png", "/v1/download-links", "/v1/delete", "/v1/upload-links",
        "/tcb/uploadfile", "/tcb/batchdownloadfile", "/tcb/batchdeletefile", "/cgi-bin/token",
        "/cgi-bin/stable_token", "/docs", "/docs/index.css", "/openapi.json", "/",
    )  # fmt: skip
    for path in inside:
        assert not published(path), f"the ingress publishes {path}"
    for path in outside:
        assert published(path), f"the ingress hides {path}"
    for one in rule["http"]["paths"]:
        assert one["backend"]["service"] == {"name": "upload-gateway", "port": {"name": "http"}}, one


def main():
    binary = Path(sys.argv[1]).resolve()
    run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")
    # It does not know the kind ServiceMonitor.
    run(TOOLS / "kubernetes-validate", "--strict", *KUBERNETES, MONITORING / "autoscaler.yaml")
    with tempfile.TemporaryDirectory() as folder:
        run("nginx", "-t", "-p", folder, "-c", DEPLOY / "nginx.conf")
    compose(binary)
    kubernetes(binary)
    image(binary)


if __name__ == "__main__":
    main()
