"""The benchmarks run at their smallest and write complete reports; no time is judged."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from retainfirst import _rust, cli, combine, reference
from retainfirst.errors import MissingDependency, RetainFirstError
from retainfirst_lab.bench import combine as combine_benchmark
from retainfirst_lab.bench import (
    imports,
    machine,
    memory,
    model,
    page,
    peers,
    summary,
    tables,
    targets,
    timing,
    trainers,
)
from retainfirst_lab.bench import verify as verify_benchmark

PNG = b"\x89PNG"
PAGE = Path(__file__).parents[4] / "docs" / "performance.md"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def call(*arguments):
    return CliRunner().invoke(cli.app, ["bench", *map(str, arguments)])


def run(*arguments):
    """Return the JSON that a benchmark prints, with what every report must have checked."""
    result = call(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    report = json.loads(result.stdout)
    assert result.stderr.startswith(f"bench {arguments[0]} 0/"), "progress where there is no terminal"
    assert report["benchmark"] == arguments[0]
    assert report["machine"]["processor"]
    assert report["machine"]["cores"] >= 1
    assert report["versions"].keys() >= {"retainfirst", "python", "torch"}
    assert report["targets"] == targets.targets(report)
    return report


def check_spread(found):
    assert 0 < found["least"] <= found["median"] <= found["greatest"] < math.inf


@pytest.fixture(scope="module")
def measured_imports():
    return imports.measure(1)


@pytest.fixture
def imported(monkeypatch, measured_imports):
    """The benchmark of the import has been run once, and gives this report from then on."""
    report = dict(measured_imports)
    monkeypatch.setattr(imports, "measure", lambda *_, **__: report)
    return report


@pytest.fixture
def refused():
    """Check that a command refuses, before it measures, with a text."""

    def check(text, *arguments):
        result = call(*arguments)
        assert isinstance(result.exception, RetainFirstError), result.output
        assert text in str(result.exception)

    return check


def test_combine(tmp_path):
    report = run(
        "combine", "--sizes", "1e2,1000", "--dtypes", "float32,bfloat16", "--threads", "1,2", "--rounds", 2, "--output", tmp_path
    )  # fmt: skip
    assert report["threads"] == [1, 2]
    keys = {(row["dtype"], row["elements"], row["threads"]) for row in report["rows"]}
    assert keys == {(d, n, t) for d in ("float32", "bfloat16") for n in (100, 1000) for t in (1, 2)}
    first = [row for row in report["rows"] if (row["dtype"], row["elements"], row["threads"]) == ("float32", 1000, 1)]
    cases = {row["case"]: row for row in first}
    assert cases.keys() >= {"copy", "baseline", "sum", "sago", "sago_keep_retain", "pcgrad", "blur", "dot products"}
    assert cases.keys() >= {"plain addition", "torch.where", "boolean mask", "numpy"}
    assert cases["baseline"]["wall_ratio"] == {"median": 1, "least": 1, "greatest": 1}
    for row in report["rows"]:
        check_spread(row["seconds"])
        check_spread(row["wall_ratio"])
    for name in ("pcgrad", "blur"):
        check_spread(cases[name]["to_passes"]["wall_ratio"])
    for name in ("sum", "sago", "sago_keep_retain"):
        check_spread(cases[name]["to_update_alone"]["wall_ratio"])
    assert {one["dtype"] for one in report["bandwidth"]} == {"float32", "bfloat16"}
    for one in report["many_tensors"]:
        check_spread(one["to_flat"]["wall_ratio"])
        check_spread(one["call_microseconds"])
    assert json.loads((tmp_path / "combine.json").read_text()) == report
    assert (tmp_path / "combine.png").read_bytes().startswith(PNG)


def test_step(tmp_path):
    report = run("step", "--quick", "--threads", 1, "--micro-batches", "1,2", "--output", tmp_path)
    expected = [("sago", 1), ("pcgrad", 1), ("sago, stream", 1), ("sago", 2), ("pcgrad", 2)]
    assert [(row["case"], row["micro_batches"]) for row in report["rows"]] == expected
    assert [row["case"] for row in report["trainers"]] == ["trainer, split by sago", "trainer written for sago"]
    for row in report["rows"] + report["trainers"]:
        check_spread(row["cpu_ratio"])
        check_spread(row["wall_ratio"])
    assert len(report["targets"]) == len(expected) + 2
    assert (tmp_path / "step.png").read_bytes().startswith(PNG)


def test_guard(tmp_path):
    report = run("guard", "--quick", "--elements", "1e3", "--threads", "1,2", "--rounds", 2, "--output", tmp_path)
    passes = [(row["case"], row["threads"], row["elements"]) for row in report["passes"]]
    assert passes == [(case, n, 1000) for n in (1, 2) for case in ("put back", "put back and measured")]
    steps = [(row["rule"], row["case"]) for row in report["steps"]]
    guards = ("enforce", "measure every 10th step")
    assert steps == [(rule, guard) for rule in ("sago", "pcgrad") for guard in guards]
    for row in report["passes"] + report["steps"]:
        check_spread(row["seconds"])
        check_spread(row["wall_ratio"])
    for row in report["steps"]:
        # The guard's own time is a part of the step's, and a tenth of it counts where one step in ten is measured.
        assert 1 < row["within"]["wall_ratio"]["least"] <= row["within"]["wall_ratio"]["greatest"]
    assert [one["at_most"] for one in report["targets"]] == [1.05, 1.05, 1.01, 1.01] * 2  # none for a pass in a cache
    assert json.loads((tmp_path / "guard.json").read_text()) == report
    assert "| put back | 1 |" in tables.markdown(report)


def test_the_model_has_the_documented_size():
    with torch.device("meta"):
        parameters = sum(p.numel() for p in model.make_model("meta").parameters())
    assert 40e6 < parameters < 60e6


@pytest.mark.slow
def test_memory(tmp_path, monkeypatch):
    """One case in a process of its own; the others would take as long each to import the same libraries."""
    started = []
    real = memory._in_a_process

    def once(*given):
        started.append(given[0])
        return real(*given) if len(started) == 1 else {"peak": 3 * 2**20, "parameters": 1000}

    monkeypatch.setattr(memory, "_in_a_process", once)
    report = run("memory", "--quick", "--threads", 1, "--output", tmp_path)
    by_hand = ["plain", "plain, one by one", "sago", "pcgrad", "sago, stream"]
    assert [row["case"] for row in report["rows"]] == [*by_hand[:2], *trainers.TRAINERS, *by_hand[2:]]
    assert all(row["peak_mib"] > 0 for row in report["rows"])
    assert [row["case"] for row in report["guard"]] == list(model.GUARDED)
    assert [one["at_most"] for one in report["targets"]] == [1] * 5 + [1.1, 2.1, 3.1, 3.1]
    assert "| pcgrad, AdamW, enforce | 3 | +0.00 |" in tables.markdown(report)
    assert (tmp_path / "memory.png").read_bytes().startswith(PNG)


def test_a_failed_process_raises(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RetainFirstError, match="the process for 'plain' ended with 1"):
        memory._in_a_process("plain", model.Shape(1, 2), 1, "cpu", True)


@pytest.mark.slow
def test_imports(imported):
    report = run("imports", "--rounds", 1)
    check_spread(report["wall_ratio"])
    assert report["seconds"].keys() == {"torch", "retainfirst"}


def test_verify(tmp_path):
    report = run("verify", "--quick", "--sizes", "1e2,1e3", "--threads", "1,2", "--output", tmp_path)
    assert report["threads"] == [1, 2]
    oracle = {(row["case"], row["dtype"], row.get("elements"), row["threads"]) for row in report["rows"]}
    dtypes, calls = ("float64", "float32", "bfloat16", "float16"), ("dot_sign", "compare_cosines")
    assert oracle >= {(c, d, n, t) for c in calls for d in dtypes for n in (100, 1000) for t in (1, 2)}
    pairs = {(row["case"], row["dtype"], row["threads"]) for row in report["rows"] if "pairs" in row}
    assert pairs == {(r, d, t) for r in ("sago", "sago_keep_retain") for d in dtypes[2:] for t in (1, 2)}
    assert [(one["dtype"], one["elements"]) for one in report["fractions"]] == [(d, 100) for d in dtypes]
    for row in report["rows"] + report["fractions"]:
        check_spread(row["seconds"])
        check_spread(row["speed_up"])
        assert row["per_second"] > 0
    assert report["targets"] == []
    assert json.loads((tmp_path / "verify.json").read_text()) == report
    assert "| dot_sign | float64 | 100 |" in tables.markdown(report)


@pytest.mark.parametrize("dtype", verify_benchmark.DTYPES)
def test_fractions_and_the_oracle_agree(dtype):
    first, second, retain = verify_benchmark._vectors(50, dtype)
    for x, y in ((first, second), (second, first), (first, first), (-first, second), (-first, -second)):
        assert verify_benchmark.by_fractions(x, y, retain) == reference.compare_cosines(x, y, retain)


def test_bad_input_is_refused(refused, tmp_path, monkeypatch):
    refused("Unknown device 'gpu'", "combine", "--device", "gpu")
    refused("Unknown dtype 'float33'", "combine", "--dtypes", "float33")
    refused("--sizes needs whole numbers", "combine", "--sizes", "1.5")
    refused("--threads needs whole numbers", "combine", "--threads", "none")
    refused("GiB are free", "combine", "--sizes", "1e14")
    refused("GiB are free", "verify", "--sizes", "1e14")
    refused("GiB are free", "guard", "--elements", "1e14")
    refused("does not exist", "imports", "--write", tmp_path / "no.md")
    (tmp_path / "file").touch()
    refused("cannot be made a folder", "imports", "--output", tmp_path / "file")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused("finds no CUDA device", "step", "--device", "cuda")


def test_a_missing_library_is_named_with_its_extra(refused, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused("retainfirst[plot]", "imports", "--output", tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused("retainfirst[hf]", "step")
    refused("retainfirst[hf]", "memory")
    refused("retainfirst[hf]", "guard")
    with pytest.raises(MissingDependency):
        model.make_model("cpu")


@pytest.mark.slow
def test_tables_are_inserted_into_the_page(imported, tmp_path):
    target = tmp_path / "performance.md"
    target.write_text(PAGE.read_text())
    report = run("imports", "--rounds", 1, "--write", target)
    text = target.read_text()
    assert tables.markdown(report) in text
    assert page.insert(text, report) == text
    for name in ("combine", "step", "guard", "memory", "imports", "verify"):
        for device in ("cpu",) if name in ("guard", "imports", "verify") else ("cpu", "cuda"):
            place = name + ("" if device == "cpu" else " on a GPU")
            assert f"<!-- begin {place} -->\n" in text
            assert f"<!-- end {place} -->\n" in text
    with pytest.raises(RetainFirstError, match="no place for imports"):
        page.insert("nothing", report)


def test_the_summary_has_the_results_of_each_run(tmp_path):
    page_file, runs = tmp_path / "performance.md", [tmp_path / name for name in ("first", "second")]
    page_file.write_text(PAGE.read_text())
    for run_folder, found in zip(runs, (1.1, 1.3), strict=True):
        run_folder.mkdir()
        about = {
            "machine": {"processor": str(found), "device": "cpu", "cores": 2},
            "versions": {},
            "date": "2026-11-26",
        }
        ratio = {"median": found, "least": found, "greatest": found}
        report = {"benchmark": "imports", "cpu_ratio": None, "wall_ratio": ratio, **about}
        (run_folder / "imports.json").write_text(json.dumps(report))
    summary.main(page_file, runs)
    text = page_file.read_text()
    assert "| import retainfirst: x import torch | 1.2 |  | 1.10 | 1 of 1 |  | 1.30 | 0 of 1 |" in text
    assert "Run 1: 1.1, 2 core(s); 2026-11-26.\n\nRun 2: 1.3, 2 core(s); 2026-11-26.\n" in text
    with pytest.raises(RetainFirstError, match="holds no report"):
        summary.main(page_file, [tmp_path])


def test_time_per_element_in_cache_and_in_memory():
    cases = ("baseline", "sum, update alone", "sum", "sago, update alone", "sago", "dot products", "pcgrad")
    rows = [
        {"case": case, "dtype": "bfloat16", "threads": t, "elements": n, "seconds": {"median": (i + t) * n * 1e-11}}
        for i, case in enumerate((*cases, "torch.where"))
        for n in (1_000, 1_000_000, 10_000_000)
        for t in (1, 2)
    ]
    report = {"threads": [1, 2], "rows": rows, "machine": {"device": "cpu"}}
    [table] = tables._per_element(report)
    assert table.columns == ["case", "bfloat16, 1 M", "bfloat16, 10 M"]
    assert table.rows == [[case, f"{10 * i}", f"{10 * i}"] for i, case in enumerate(cases, 1)]
    assert not list(tables._per_element(report | {"machine": {"device": "cuda"}}))
    assert not list(tables._per_element(report | {"rows": [row for row in rows if row["elements"] < 10_000_000]}))


@pytest.mark.slow
def test_check_exits_with_1_for_a_missed_target(imported):
    for found, code in ((1.1, 0), (1.3, 1)):
        ratio = {"median": found, "least": found, "greatest": found}
        imported |= {"cpu_ratio": ratio, "wall_ratio": ratio}
        result = call("imports", "--check")
        assert result.exit_code == code, result.output
        assert f"{1 - code} of 1 met" in result.output


def test_rounds_alternate_their_order_and_slow_cases_stop():
    order = []

    class Fake(timing.Clock):
        def measure(self, case, calls):
            case.run()
            return timing.Sample(1.0, 1.0 if calls else 0.0)

    cases = {name: timing.Case(lambda name=name: order.append(name)) for name in "ab"}
    samples = timing.rounds_of(cases, 5, Fake(), patience=4.0)
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert {name: len(found) for name, found in samples.items()} == {"a": 3, "b": 3}


def test_ratios_are_taken_round_by_round():
    sample = timing.Sample
    case, one, other = (
        [sample(2.0, 6.0), sample(9.0, 8.0)],
        [sample(1.0, 1.0), sample(1.0, 1.0)],
        [sample(1.0, 2.0)] * 2,
    )
    found = timing.ratios(case, one, other, factor=2.0)
    assert found["cpu_ratio"] == {"median": 1.375, "least": 0.5, "greatest": 2.25}
    assert found["wall_ratio"]["least"] == 1.0
    assert timing.ratios([sample(None, 1.0)], [sample(None, 2.0)])["cpu_ratio"] is None


def test_threads_are_restored():
    before = torch.get_num_threads(), _rust.get_num_threads()
    with machine.threads(3) as n:
        assert (n, torch.get_num_threads(), _rust.get_num_threads()) == (3, 3, 3)
    assert (torch.get_num_threads(), _rust.get_num_threads()) == before


@pytest.mark.parametrize("dtype", DTYPES)
def test_baselines_and_peers_do_the_same_work(dtype):
    """The baseline is plain addition, the update alone is the combiner's update, and the peers are SAGO."""
    forget, retain = combine_benchmark._gradients(1003, str(dtype).removeprefix("torch."), "cpu")
    name, weights = str(dtype).removeprefix("torch."), {"alpha": 1.0, "gamma": peers.GAMMA}
    for case in ("baseline", "sum", "sago", "sago_keep_retain"):
        written = retain.clone()
        memory = name, [forget.data_ptr()], [written.data_ptr()], [1003]
        if case == "baseline":
            _rust.baseline_(*memory, 1.0, peers.GAMMA)
        else:
            _rust.elementwise_(case, *memory, 1.0, peers.GAMMA, False)
        assert torch.equal(written, combine(forget, retain, "sum" if case == "baseline" else case, **weights)), case
    sago = combine(forget, retain, "sago", **weights)
    for peer, make in peers.peers_for(dtype, "cpu").items():
        if "PCGrad" not in peer:
            # A product of two small 16-bit numbers underflows, and with it the sign that some peers look at.
            assert torch.isclose(make(forget, retain), sago, rtol=0, atol=1e-3).float().mean() > 0.99, peer
