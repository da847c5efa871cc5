"""Run a sweep, or what is left of it, and print its table, best trial first.

python jobs/tune.py configs/sweeps/alignment.yaml --run-dir s3://bucket/runs/books --set data.path=s3://bucket/data/books
"""

import sys

from hnlm_ray.arguments import job_parser, run_arguments
from hnlm_ray.errors import exit_code
from hnlm_ray.runtime import set_environment
from hnlm_ray.sweep.driver import tune


def main() -> None:
    """Read the sweep's config and run it; `tune` connects to the Ray that the config names."""
    parser = job_parser(__doc__)
    run_arguments(parser)
    options = parser.parse_args()
    set_environment()
    print(tune(options.config, options.set, options.run_dir).table())


if __name__ == "__main__":
    sys.exit(exit_code(main))
