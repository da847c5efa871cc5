"""The files in cluster/: accepted by the packages that read them, alike where they must be, misspelt keys refused."""

import copy
import json
import re
import shlex
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_schemas import launcher_errors, unknown_kubernetes_keys
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from hnlm_ray.cli import _parser
from hnlm_ray.config import load_config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHER_FILES = ("aws.yaml", "gcp.yaml")
KUBERAY_FILES = ("raycluster.yaml", "rayjob.yaml")


def read(name: str) -> dict[str, Any]:
    return json.loads(json.dumps(yaml.safe_load((CLUSTER / name).read_text())))  # anchored parts become separate


def as_raycluster(resource: dict[str, Any]) -> dict[str, Any]:
    spec = resource["spec"]["rayClusterSpec"] if resource["kind"] == "RayJob" else resource["spec"]
    return {"metadata": resource["metadata"], "spec": spec}


@pytest.mark.parametrize("name", LAUNCHER_FILES)
class TestLauncher:
    def test_ray_accepts_it(self, name: str) -> None:
        raw = read(name)
        assert launcher_errors(raw) == []
        validate_config(prepare_config(copy.deepcopy(raw)))

    def test_shape(self, name: str) -> None:
        raw = read(name)
        types = raw["available_node_types"]
        assert types[raw["head_node_type"]]["resources"] == {"CPU": 0}, "the head does no work"
        workers = {key: value for key, value in types.items() if key != raw["head_node_type"]}
        assert all(node["min_workers"] == 0 for node in workers.values())
        assert types["gpu"]["resources"]["GPU"] >= 1
        assert re.search("spot", str(types["gpu"]["node_config"]), re.IGNORECASE)
        assert not re.search("spot", str(types["cpu"]["node_config"]), re.IGNORECASE)
        assert raw["idle_timeout_minutes"] > 0
        assert "RAY_AUTH_MODE=token" in " ".join(raw["docker"]["run_options"])

    @pytest.mark.parametrize(
        ("path", "key"),
        [
            ((), "idle_timeout_minute"),
            ((), "worker_nodes"),
            (("docker",), "worker_imag"),
            (("available_node_types", "gpu"), "min_worker"),
            (("available_node_types", "gpu", "docker"), "worker_imag"),
            (("available_node_types", "gpu", "node_config"), "InstanceTyp"),
            (("available_node_types", "cpu", "node_config"), "machineTypo"),
        ],
    )
    def test_a_misspelt_key_is_refused(self, name: str, path: tuple[str, ...], key: str) -> None:
        raw = read(name)
        node = raw
        for part in path:
            node = node.setdefault(part, {})
        node[key] = 1
        assert any(key in error for error in launcher_errors(raw))

    def test_more_workers_of_a_type_than_of_all_is_refused(self, name: str) -> None:
        raw = read(name)
        raw["available_node_types"]["gpu"]["max_workers"] = raw["max_workers"] + 1
        assert any("exceeds" in error for error in launcher_errors(raw))


@pytest.mark.parametrize("key", ["scheduling.provisioningMode", "disks.0.initializeParams.diskSizeGB"])
def test_a_misspelt_key_deep_in_a_gcp_node_is_refused(key: str) -> None:
    raw = read("gcp.yaml")
    node: Any = raw["available_node_types"]["gpu"]["node_config"]
    *parents, leaf = key.split(".")
    for part in parents:
        node = node[int(part) if part.isdigit() else part]
    node[leaf] = 1
    assert any(leaf in error for error in launcher_errors(raw))


