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
from ray.autoscaler._private.aws import node_provider as aws_node_provider
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.kuberay.utils import parse_quantity
from ray.autoscaler._private.util import prepare_config, validate_config

from hnlm_ray.cli import _parser
from hnlm_ray.config import load_config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHER_FILES = ("aws.yaml", "gcp.yaml")
KUBERAY_FILES = ("raycluster.yaml", "rayjob.yaml")
GIB = 2**30
ROOM_FOR_PODS = {"head": (3, 12), "cpu": (15, 57), "gpu": (7, 27)}
"""CPUs and GiB that GKE leaves of n2-standard-4, n2-standard-16 and g2-standard-8, the machines that README.md prices:
by its formula 3.9 and 13.3, 15.8 and 58.4, 7.9 and 28.3, less about one of each for the pods that it adds itself."""


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

    def test_nothing_is_installed_over_the_image(self, name: str) -> None:
        merged = prepare_config(read(name))  # Ray's defaults stand where the file says nothing
        commands = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
        assert [command for key in commands for command in merged[key]] == []

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


def test_workers_have_an_identity_of_their_own() -> None:
    """Ray gives one to the head alone, and the driver, which uses the bucket, runs on a worker."""
    types = read("aws.yaml")["available_node_types"]
    aws = {key: node["node_config"]["IamInstanceProfile"] for key, node in types.items()}
    assert aws["cpu"] == aws["gpu"] != aws["head"], "only the head may start machines"
    raw = read("gcp.yaml")
    types = raw["available_node_types"]
    assert types["cpu"]["node_config"]["serviceAccounts"] == types["gpu"]["node_config"]["serviceAccounts"]
    (account,) = types["cpu"]["node_config"]["serviceAccounts"]
    assert account["email"].endswith(f"@{raw['provider']['project_id']}.iam.gserviceaccount.com")
    assert account["scopes"] == ["https://www.googleapis.com/auth/cloud-platform"]
    to_make = {profile["Name"] for profile in aws.values()} | {account["email"].partition("@")[0]}
    readme = (CLUSTER / "README.md").read_text()
    assert {name for name in to_make if f"`{name}`" not in readme} == set()


def test_the_autoscaler_knows_the_gpus_of_nodes_that_are_yet_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """`llm.accelerator` asks for a resource that a node shows when it is up; before that, the file must say it."""

    def describe(machine: str, **more: Any) -> dict[str, Any]:
        return {"InstanceType": machine, "VCpuInfo": {"DefaultVCpus": 8}, "MemoryInfo": {"SizeInMiB": 32768}, **more}

    a10g = {"Gpus": [{"Name": "A10G", "Manufacturer": "NVIDIA", "Count": 1}]}
    machines = [describe("m7i.xlarge"), describe("m7i.4xlarge"), describe("g5.2xlarge", GpuInfo=a10g)]
    monkeypatch.setattr(aws_node_provider, "list_ec2_instances", lambda *_: machines)
    filled = aws_node_provider.AWSNodeProvider.fillout_available_node_types_resources(read("aws.yaml"))
    gpu_nodes = {
        "aws.yaml": filled["available_node_types"]["gpu"],
        "gcp.yaml": read("gcp.yaml")["available_node_types"]["gpu"],
    }
    for name in KUBERAY_FILES:
        config = _derive_autoscaling_config_from_ray_cr(as_raycluster(read(name)))
        gpu_nodes[name] = config["available_node_types"]["gpu"]
    for name, node in gpu_nodes.items():
        assert node["resources"].get(f"accelerator_type:{node['labels']['ray.io/accelerator-type']}") == 1, name


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

    def test_pods_fit_on_the_machines_that_are_priced(self, name: str) -> None:
        spec = as_raycluster(read(name))["spec"]
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            asking = group["template"]["spec"]["containers"]
            if group is spec["headGroupSpec"]:
                asking = [*asking, spec["autoscalerOptions"]]  # KubeRay puts the autoscaler into the head's pod
            asked = [container["resources"]["requests"] for container in asking]
            cpus, gib = ROOM_FOR_PODS[group.get("groupName", "head")]
            assert sum(parse_quantity(request["cpu"]) for request in asked) <= cpus
            assert sum(parse_quantity(request["memory"]) for request in asked) <= gib * GIB

    def test_workers_get_the_bucket_and_all_pods_are_watched(self, name: str) -> None:
        spec = as_raycluster(read(name))["spec"]
        for group in spec["workerGroupSpecs"]:
            (source,) = group["template"]["spec"]["containers"][0]["envFrom"]
            assert source["secretRef"]["name"] == "hnlm-bucket"
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            notes = group["template"]["metadata"]["annotations"]
            assert notes["prometheus.io/scrape"] == "true"
            ports = group["template"]["spec"]["containers"][0]["ports"]
            assert {"name": "metrics", "containerPort": int(notes["prometheus.io/port"])} in ports

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


def test_both_kuberay_files_make_the_same_cluster() -> None:
    one, other = (as_raycluster(read(name))["spec"] for name in KUBERAY_FILES)
    assert one == other


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


def test_the_readme_shows_the_token_before_it_submits() -> None:
    """Ray's job client sends none unless RAY_AUTH_MODE says so, even where the token lies in ~/.ray."""
    readme = (CLUSTER / "README.md").read_text()
    blocks = [block for block in re.findall(r"(?:^ {4}.+\n)+", readme, re.MULTILINE) if "hnlm submit " in block]
    assert len(blocks) == 2  # virtual machines, Kubernetes
    for block in blocks:
        assert "export RAY_AUTH_MODE=token" in block.partition("hnlm submit ")[0]


class TestDockerfile:
    text = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ")

    def test_two_targets_on_one_unprivileged_base(self) -> None:
        parents = {stage: parent for parent, stage in re.findall(r"^FROM (\S+) AS (\S+)$", self.text, re.MULTILINE)}
        assert {"cpu", "gpu"} <= set(parents)
        assert parents["cpu"] == parents["gpu"] == "base"
        base = self.text.split("FROM base AS build")[0]
        (user,) = re.findall(r"^USER (\S+)$", self.text, re.MULTILINE)
        assert base.rstrip().endswith(f"USER {user}")
        assert int(user) > 0, "under runAsNonRoot, Kubernetes refuses a user that is no number"
        assert re.findall(r"useradd .*--uid (\d+)", base) == [user]

    def test_the_gpu_image_alone_asks_for_gpus(self) -> None:
        stages = dict(re.findall(r"^FROM \S+ AS (\S+)$(.*?)(?=^FROM |\Z)", self.text, re.MULTILINE | re.DOTALL))
        asking = {
            stage: dict(re.findall(r"(\w+)=(\S+)", " ".join(re.findall(r"^ENV (.+)$", text, re.MULTILINE))))
            for stage, text in stages.items()
            if "NVIDIA" in text
        }
        assert set(asking) == {"gpu"}
        assert asking["gpu"]["NVIDIA_VISIBLE_DEVICES"] == "all"
        assert set(asking["gpu"]["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility"}
        assert "/usr/local/nvidia/lib64" in asking["gpu"]["LD_LIBRARY_PATH"].split(":")

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
