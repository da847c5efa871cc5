"""Arguments that the `hnlm` command and the scripts in jobs/ share."""

import argparse


def job_parser(description: str | None) -> argparse.ArgumentParser:
    """The parser of a script, whose own docstring says what it does."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def config_arguments(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """The config file and what is set on top of it."""
    parser.add_argument("config", metavar="CONFIG", nargs="?" if optional else None, help="YAML file")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override, e.g. train.epochs=5")


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """The config file and the run directory."""
    config_arguments(parser)
    parser.add_argument("--run-dir", metavar="URI", default="", help="local path, s3:// or gs:// (default: runs/NAME)")


def bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Which benchmark, and how it measures."""
    parser.add_argument(
        "name",
        metavar="NAME",
        help="ingest, generate, grounding, finetune, embed, train, evaluate, autoscale, faults or scale",
    )
    parser.add_argument("--json", metavar="FILE", help="also write figures and bars as JSON")
    parser.add_argument("--quick", action="store_true", help="small data, to see that it runs; says nothing about bars")
    parser.add_argument("--threads", type=int, default=0, help="threads for both sides (default: those of the bars)")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions; medians count (default 5)")
    parser.add_argument("--seed", type=int, default=0)
