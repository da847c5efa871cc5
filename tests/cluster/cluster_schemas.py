"""What keys each kind of cluster file may hold: from the packages that read them, and from KubeRay 1.7's CRDs."""

import functools
import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import ray.autoscaler
from botocore.model import StructureShape
from botocore.session import Session
from botocore.validate import ParamValidator
from kubernetes.client import models as k8s

# Fields of ray.io/v1 in KubeRay 1.7. A value names the type below it: another entry here, a Kubernetes model
# ("k8s:..."), a list of either, or None where the field holds a plain value or free keys.
KUBERAY: dict[str, dict[str, Any]] = {
    "RayCluster": {"apiVersion": None, "kind": None, "metadata": "k8s:V1ObjectMeta", "spec": "RayClusterSpec"},
    "RayJob": {"apiVersion": None, "kind": None, "metadata": "k8s:V1ObjectMeta", "spec": "RayJobSpec"},
    "RayClusterSpec": {
        "authOptions": "AuthOptions",
        "autoscalerOptions": "AutoscalerOptions",
        "enableInTreeAutoscaling": None,
        "gcsFaultToleranceOptions": None,
        "headGroupSpec": "HeadGroupSpec",
        "headServiceAnnotations": None,
        "managedBy": None,
        "rayVersion": None,
        "suspend": None,
        "upgradeStrategy": None,
        "workerGroupSpecs": ["WorkerGroupSpec"],
    },
    "AuthOptions": {"mode": None, "secretName": None, "enableK8sTokenAuth": None},
    "AutoscalerOptions": {
        "env": ["k8s:V1EnvVar"],
        "envFrom": ["k8s:V1EnvFromSource"],
        "idleTimeoutSeconds": None,
        "image": None,
        "imagePullPolicy": None,
        "resources": "k8s:V1ResourceRequirements",
        "securityContext": "k8s:V1SecurityContext",
        "upscalingMode": None,
        "version": None,
        "volumeMounts": ["k8s:V1VolumeMount"],
    },
    "HeadGroupSpec": {
        "enableIngress": None,
        "headService": "k8s:V1Service",
        "labels": None,
        "rayStartParams": None,
        "resources": None,
        "serviceType": None,
        "template": "k8s:V1PodTemplateSpec",
    },
    "WorkerGroupSpec": {
        "groupName": None,
        "idleTimeoutSeconds": None,
        "labels": None,
        "maxReplicas": None,
        "minReplicas": None,
        "numOfHosts": None,
        "priority": None,
        "rayStartParams": None,
        "replicas": None,
        "resources": None,
        "scaleStrategy": None,
        "suspend": None,
        "template": "k8s:V1PodTemplateSpec",
    },
    "RayJobSpec": {
        "activeDeadlineSeconds": None,
        "backoffLimit": None,
        "clusterSelector": None,
        "deletionStrategy": None,
        "entrypoint": None,
        "entrypointNumCpus": None,
        "entrypointNumGpus": None,
        "entrypointResources": None,
        "jobId": None,
        "managedBy": None,
        "metadata": None,
        "preRunningDeadlineSeconds": None,
        "rayClusterSpec": "RayClusterSpec",
        "runtimeEnvYAML": None,
        "shutdownAfterJobFinishes": None,
        "submissionMode": None,
        "submitterConfig": None,
        "submitterPodTemplate": "k8s:V1PodTemplateSpec",
        "suspend": None,
        "ttlSecondsAfterFinished": None,
    },
}


def unknown_kubernetes_keys(value: Any, kind: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of the keys that `kind` (a name as in `KUBERAY`, or `[name]`) does not have."""
    if kind is None:
        return
    if isinstance(kind, list):
        for index, element in enumerate(value):
            yield from unknown_kubernetes_keys(element, kind[0], f"{path}[{index}]")
        return
    fields = _kubernetes_fields(kind.removeprefix("k8s:")) if kind.startswith("k8s:") else KUBERAY[kind]
    for key, below in value.items():
        if key not in fields:
            yield f"{path}.{key}".lstrip(".")
        else:
            yield from unknown_kubernetes_keys(below, fields[key], f"{path}.{key}")


def _kubernetes_fields(name: str) -> dict[str, Any]:
    model = getattr(k8s, name)
    return {key: _kubernetes_kind(model.openapi_types[attribute]) for attribute, key in model.attribute_map.items()}


def _kubernetes_kind(type_name: str) -> Any:
    element = re.fullmatch(r"[Ll]ist\[(V1\w+)\]", type_name)
    if element:
        return [f"k8s:{element[1]}"]
    return f"k8s:{type_name}" if type_name.startswith("V1") else None


def launcher_errors(raw: Mapping[str, Any]) -> list[str]:
    """What Ray's schema of `ray up` files refuses, with the checks that it leaves out."""
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    errors = [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(raw)]
    for name, node in raw.get("available_node_types", {}).items():
        if node.get("max_workers", 0) > raw["max_workers"]:
            errors.append(f"{name}: max_workers {node['max_workers']} exceeds the cluster's {raw['max_workers']}")
        check = {"aws": aws_node_errors, "gcp": gcp_node_errors}[raw["provider"]["type"]]
        errors += [f"{name}: {error}" for error in check(node.get("node_config", {}))]
    return errors


def aws_node_errors(node_config: Mapping[str, Any]) -> list[str]:
    """What EC2's own model of RunInstances refuses."""
    report = ParamValidator().validate({**node_config, "MinCount": 1, "MaxCount": 1}, _run_instances())
    return [report.generate_report()] if report.has_errors() else []


@functools.cache
def _gcp_schemas() -> dict[str, Any]:
    document = files("googleapiclient.discovery_cache.documents").joinpath("compute.v1.json").read_text()
    schemas: dict[str, Any] = json.loads(document)["schemas"]
    return schemas


@functools.cache
def _run_instances() -> StructureShape:
    return Session().get_service_model("ec2").operation_model("RunInstances").input_shape


def gcp_node_errors(node_config: Mapping[str, Any]) -> list[str]:
    """Keys that Compute Engine's Instance does not have, by its discovery document."""
    schemas = _gcp_schemas()

    def unknown(value: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
        schema = schemas[schema["$ref"]] if "$ref" in schema else schema
        if isinstance(value, list):
            for index, element in enumerate(value):
                yield from unknown(element, schema["items"], f"{path}[{index}]")
        elif isinstance(value, dict) and "properties" in schema:
            for key, below in value.items():
                if key not in schema["properties"]:
                    yield f"{path}.{key}".lstrip(".")
                else:
                    yield from unknown(below, schema["properties"][key], f"{path}.{key}")

    return [f"unknown key {key}" for key in unknown(node_config, schemas["Instance"], "")]
