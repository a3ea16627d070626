"""``benchmarks/gpu.py`` where there is no GPU: its plan, its arguments, its error."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

HERE = Path(__file__).resolve().parents[3] / "benchmarks" / "gpu.py"
if not HERE.exists():
    pytest.skip("the benchmarks are not here: not the whole repository", allow_module_level=True)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(HERE.parent)
    spec = importlib.util.spec_from_file_location("benchmark_gpu", HERE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plan_counts_the_bytes_of_a_step(gpu, capsys):
    assert gpu.main(["--dry-run", "--rules", "adamw", "lamb"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "what=copy"
    # AdamW loads p, g, m, v and stores p, m, v; LAMB loads its four once more for its norms.
    assert f"what=large rule=adamw stages=1 bytes={28 * 104857600}" in lines
    assert f"what=large rule=lamb stages=2 bytes={(16 + 28) * 104857600}" in lines
    assert f"what=cupy rule=adamw stages=1 bytes={28 * 104857600}" in lines
    assert {"what=captured rule=adamw", "what=captured rule=lamb", "what=jax rule=lamb"} <= set(
        lines
    )
    assert gpu.main(["--dry-run", "--rules", "adam", "--kinds", "jax small"]) == 0
    assert capsys.readouterr().out == "what=jax small rule=adam\n"


def test_where_time_is_short_there_is_something_of_every_kind(gpu):
    from gpu_rows import FIRST  # what the fixture has put on the path

    plan = gpu.plan(gpu.known(), list(gpu.KINDS))
    first = gpu.plan(list(FIRST), list(gpu.KINDS))
    assert plan[: len(first)] == first
    assert {row["what"] for row in first} == {*gpu.KINDS}
    assert len(first) < len(plan) / 4


def test_every_fused_rule_is_measured(gpu, capsys):
    assert gpu.main(["--dry-run"]) == 0
    out = capsys.readouterr().out
    passes = {"adafactor", "sm3", "novograd"}
    assert passes < {*gpu.known()}
    for n in gpu.known():
        kinds = {kind for kind in ("large", "matrices", "cupy") if f"what={kind} rule={n} " in out}
        assert kinds in ({"matrices"}, {"large", "cupy"})
        assert kinds == {"matrices"} or n not in passes
    # Adafactor sums squares of g and p, then measures what it makes of g, then takes the step: p is loaded twice more.
    assert f"what=matrices rule=adafactor stages=3 bytes={6 * 4 * 24 * 2048**2}" in out
    measured = {line.partition("=")[2].partition(" rule=")[0] for line in out.splitlines()}
    assert measured == set(gpu.KINDS)


def test_an_unknown_rule_is_an_error(gpu, capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--rules", "adamv"])
    assert "invalid choice: 'adamv'" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_device_it_says_so(gpu, capsys):
    assert gpu.main(["--rules", "adamw"]) == 2
    assert capsys.readouterr().err.startswith("gpu.py: needs a CUDA device, got none")


def device(**changed):
    """What the runner asks of torch."""
    kind = {
        "mem_get_info": lambda: (1, 2), "get_device_name": lambda: "A Device", "empty_cache": lambda: None,
        "get_device_capability": lambda: (9, 0), "synchronize": lambda: None, **changed,
    }  # fmt: skip
    return SimpleNamespace(cuda=SimpleNamespace(**kind), version=SimpleNamespace(cuda="13.0"))


def test_an_error_that_leaves_the_device_unusable_ends_the_process_and_no_more(
    gpu, monkeypatch, tmp_path, capsys
):
    """A wrong address makes all that follows fail: the rest is measured by a process of its own."""
    broken, started = [], []

    def measured(row):
        if row["rule"] == "adamw":
            broken.append(row)
            raise RuntimeError("an illegal memory access")
        assert not broken
        return {"seconds": {"isostep": 1e-3}}

    def synchronize():
        if broken:
            raise RuntimeError("an illegal memory access")

    class Ended(Exception):
        pass

    def execv(program, words):
        started.append(words)
        raise Ended

    monkeypatch.setattr(gpu, "measured", measured)
    monkeypatch.setattr(gpu.os, "execv", execv)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", "it.json"])
    plan = lambda: gpu.plan(["adam", "adamw", "lamb"], ["large"])  # noqa: E731
    there, out = device(synchronize=synchronize), tmp_path / "it.json"
    with pytest.raises(Ended):
        gpu.run(there, plan(), out)
    assert started == [[sys.executable, "gpu.py", "--out", "it.json", "--go-on"]]
    broken.clear()
    assert gpu.run(there, plan(), out, go_on=True) == 1
    rows = json.loads(out.read_text())["rows"]
    assert [("error" in row, row["rule"]) for row in rows] == [
        (False, "adam"), (True, "adamw"), (False, "lamb"),
    ]  # fmt: skip
    assert capsys.readouterr().out.count("large     adam ") == 1
    monkeypatch.setattr(gpu, "measured", lambda row: {"seconds": {"isostep": 1.0}})
    assert gpu.run(there, gpu.plan(["adam"], ["large"]), out, go_on=True) == 0  # of another plan


def test_what_fails_is_written_down_and_the_rest_goes_on(gpu, monkeypatch, tmp_path, capsys):
    there = device()

    def measured(row):
        if row["rule"] == "lamb":
            raise MemoryError("out of memory")
        return {"seconds": {"isostep": 2e-3 if row["what"] == "large" else 4e-3}}

    monkeypatch.setattr(gpu, "measured", measured)
    rows = gpu.plan(["adamw", "lamb"], ["large", "cupy"])
    assert gpu.run(there, rows, tmp_path / "it.json") == 2
    written = json.loads((tmp_path / "it.json").read_text())
    assert written["machine"]["device"] == "A Device"
    assert written["rows"][1]["error"] == "MemoryError: out of memory"
    assert written["rows"][2]["seconds"] == {"isostep": 4e-3, "isostep_torch": 2e-3}
    assert " 0.50x isostep_torch" in capsys.readouterr().out


def test_a_row_is_a_line(gpu):
    row = {"what": "large", "rule": "adamw", "bytes": 10**9}
    row |= {"seconds": {"isostep": 1e-3, "torch fused": 1.5e-3}}
    assert (
        gpu.text(row, 2e12).split() == "large adamw 1.000 ms 50% of copy 1.50x torch fused".split()
    )
    assert "OTHER BITS" in gpu.text({"what": "captured", "rule": "lamb", "same_bits": False}, 0)
    assert gpu.text({"what": "copy", "error": "out of memory"}, 0).endswith("failed: out of memory")


def test_the_targets_tell_which_rows_miss_them(gpu):
    def row(what, rule, stages=1, **seconds):
        return {"what": what, "rule": rule, "stages": stages, "bytes": 900, "seconds": seconds}

    rows = [
        {"what": "copy", "seconds": 1.0, "bytes_per_second": 100.0},
        row("large", "adamw", isostep=10.0, **{"torch fused": 9.0, "torch foreach": 30.0}),
        row("large", "yogi", isostep=9.0, **{"isostep foreach": 18.0}),
        row("large", "lion", isostep=12.0, **{"isostep foreach": 18.0}),
        row("large", "lamb", stages=2, isostep=90.0, **{"isostep foreach": 190.0}),
        {"what": "large", "rule": "sgd", "stages": 1, "bytes": 900, "error": "none"},
        {"what": "captured", "rule": "adamw", "same_bits": False},
        row("cupy", "adamw", isostep=10.0, isostep_torch=9.0, **{"array expressions": 60.0}),
        {"what": "small", "rule": "adamw"},
    ]
    found = list(gpu.verdicts(rows))
    assert found[:5] == [
        "large: at least 0.9 of a copy's bandwidth in one pass: 2 of 3; below: lion 0.75; not measured: 1",
        "large: at least 1 x torch fused: 0 of 1; below: adamw 0.90; not measured: 1",
        "large: at least 2 x foreach, where torch has no fused form: 2 of 3; below: lion 1.50; not measured: 1",
        "small: at least 3 x torch fused: 0 of 0; not measured: 1",
        "captured: at least 1 of the replays have the bits of the steps: 0 of 1; below: adamw 0.00",
    ]
    assert found[-4:-2] == [
        "cupy: at least 5 x array expressions, in one pass: 1 of 1",
        "cupy: at least 0.95 x our torch fused, in one pass: 0 of 1; below: adamw 0.90",
    ]
