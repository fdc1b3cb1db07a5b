"""Checks config/deploy/ against the formats' schemas, and its settings against the gateway itself.

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

    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    grace = seconds(understood["server.shutdown_grace"])
    assert pod["terminationGracePeriodSeconds"] > pause + grace + CLOSING, "a pod ends before its uploads"
    assert pause >= 5 and seconds(understood["server.shutdown_delay"]) == 0, "what preStop is for"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        kinds["Deployment"]["spec"]["selector"]["matchLabels"],
        kinds["Service"]["spec"]["selector"],
        kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items(), selector
    assert kinds["HorizontalPodAutoscaler"]["spec"]["minReplicas"] > 1
    ingress(kinds["Ingress"])


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
    run(TOOLS / "kubernetes-validate", "--strict", *KUBERNETES)
    with tempfile.TemporaryDirectory() as folder:
        run("nginx", "-t", "-p", folder, "-c", DEPLOY / "nginx.conf")
    compose(binary)
    kubernetes(binary)


if __name__ == "__main__":
    main()
