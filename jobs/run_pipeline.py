"""Run the pipeline, or what is left of it. The same line works on a laptop, through `ray job submit` and as a RayJob:

python jobs/run_pipeline.py configs/quickstart.yaml --run-dir s3://bucket/runs/books --set runtime.train_workers=4
"""

import sys

from hnlm_ray.arguments import job_parser, run_arguments
from hnlm_ray.config import load_config
from hnlm_ray.errors import exit_code
from hnlm_ray.pipeline import run_pipeline
from hnlm_ray.runtime import connected, set_environment


def main() -> None:
    """Read the config, connect, run."""
    parser = job_parser(__doc__)
    run_arguments(parser)
    parser.add_argument("--until", metavar="STAGE", default="report")
    options = parser.parse_args()
    set_environment()
    config = load_config(options.config, options.set)
    with connected(config.runtime):
        run_pipeline(config, options.run_dir, until=options.until)


if __name__ == "__main__":
    sys.exit(exit_code(main))
