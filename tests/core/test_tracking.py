"""A run's figures where they arrive: Ray's export endpoint, an MLflow folder, TensorBoard event files."""

import struct
import time
import uuid
from pathlib import Path

import pytest
import ray
import requests
from mlflow.tracking import MlflowClient
from tensorboardX.proto.event_pb2 import Event

from hnlm_ray.cluster.submit import SubmitOptions, submit
from hnlm_ray.config import RunConfig, parse_config
from hnlm_ray.distributed import _polling
from hnlm_ray.errors import UserError
from hnlm_ray.pipeline import run_pipeline
from hnlm_ray.progress import Progress
from hnlm_ray.runtime import RuntimeConfig
from hnlm_ray.store import Folder, RunDir
from hnlm_ray.tracking import RayMetrics, check_trackers, observed

EPOCHS = 4


def config(runtime: RuntimeConfig, **changes: object) -> RunConfig:
    values = {
        "name": "shop",
        "data": {"format": "synthetic", "synthetic": {"num_users": 60, "num_items": 40}},
        "train": {"epochs": EPOCHS, "eval_every": 2, "dim": 8, "hnlm": {"variant": "none"}},
        "runtime": {**runtime.model_dump(), "trackers": ["mlflow", "tensorboard"], **changes},
    }
    return parse_config(values)


def events(folder: Path) -> dict[tuple[str, int], float]:
    """(curve, step) -> value, of all event files: records of length, checksum, message, checksum."""
    found = {}
    for file in folder.glob("events.*"):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return found


