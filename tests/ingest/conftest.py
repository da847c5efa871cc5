"""Raw tables on disk, and one call that ingests them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from raw_tables import Ingest, Ingested, Write

from hnlm_ray.ingest.build import Build
from hnlm_ray.ingest.config import DataConfig
from hnlm_ray.progress import Progress
from hnlm_ray.store import Folder

settings.register_profile("busy_machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy_machine")


@pytest.fixture
def ingest(tmp_path: Path) -> Ingest:
    """`ingest(path, seed=0, num_buckets=None, **data_config)` for format `tables` unless told otherwise."""
    runs = iter(range(1000))

    def run(path: Path | str, seed: int = 0, num_buckets: int | None = None, **values: Any) -> Ingested:
        config = DataConfig.model_validate({"format": "tables", "path": str(path), **values})
        folder = tmp_path.with_name(f"{tmp_path.name}-out") / str(next(runs))  # raw data may lie in tmp_path itself
        dataset, quarantine = Folder(folder / "dataset"), Folder(folder / "quarantine")
        return Ingested(folder, Build(config, seed, dataset, quarantine, Progress("ingest"), num_buckets).run())

    return run


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(interactions=table, items=table, users=table)` -> the folder of Parquet files."""
    runs = iter(range(1000))

    def put(**tables: pa.Table) -> Path:
        folder = tmp_path / f"raw-{next(runs)}"
        folder.mkdir()
        for name, table in tables.items():
            pq.write_table(table, folder / f"{name}.parquet")
        return folder

    return put
