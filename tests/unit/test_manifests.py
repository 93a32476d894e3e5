"""The manifests in infra/: whole, true to their schema, without root, without secrets."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiClient

from components.core.contract import STEPS
from components.core.step import load_spec

INFRA = Path(__file__).parents[2] / "infra"
MODELS = {
    "ConfigMap": "V1ConfigMap",
    "Deployment": "V1Deployment",
    "Namespace": "V1Namespace",
    "PersistentVolumeClaim": "V1PersistentVolumeClaim",
    "Service": "V1Service",
    "ServiceAccount": "V1ServiceAccount",
}


def rendered(folder: Path) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send: the files a kustomization names, its namespace laid over them."""
    given = yaml.safe_load((folder / "kustomization.yaml").read_text())
    found: list[dict[str, Any]] = []
    for name in given["resources"]:
        path = (folder / name).resolve()
        found += rendered(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for manifest in found:
        if manifest["kind"] != "Namespace" and "namespace" in given:
            manifest["metadata"]["namespace"] = given["namespace"]
    return found


def of_kind(folder: str, kind: str) -> dict[str, Any]:
    return next(manifest for manifest in rendered(INFRA / folder) if manifest["kind"] == kind)


@pytest.mark.parametrize("folder", ["k8s", "kfp"])
def test_every_manifest_is_what_the_api_knows(folder: str) -> None:
    client = ApiClient()
    for manifest in rendered(INFRA / folder):
        model = client.deserialize(SimpleNamespace(data=json.dumps(manifest)), MODELS[manifest["kind"]])
        assert client.sanitize_for_serialization(model) == manifest, "the API would drop a key: is one misspelled?"


@pytest.mark.parametrize(("folder", "kinds"), [("k8s", {*MODELS}), ("kfp", {"ConfigMap", "PersistentVolumeClaim", "ServiceAccount"})])
def test_each_folder_brings_what_its_pods_need(folder: str, kinds: set[str]) -> None:
    assert {manifest["kind"] for manifest in rendered(INFRA / folder)} == kinds


def test_serving_is_probed_and_has_no_root() -> None:
    pod = of_kind("k8s", "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe")} == {"/livez"}
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert {"configMapRef": {"name": "atlas"}} in container["envFrom"]
    assert {"secretRef": {"name": "atlas"}} in container["envFrom"]
    assert pod["serviceAccountName"] == of_kind("k8s", "ServiceAccount")["metadata"]["name"]
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [of_kind("k8s", "PersistentVolumeClaim")["metadata"]["name"]]


def test_the_service_reaches_the_pods() -> None:
    deployment, service = of_kind("k8s", "Deployment"), of_kind("k8s", "Service")
    template = deployment["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert service["spec"]["ports"][0]["targetPort"] in {port["name"] for port in template["spec"]["containers"][0]["ports"]}


def test_compose_listens_on_loopback_and_holds_no_secret() -> None:
    text = (INFRA / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    assert set(services) == {"postgres", "serving", "airflow"}
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    places = services["serving"]["environment"]
    for required in ("ATLAS_DB_PASSWORD", "ATLAS_TOKEN", "ATLAS_HOME"):
        assert f"${{{required}:?" in text, "a missing secret must stop `docker compose up`, not become empty"
    assert places["ATLAS_TOKEN"].startswith("${")
    assert not re.search(r"PASSWORD: [^$\s]", text)


def test_the_dockerfile_has_a_target_for_every_weight_class() -> None:
    text = (INFRA / "images" / "Dockerfile").read_text()
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)
    targets = {name for _, name in stages}
    assert targets >= {load_spec(step).resources.image for step in STEPS} | {"airflow"}
    for target in ("core", "learn", "serve", "airflow"):
        body = text.split(f" AS {target}\n")[1].split("\nFROM ")[0]
        assert "USER 10001:10001" in body, f"{target} would run as root"
    assert "HEALTHCHECK" in text.split(" AS serve\n")[1].split("\nFROM ")[0]
    assert not re.search(r"^ENTRYPOINT", text, re.MULTILINE), "KFP's and Airflow's runners give the whole command"
    assert "ARG BASE_IMAGE=" in text
    assert not re.search(r"(TOKEN|PASSWORD|SECRET)=\S", text)


def test_the_airflow_image_replaces_pins_instead_of_breaking_them() -> None:
    ours = (INFRA / "images" / "airflow.txt").read_text()
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", ours, re.MULTILINE))
    assert int(pins["kubernetes"].split(".")[0]) >= 36
    assert "kfp" not in pins
