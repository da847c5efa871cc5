"""Run a sweep, or what is left of it, and print its table, best trial first.

python jobs/tune.py configs/sweeps/alignment.yaml --run-dir s3://bucket/runs/books --set data.path=s3://bucket/data/books
"""

import argparse

from hnlm_ray.runtime import set_environment
from hnlm_ray.sweep.driver import tune


def main() -> None:
    """Read the sweep's config and run it; `tune` connects to the Ray that the config names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[])
    parser.add_argument("--run-dir", metavar="URI", default="")
    options = parser.parse_args()
    set_environment()
    print(tune(options.config, options.set, options.run_dir).table())


if __name__ == "__main__":
    main()
