"""Measure one part against its baseline on the machine that the job lands on; exits with 1 where a bar is missed.

python jobs/benchmark.py train --json train.json
"""

import sys

from hnlm_ray.arguments import bench_arguments, job_parser
from hnlm_ray.bench.frame import BenchOptions, run_bench
from hnlm_ray.errors import exit_code
from hnlm_ray.runtime import set_environment


def main() -> int:
    """Read the options, measure."""
    parser = job_parser(__doc__)
    bench_arguments(parser)
    options = parser.parse_args()
    set_environment()
    settings = BenchOptions(options.quick, options.threads, options.repeats, options.seed)
    return run_bench(options.name, options.json, settings, check=True)


if __name__ == "__main__":
    sys.exit(exit_code(main))
