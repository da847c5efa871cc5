"""Measure one part against its baseline on the machine that the job lands on; exits with 1 where a bar is missed.

python jobs/benchmark.py train --json train.json
"""

import argparse
import sys

from hnlm_ray.bench.frame import BENCHES, BenchOptions, run_bench
from hnlm_ray.runtime import set_environment


def main() -> int:
    """Read the options, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(BENCHES))
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    set_environment()
    return run_bench(
        options.name, options.json, BenchOptions(threads=options.threads, repeats=options.repeats), check=True
    )


if __name__ == "__main__":
    sys.exit(main())
