"""A driver that the fault tests kill: brings one task to its end on an existing Ray, with engines fed in one way."""

import sys
from pathlib import Path

import ray

sys.path.insert(0, str(Path(__file__).parent))
from paced_tasks import paced_group, paced_plan, title_task

from hnlm_ray.generate import feeding
from hnlm_ray.generate.config import LLMConfig
from hnlm_ray.generate.units import run_task
from hnlm_ray.progress import Progress


def main(root: str, address: str, num_rows: int, rows_fed_from_here: int) -> None:
    ray.init(address=address, log_to_driver=False)
    task = title_task(Path(root), [f"title {n}" for n in range(num_rows)], rows_per_unit=10)
    group = paced_group(paced_plan(), row_s=0.01)
    feeding.ROWS_FED_FROM_HERE = rows_fed_from_here
    (Path(root) / "begun").touch()
    run_task(task, group, LLMConfig(max_num_seqs=10), Progress("chaos"), "rows")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
