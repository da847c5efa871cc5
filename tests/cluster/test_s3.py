"""Run directories on S3: a real S3 server on loopback, credentials from the environment."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer

from hnlm_ray.errors import UserError
from hnlm_ray.store import Folder, ManifestEntry, RunDir

ROOT = Path(__file__).parents[2]
BUCKET = "hnlm-test"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "only-on-loopback", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def s3_environment() -> Iterator[dict[str, str]]:
    """A server with one bucket; what a process needs in its environment to use it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        **CREDENTIALS,
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    _client(environment).create_bucket(Bucket=BUCKET)
    yield environment
    server.stop()


def _client(environment: dict[str, str]) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )


@pytest.fixture
def root(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Folder:
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    return Folder(f"s3://{BUCKET}/{request.node.name}")


def test_a_folder_reads_what_it_wrote(root: Folder, tmp_path: Path) -> None:
    assert not root.exists()
    assert root.names() == []
    table = pa.table({"user_id": pa.array([1, 2, 3], pa.int32()), "text": ["a", None, "ü"]})
    root.write_table("users/part-1.parquet", table.slice(2))
    root.write_table("users/part-0.parquet", table.slice(0, 2))
    root.write_json("stats.json", {"users": 3})
    root.write_tensors("emb.safetensors", {"user_emb": np.eye(3, dtype=np.float32)})
    assert root.names() == ["emb.safetensors", "stats.json", "users"], "and nothing half-written"
    assert root.read_table("users").equals(table)
    assert root.read_table("users/part-0.parquet", columns=["user_id"]).num_rows == 2
    assert root.num_rows("users") == 3
    assert root.read_json("stats.json") == {"users": 3}
    assert np.array_equal(root.read_tensors("emb.safetensors")["user_emb"], np.eye(3))
    assert not root.is_local
    root.delete("stats.json")
    assert not root.exists("stats.json")
    root.delete()
    assert not root.exists("users")


def test_directories_travel_both_ways(root: Folder, tmp_path: Path) -> None:
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "sub" / "weights.bin").write_bytes(b"\0" * 3_000_000)
    root.child("model").upload(tmp_path / "model")
    root.child("model").download(tmp_path / "copy")
    assert (tmp_path / "copy" / "sub" / "weights.bin").read_bytes() == b"\0" * 3_000_000
    local = root.child("model").local()
    assert (local / "config.json").read_text() == "{}"
    assert root.child("model").local() == local, "one copy per machine"


def test_a_run_directory_keeps_its_manifest(root: Folder) -> None:
    run_dir = RunDir(root.uri)
    assert run_dir.entries() == {}
    for fingerprint in ("aa", "bb", "aa"):
        run_dir.commit(ManifestEntry("ingest", fingerprint, {"dataset": f"dataset/{fingerprint}"}, {}, 1.0, 0.5, "now"))
    assert [entry.fingerprint for entry in RunDir(root.uri).entries()["ingest"]] == ["bb", "aa"]
    current = run_dir.current("ingest")
    assert current is not None
    assert current.fingerprint == "aa"


WHOLE = [
    "data.synthetic.num_users=40",
    "data.synthetic.num_items=40",
    "llm.standin.num_steps=150",
    "llm.standin.min_genre_accuracy=0.3",
    "signal.epochs=2",
    "finetune.max_triplets=64",
    "finetune.epochs=1",
    "train.epochs=2",
]


@pytest.mark.timeout(1200)
def test_a_run_with_its_directory_on_s3(s3_environment: dict[str, str], tmp_path: Path) -> None:
    """Every stage, by the command in a process of its own; then nothing is left to do."""
    uri = f"s3://{BUCKET}/runs/shop"
    command = [sys.executable, "-m", "hnlm_ray.cli", "run", str(ROOT / "configs" / "quickstart.yaml"), "--run-dir", uri]
    command += [part for value in WHOLE for part in ("--set", value)]
    caches = tempfile.mkdtemp(prefix="h")  # where folders on S3 are copied to; short, since sockets lie there too
    environment = {**os.environ, **s3_environment, "TMPDIR": caches}
    outputs = []
    for _ in range(2):
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.append(done.stdout + done.stderr)
    assert "[9/9] report" in outputs[0]
    assert f"nothing to do: all 9 stages of this config stand complete in {uri}" in outputs[1]
    status = [sys.executable, "-m", "hnlm_ray.cli", "status", uri]
    shown = subprocess.run(status, env=environment, capture_output=True, text=True, timeout=100)
    assert "9 of 9 stages complete" in shown.stdout
    secret = CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode()
    assert [key for key, content in _objects(s3_environment) if secret in content] == []
    shutil.rmtree(caches)


def test_raw_data_on_s3(s3_environment: dict[str, str], tmp_path: Path) -> None:
    """Shards of JSON lines, one compressed, read by Ray's workers from the bucket."""
    client = _client(s3_environment)
    for shard in range(2):
        rows = [{"user_id": f"u{u}", "item_id": f"i{(u + k) % 30}", "rating": 5} for u in range(30) for k in range(8)]
        lines = "\n".join(json.dumps(row) for row in rows[shard::2]).encode()
        name, body = (f"part-{shard}.jsonl.gz", gzip.compress(lines)) if shard else (f"part-{shard}.jsonl", lines)
        client.put_object(Bucket=BUCKET, Key=f"raw/interactions/{name}", Body=body)
    (tmp_path / "shop.yaml").write_text(
        f"data: {{format: tables, path: 's3://{BUCKET}/raw', engine: ray}}\n"
        "runtime: {address: local, num_cpus: 2, object_store_gb: 0.2}\n"
    )
    command = [sys.executable, "-m", "hnlm_ray.cli", "run", "shop.yaml", "--run-dir", "run", "--until", "ingest"]
    environment = {**os.environ, **s3_environment}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    entry = RunDir(str(tmp_path / "run")).current("ingest")
    assert entry is not None
    dataset = Folder(tmp_path / "run").child(entry.artifacts["dataset"])
    assert dataset.num_rows("users") == 30
    assert sum(dataset.num_rows(split) for split in ("train", "valid", "test")) == 240


def _objects(environment: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    client = _client(environment)
    for listed in client.list_objects_v2(Bucket=BUCKET, Prefix="runs/")["Contents"]:
        yield listed["Key"], client.get_object(Bucket=BUCKET, Key=listed["Key"])["Body"].read()


def test_a_bucket_that_is_not_there(root: Folder) -> None:
    with pytest.raises((UserError, OSError), match=r"nobodys-bucket|NoSuchBucket|does not exist"):
        Folder("s3://nobodys-bucket/x").write_json("a.json", {})
