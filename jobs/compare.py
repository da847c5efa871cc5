"""Run a comparison, or what is left of it, and print its table.

python jobs/compare.py configs/compare/amazon_toys.yaml --run-dir s3://bucket/runs/toys --set data.path=s3://bucket/toys
"""

import sys

from hnlm_ray.arguments import job_parser, run_arguments
from hnlm_ray.compare.driver import compare
from hnlm_ray.compare.table import table
from hnlm_ray.errors import exit_code
from hnlm_ray.runtime import set_environment


def main() -> None:
    """Read the comparison's config and run it; `compare` connects to the Ray that the config names."""
    parser = job_parser(__doc__)
    run_arguments(parser)
    options = parser.parse_args()
    set_environment()
    print(table(compare(options.config, options.set, options.run_dir).results))


if __name__ == "__main__":
    sys.exit(exit_code(main))
