"""The `hnlm` command: reads its arguments, calls one function, turns the user's mistakes into one line."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hnlm_ray.arguments import bench_arguments, config_arguments, run_arguments
from hnlm_ray.errors import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 failed checks, 2 the user's mistake, 130 interrupted."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    return exit_code(lambda: command(options))


def _run(options: argparse.Namespace) -> int:
    from hnlm_ray.runtime import set_environment

    set_environment()
    from hnlm_ray.config import load_config
    from hnlm_ray.console import quiet_libraries
    from hnlm_ray.ingest.source import check
    from hnlm_ray.pipeline import plan, run_pipeline
    from hnlm_ray.plan import check_models, costs, describe
    from hnlm_ray.runtime import local_resources
    from hnlm_ray.store import RunDir
    from hnlm_ray.tracking import check_trackers

    config = load_config(options.config, options.set)
    check(config.data)
    check_models(config)
    run_dir = RunDir(options.run_dir or f"runs/{config.name}")
    check_trackers(config.runtime, run_dir.folder.uri)
    planned = plan(config, run_dir, options.until)
    place = Path(run_dir.folder.path if run_dir.folder.is_local else ".")
    words = [describe(config, planned, local_resources(config.runtime, place)), costs(config, planned, run_dir)]
    print("\n".join(filter(None, words)), end="\n\n", flush=True)
    if options.dry_run:
        return 0
    if options.verbose or all(item.state == "done" for item in planned):
        run_pipeline(config, run_dir.folder.uri, until=options.until, terminal=sys.stdout)
    else:
        log_file = place / "logs" / "run.log"
        print(f"log: {log_file}", flush=True)
        with quiet_libraries(log_file) as terminal:
            run_pipeline(config, run_dir.folder.uri, until=options.until, terminal=terminal)
    if run_dir.folder.exists("report.html"):
        print(f"report: {run_dir.folder.child('report.html').uri}")
    return 0


def _status(options: argparse.Namespace) -> int:
    from hnlm_ray.status import status

    print(status(options.run_dir))
    return 0


def _report(options: argparse.Namespace) -> int:
    from hnlm_ray.report.stage import build_report
    from hnlm_ray.store import RunDir

    print(build_report(RunDir(options.run_dir)))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from hnlm_ray.doctor import doctor

    return doctor(options.config, options.set)


def _bench(options: argparse.Namespace) -> int:
    from hnlm_ray.bench.frame import BenchOptions, run_bench
    from hnlm_ray.runtime import set_environment

    set_environment()
    settings = BenchOptions(options.quick, options.threads, options.repeats, options.seed)
    return run_bench(options.name, options.json, settings, options.check)


def _tune(options: argparse.Namespace) -> int:
    from hnlm_ray.runtime import set_environment

    set_environment()
    from hnlm_ray.console import quiet_libraries
    from hnlm_ray.sweep.config import load_sweep
    from hnlm_ray.sweep.driver import tune

    config, _ = load_sweep(options.config, options.set)
    run_dir = options.run_dir or f"runs/{config.name}"
    log_file = Path("." if "://" in run_dir else run_dir) / "logs" / "tune.log"
    print(f"log: {log_file}", flush=True)
    with quiet_libraries(log_file) as terminal:
        outcome = tune(options.config, options.set, run_dir, terminal)
    print(f"\n{outcome.table()}\n\n{len(outcome.rows)} trials: {outcome.overhead_s:.1f} s each beside training")
    print(f"winner: {outcome.folder.child('winner.yaml').uri}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from hnlm_ray.runtime import set_environment

    set_environment()
    from hnlm_ray.compare.config import load_compare
    from hnlm_ray.compare.driver import compare
    from hnlm_ray.compare.readme import update_readme
    from hnlm_ray.compare.table import table
    from hnlm_ray.console import quiet_libraries

    config, _ = load_compare(options.config, options.set)
    run_dir = options.run_dir or f"runs/{config.name}"
    log_file = Path("." if "://" in run_dir else run_dir) / "logs" / "compare.log"
    print(f"log: {log_file}", flush=True)
    reduction = {"rows": options.rows, "seeds": options.seeds, "trials": options.trials}
    with quiet_libraries(log_file) as terminal:
        outcome = compare(options.config, options.set, run_dir, **reduction, terminal=terminal)
    print(f"\n{table(outcome.results)}\n\nreport: {outcome.folder.child('report.html').uri}")
    if options.readme:
        update_readme(Path(options.readme), Path(options.config).parent)
    return 0


def _submit(options: argparse.Namespace) -> int:
    from hnlm_ray.cluster.submit import SubmitOptions, submit

    names = ("address", "run_dir", "working_dir", "until", "environment", "entrypoint_cpus", "on_interrupt", "follow")
    settings = SubmitOptions(**{name: getattr(options, name) for name in names})
    return submit(options.config, options.set, settings)


def _jobs(options: argparse.Namespace) -> int:
    from hnlm_ray.cluster.submit import connect, follow, jobs_table, stop

    client = connect(options.address)
    if options.stop:
        print(f"{options.stop}: {stop(client, options.stop)}")
        return 0
    if options.follow:
        return follow(client, options.follow, options.address, options.on_interrupt)
    print(jobs_table(client))
    return 0


def _data_inspect(options: argparse.Namespace) -> int:
    from hnlm_ray.ingest.inspect import inspect

    print(inspect(options.path))
    return 0


def _data_fetch(options: argparse.Namespace) -> int:
    from hnlm_ray.ingest.fetch import fetch

    print(fetch(options.name, options.to))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hnlm", description="LLM-driven hard negatives for recommenders, on Ray.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the pipeline, or what is left of it")
    run_arguments(run)
    run.add_argument("--until", metavar="STAGE", default="report", help="last stage to run")
    run.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    run.add_argument("-v", "--verbose", action="store_true", help="show what Ray and vLLM print")
    run.set_defaults(command=_run)

    status = commands.add_parser("status", help="stage by stage: done, partial, missing")
    status.add_argument("run_dir", metavar="RUN_DIR")
    status.set_defaults(command=_status)

    report = commands.add_parser("report", help="write report.html and report.json again")
    report.add_argument("run_dir", metavar="RUN_DIR")
    report.set_defaults(command=_report)

    doctor = commands.add_parser("doctor", help="what this machine or cluster lacks")
    config_arguments(doctor, optional=True)
    doctor.set_defaults(command=_doctor)

    bench = commands.add_parser("bench", help="measure one part against its baseline")
    bench_arguments(bench)
    bench.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    bench.set_defaults(command=_bench)

    tune = commands.add_parser("tune", help="search training settings over one set of LLM artifacts")
    run_arguments(tune)
    tune.set_defaults(command=_tune)

    compare = commands.add_parser("compare", help="all methods with the same budget, several seeds, one table")
    run_arguments(compare)
    compare.add_argument("--rows", metavar="A,B", type=_names, default=[], help="only these rows")
    compare.add_argument("--seeds", metavar="0,1", type=_integers, default=[], help="only these seeds")
    compare.add_argument("--trials", metavar="N", type=int, default=0, help="settings that each row tries")
    compare.add_argument("--readme", metavar="FILE", help="also write the tables of all kept results into this file")
    compare.set_defaults(command=_compare)

    submit = commands.add_parser("submit", help="run on a cluster, as a Ray job")
    config_arguments(submit)
    _address_argument(submit)
    submit.add_argument("--run-dir", metavar="URI", default="", help="s3://, gs:// or an absolute path all nodes share")
    submit.add_argument("--working-dir", metavar="DIR", default=".", help="folder to package (default: this one)")
    submit.add_argument("--until", metavar="STAGE", default="report", help="last stage to run")
    submit.add_argument(
        "--environment",
        choices=("image", "packages"),
        default="image",
        help="where the nodes' packages come from: their image (default), or installed by Ray from the pins",
    )
    submit.add_argument(
        "--entrypoint-cpus", metavar="N", type=float, default=1.0, help="CPUs of the driver (default 1)"
    )
    submit.add_argument("--no-follow", dest="follow", action="store_false", help="submit and return at once")
    submit.set_defaults(command=_submit)

    jobs = commands.add_parser("jobs", help="list, follow or stop submitted runs")
    _address_argument(jobs)
    jobs.add_argument("--follow", metavar="JOB", help="print its log until it ends; exits with its code")
    jobs.add_argument("--stop", metavar="JOB", help="end it; what is complete stays")
    jobs.set_defaults(command=_jobs)

    data = commands.add_parser("data", help="look at data, or get a public set")
    data_commands = data.add_subparsers(required=True, metavar="inspect|fetch")
    inspect = data_commands.add_parser("inspect", help="what a file or folder looks like, and the config to paste")
    inspect.add_argument("path", metavar="PATH")
    inspect.set_defaults(command=_data_inspect)
    fetch = data_commands.add_parser("fetch", help="download a public set, or say where to get it")
    fetch.add_argument("name", metavar="NAME")
    fetch.add_argument("--to", metavar="DIR", default="data", help="folder to put it in (default: data)")
    fetch.set_defaults(command=_data_fetch)
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _integers(text: str) -> list[int]:
    return [int(name) for name in _names(text)]


def _address_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", metavar="URL", required=True, help="dashboard of the cluster: http://HOST:8265")
    parser.add_argument(
        "--on-interrupt",
        choices=("detach", "stop"),
        default="detach",
        help="what Ctrl-C does to the job (default: detach, it goes on)",
    )


if __name__ == "__main__":
    sys.exit(main())
