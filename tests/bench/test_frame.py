"""The bench frame: verdicts, pairing, tables, JSON and refusals."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hnlm_ray.bench import frame
from hnlm_ray.bench.frame import Bar, BenchOptions, Measurement, format_table, paired, paired_values, run_bench
from hnlm_ray.cli import main
from hnlm_ray.errors import UserError


@pytest.fixture
def toy_bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A benchmark module as a user of the frame would write it, in a file of its own."""
    (tmp_path / "toy_bench.py").write_text(
        "from hnlm_ray.bench.frame import Bar, Measurement\n"
        "def measure(options):\n"
        "    figures = {'speedup': 6.0, 'epoch_s': 0.5, 'threads': options.threads, 'undefined': float('nan')}\n"
        "    return Measurement(figures, [Bar('speedup', 6.0, 5.0), Bar('epoch_s', 0.5, 0.4, 'lower')], ['no GPU'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(frame.BENCHES, "toy", frame.Bench("toy_bench", threads=4))
    for variable in (*frame._THREAD_VARIABLES, *frame._SAME_PRIORITY):
        monkeypatch.setenv(variable, "1")  # put back afterwards
    yield "toy"
    sys.modules.pop("toy_bench", None)


@pytest.mark.parametrize(
    ("value", "bar", "better", "ok"),
    [
        (5.0, 5.0, "higher", True),
        (4.9, 5.0, "higher", False),
        (1.3, 1.3, "lower", True),
        (1.4, 1.3, "lower", False),
        (float("nan"), 1.0, "higher", False),
        (float("nan"), 1.0, "lower", False),
    ],
)
def test_a_bar_is_reached_on_its_own_side_only(value: float, bar: float, better: str, ok: bool) -> None:
    assert Bar("x", value, bar, better).ok is ok  # type: ignore[arg-type]


def test_run_writes_the_documented_json_and_reports_misses_only_when_asked(
    toy_bench: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.json"
    assert run_bench(toy_bench, path, BenchOptions(threads=2)) == 0
    assert run_bench(toy_bench, None, BenchOptions(), check=True) == 1
    result = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert set(result) == {"name", "machine", "versions", "options", "figures", "bars", "notes"}
    assert result["name"] == "toy"
    assert result["figures"] == {"speedup": 6.0, "epoch_s": 0.5, "threads": 2.0, "undefined": None}
    assert result["bars"] == [
        {"name": "speedup", "value": 6.0, "bar": 5.0, "better": "higher", "ok": True},
        {"name": "epoch_s", "value": 0.5, "bar": 0.4, "better": "lower", "ok": False},
    ]
    assert result["machine"]["cores"] >= 1
    assert result["versions"]["python"].startswith("3.")
    table = capsys.readouterr().out
    assert "MISSED (bar <= 0.4)" in table
    assert "note: no GPU" in table


def test_threads_are_limited_before_the_module_is_imported(toy_bench: str, tmp_path: Path) -> None:
    (tmp_path / "toy_bench.py").write_text(
        "import os\nfrom hnlm_ray.bench.frame import Measurement\nTHREADS = float(os.environ['OMP_NUM_THREADS'])\n"
        "def measure(options):\n    return Measurement({'threads_at_import': THREADS})\n"
    )
    for asked, given in ((3, 3.0), (0, 4.0)):  # 0: what the benchmark's bars are meant for
        run_bench(toy_bench, tmp_path / "out.json", BenchOptions(threads=asked))
        result = json.loads((tmp_path / "out.json").read_text())
        assert result["figures"] == {"threads_at_import": given}
        assert result["options"]["threads"] == given
        sys.modules.pop("toy_bench")


def test_refusals_name_the_way_on(monkeypatch: pytest.MonkeyPatch, toy_bench: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'train'"):
        run_bench("trian", None, BenchOptions())
    monkeypatch.setitem(frame.BENCHES, "later", frame.Bench("hnlm_ray.bench.not_written", threads=1))
    with pytest.raises(UserError, match="'later' is not part of this version"):
        run_bench("later", None, BenchOptions())
    with pytest.raises(UserError, match="cannot be written"):
        run_bench(toy_bench, tmp_path / "absent" / "out.json", BenchOptions())
    with pytest.raises(UserError, match="repeats=0"):
        BenchOptions(repeats=0)


def test_pairs_alternate_and_take_medians() -> None:
    order: list[str] = []
    ours = iter([9.0, 1.0, 2.0, 4.0])  # the first is the warm-up
    base = iter([9.0, 3.0, 8.0, 8.0])

    def measure(name: str, values: object) -> float:
        order.append(name)
        return next(values)  # type: ignore[call-overload]

    result = paired_values(lambda: measure("ours", ours), lambda: measure("base", base), repeats=3)
    assert order == ["ours", "base", "ours", "base", "base", "ours", "ours", "base"]
    assert (result.ours, result.baseline) == (2.0, 8.0)
    assert result.ratios == (3.0, 4.0, 2.0)
    assert result.speedup == 3.0
    assert result.ratio == pytest.approx(1 / 3)


def test_paired_measures_wall_clock() -> None:
    result = paired(lambda: None, lambda: sum(range(200_000)), repeats=3)
    assert result.baseline > result.ours > 0


def test_table_lines_up_and_includes_bars_that_are_no_figures() -> None:
    lines = format_table("x", Measurement({"a": 1.0, "longer_name": 123456.0}, [Bar("b", 1.0, 2.0)])).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["a", "longer_name", "b"]
    assert "MISSED" in lines[3]


def test_the_help_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"{', '.join(list(frame.BENCHES)[:-1])} or {list(frame.BENCHES)[-1]}" in said
