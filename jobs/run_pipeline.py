"""Run the pipeline, or what is left of it. The same line works on a laptop, through `ray job submit` and as a RayJob:

python jobs/run_pipeline.py configs/quickstart.yaml --run-dir s3://bucket/runs/books --set runtime.train_workers=4
"""

import argparse

from hnlm_ray.config import load_config
from hnlm_ray.pipeline import run_pipeline
from hnlm_ray.runtime import connected, set_environment


def main() -> None:
    """Read the config, connect, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[])
    parser.add_argument("--run-dir", metavar="URI", default="")
    parser.add_argument("--until", metavar="STAGE", default="report")
    options = parser.parse_args()
    set_environment()
    config = load_config(options.config, options.set)
    with connected(config.runtime):
        run_pipeline(config, options.run_dir, until=options.until)


if __name__ == "__main__":
    main()