def test_a_run_is_read_back_from_both_trackers(ray_session: RuntimeConfig, tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_pipeline(config(ray_session), run_dir.folder.uri, until="evaluate")
    entry = run_dir.current("train")
    assert entry is not None
    losses = {
        row["epoch"]: row["loss"]
        for row in run_dir.folder.child(entry.artifacts["recommender"]).read_json("history.json")
    }
    recall = run_dir.folder.read_json("metrics.json")["test"]["recall@20"]

    client = MlflowClient(run_dir.folder.child("mlruns").uri)
    [run] = client.search_runs([client.get_experiment_by_name("hnlm_ray").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.params["train.epochs"]) == ("shop", "FINISHED", str(EPOCHS))
    curve = client.get_metric_history(run.info.run_id, "train/loss")
    assert {point.step: point.value for point in curve} == pytest.approx(losses)
    assert run.data.metrics["evaluate/test/recall_at_20"] == pytest.approx(recall)
    assert run.data.metrics["ingest/rows"] > 0

    board = events(tmp_path / "tensorboard")
    assert {step: value for (name, step), value in board.items() if name == "train/loss"} == pytest.approx(losses)
    assert board["evaluate/test/recall_at_20", 0] == pytest.approx(recall)


def test_the_same_run_again_goes_on_in_the_same_mlflow_run_and_another_config_does_not(
    ray_session: RuntimeConfig, tmp_path: Path
) -> None:
    run_dir = RunDir(tmp_path)
    for _ in range(2):
        with observed(config(ray_session), run_dir) as observers:
            Progress("profile", observers=observers).update(3, tokens=10, failed=1)
    with pytest.raises(ZeroDivisionError), observed(config(ray_session, max_failures=1), run_dir):
        raise ZeroDivisionError
    client = MlflowClient(run_dir.folder.child("mlruns").uri)
    runs = client.search_runs([client.get_experiment_by_name("hnlm_ray").experiment_id])
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED"]
    [finished] = [run for run in runs if run.info.status == "FINISHED"]
    assert {name: finished.data.metrics[f"profile/{name}"] for name in ("rows", "tokens", "failed")} == {
        "rows": 3, "tokens": 10, "failed": 1
    }  # fmt: skip


def test_a_place_that_takes_no_runs_is_named(ray_session: RuntimeConfig, tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="mlflow_uri 'nosuch://here'"),
        observed(config(ray_session, mlflow_uri="nosuch://here"), RunDir(tmp_path)),
    ):
        pass


def test_a_tracker_that_cannot_be_made_leaves_no_run_of_another_running(runtime: RuntimeConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    run_dir, taken = RunDir(tmp_path / "run"), str(tmp_path / "file")
    with (
        pytest.raises(UserError, match=f"runtime.tensorboard_dir '{taken}' takes no event files"),
        observed(config(runtime, tensorboard_dir=taken), run_dir),
    ):
        pass
    client = MlflowClient(run_dir.folder.child("mlruns").uri)
    [run] = client.search_runs([client.get_experiment_by_name("hnlm_ray").experiment_id])
    assert run.info.status == "FAILED"


@pytest.mark.parametrize(
    ("tracker", "key"), [("mlflow", "runtime.mlflow_uri"), ("tensorboard", "runtime.tensorboard_dir")]
)
class TestARemoteRunDirectory:
    """`mock://` is remote, as s3:// is, and needs no server."""

    def test_needs_a_place_for_trackers_before_the_first_stage(
        self, runtime: RuntimeConfig, tracker: str, key: str
    ) -> None:
        with pytest.raises(UserError, match=f"{tracker} cannot write to the run directory 'mock://run': set {key} to"):
            run_pipeline(config(runtime, trackers=[tracker]), "mock://run")

    def test_needs_a_place_for_trackers_before_anything_is_packaged(
        self, tmp_path: Path, tracker: str, key: str
    ) -> None:
        (tmp_path / "shop.yaml").write_text("data: {format: synthetic}")
        options = SubmitOptions("http://127.0.0.1:9", "s3://bucket/run", working_dir=str(tmp_path / "nowhere"))
        with pytest.raises(UserError, match=f"{tracker} cannot write to the run directory 's3://.*set {key} to"):
            submit(str(tmp_path / "shop.yaml"), [f"runtime.trackers=[{tracker}]"], options)

    def test_is_accepted_with_a_place_and_a_local_one_without(self, tracker: str, key: str) -> None:
        check_trackers(parse_config({"runtime": {"trackers": [tracker]}}).runtime, "file:///shared/run")
        placed = {"trackers": [tracker], key.removeprefix("runtime."): "/shared/curves"}
        check_trackers(parse_config({"runtime": placed}).runtime, "s3://bucket/run")


def test_every_report_of_remote_workers_is_heard_once(tmp_path: Path) -> None:
    class Heard(list[int]):
        def reach(self, stage: str, step: int, metrics: dict[str, float]) -> None:
            self.append(step)

    heard, out = Heard(), Folder(tmp_path)
    with _polling(out, Progress("train", observers=[heard])):  # type: ignore[list-item]
        out.write_json("progress.json", {"total": 5, "reports": [[1, {"loss": 2.0}], [2, {"loss": 1.5}]]})
        time.sleep(1.3)
        out.write_json("progress.json", {"total": 5, "reports": [[step, {"loss": 1.0}] for step in (2, 3, 4, 5)]})
    assert heard == [1, 2, 3, 4, 5]


def test_counters_and_gauges_stand_at_the_export_endpoint(ray_session: RuntimeConfig) -> None:
    name = f"shop-{uuid.uuid4().hex[:8]}"
    progress = Progress("profile", observers=[RayMetrics(name)])
    progress.update(40, tokens=900, failed=2)
    progress.update(2, tokens=100)
    Progress("train", observers=[RayMetrics(name)]).reach(3, 9, {"loss": 0.25, "ndcg@20": 0.1})
    [node] = [node for node in ray.nodes() if node["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    expected = {
        ("ray_hnlm_rows_total", "profile"): 42.0,
        ("ray_hnlm_tokens_total", "profile"): 1000.0,
        ("ray_hnlm_failed_rows_total", "profile"): 2.0,
        ("ray_hnlm_epoch", "train"): 3.0,
        ("ray_hnlm_loss", "train"): 0.25,
    }
    deadline = time.monotonic() + 60
    while (found := exported(url, name)) != expected and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found == expected


def exported(url: str, run: str) -> dict[tuple[str, str], float]:
    """(metric, stage) -> value, of one run."""
    found = {}
    for line in requests.get(url, timeout=10).text.splitlines():
        if line.startswith("ray_hnlm_") and f'run="{run}"' in line.lower().replace("Run=", "run="):
            stage = line.lower().partition('stage="')[2].partition('"')[0]
            found[line.partition("{")[0], stage] = float(line.rpartition(" ")[2])
    return found