@pytest.mark.parametrize("name", KUBERAY_FILES)
class TestKubeRay:
    def test_the_autoscaler_accepts_it(self, name: str) -> None:
        resource = read(name)
        assert list(unknown_kubernetes_keys(resource, resource["kind"])) == []
        config = _derive_autoscaling_config_from_ray_cr(as_raycluster(resource))
        types = config["available_node_types"]
        assert types["headgroup"]["resources"]["CPU"] == 0, "the head does no work"
        assert types["gpu"]["resources"]["GPU"] == 1
        assert all(types[group]["min_workers"] == 0 for group in ("cpu", "gpu"))
        assert config["idle_timeout_minutes"] == 5

    def test_shape(self, name: str) -> None:
        resource = read(name)
        spec = as_raycluster(resource)["spec"]
        assert resource["apiVersion"] == "ray.io/v1"
        assert spec["authOptions"]["mode"] == "token"
        assert spec["enableInTreeAutoscaling"] is True
        assert spec["autoscalerOptions"]["version"] == "v2"
        for group in spec["workerGroupSpecs"]:
            assert group["template"]["spec"]["restartPolicy"] == "Never"
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            for container in group["template"]["spec"]["containers"]:
                assert container["securityContext"]["runAsNonRoot"] is True
                assert container["resources"]["requests"] == container["resources"]["limits"]

    @pytest.mark.parametrize(
        ("where", "key"),
        [
            (lambda cr: cr, "metdata"),
            (lambda cr: cr["spec"], "rayVersions"),
            (lambda cr: as_raycluster(cr)["spec"], "enableInTreeAutoscalling"),
            (lambda cr: as_raycluster(cr)["spec"]["autoscalerOptions"], "idleTimeoutSecond"),
            (lambda cr: as_raycluster(cr)["spec"]["workerGroupSpecs"][1], "minReplica"),
            (lambda cr: as_raycluster(cr)["spec"]["workerGroupSpecs"][1]["template"]["spec"], "toleration"),
            (lambda cr: as_raycluster(cr)["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0], "img"),
            (
                lambda cr: as_raycluster(cr)["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0][
                    "securityContext"
                ],
                "runAsNonroot",
            ),
        ],
    )
    def test_a_misspelt_key_is_refused(self, name: str, where: Callable[[Any], dict[str, Any]], key: str) -> None:
        resource = read(name)
        where(resource)[key] = 1
        assert [unknown.rpartition(".")[2] for unknown in unknown_kubernetes_keys(resource, resource["kind"])] == [key]


def test_a_rayjob_cleans_up_and_its_entrypoint_is_a_command_that_we_have() -> None:
    spec = read("rayjob.yaml")["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["entrypointNumCpus"] > 0, "the driver must not run on the head"
    assert set(yaml.safe_load(spec["runtimeEnvYAML"])) <= {"working_dir", "env_vars"}
    python, dash_m, module, *arguments = shlex.split(spec["entrypoint"])
    assert (python, dash_m, module) == ("python", "-m", "hnlm_ray.cli")
    options = _parser().parse_args(arguments)
    config = load_config(ROOT / options.config, options.set)
    assert config.runtime.train_group()[0] > 0, "training belongs on workers, not in the driver"


def test_one_ray_version_everywhere() -> None:
    installed = version("ray")
    for name in KUBERAY_FILES:
        assert as_raycluster(read(name))["spec"]["rayVersion"] == installed
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert any(re.fullmatch(rf"ray\[.*\]=={re.escape(installed)}", dependency) for dependency in dependencies)


def test_images_are_pinned_to_this_version() -> None:
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name in (*LAUNCHER_FILES, *KUBERAY_FILES):
        images = re.findall(r"(?:image|_image): (\S+)", (CLUSTER / name).read_text())
        assert images, name
        assert {image.rpartition(":")[2] for image in images} <= {f"{ours}-cpu", f"{ours}-gpu"}


class TestDockerfile:
    text = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ")

    def test_two_targets_on_one_unprivileged_base(self) -> None:
        parents = {stage: parent for parent, stage in re.findall(r"^FROM (\S+) AS (\S+)$", self.text, re.MULTILINE)}
        assert {"cpu", "gpu"} <= set(parents)
        assert parents["cpu"] == parents["gpu"] == "base"
        base = self.text.split("FROM base AS build")[0]
        assert re.findall(r"^USER (\S+)$", self.text, re.MULTILINE) == ["ray"]
        assert base.rstrip().endswith("USER ray")

    def test_python_is_one_that_the_project_runs_on(self) -> None:
        (tag,) = re.findall(r"^FROM python:(\d+\.\d+)-", self.text, re.MULTILINE)
        assert tag == "3.11"

    def test_what_it_copies_is_there(self) -> None:
        sources = [
            source
            for line in re.findall(r"^COPY (?!.*--from)(.+)$", self.text, re.MULTILINE)
            for source in line.split()[:-1]
            if not source.startswith("--")
        ]
        assert sources
        assert [source for source in sources if not (ROOT / source).exists()] == []

    def test_the_environment_is_that_of_the_makefile(self) -> None:
        makefile = (ROOT / "Makefile").read_text()
        for variable in re.findall(r"make setup (\w+)=|(?:make setup \S+ )(\w+)=", self.text):
            assert re.search(rf"^{''.join(variable)} [?:]?=", makefile, re.MULTILINE)
