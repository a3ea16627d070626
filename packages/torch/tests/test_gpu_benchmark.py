"""``benchmarks/gpu.py`` where there is no GPU: its plan, its arguments, its error."""

import importlib.util
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parents[3] / "benchmarks" / "gpu.py"
if not HERE.exists():
    pytest.skip("the benchmarks are not here: not the whole repository", allow_module_level=True)


@pytest.fixture(scope="module")
def gpu():
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
    assert lines[-2:] == ["what=captured rule=adamw", "what=captured rule=lamb"]


def test_every_fused_rule_is_measured(gpu, capsys):
    assert gpu.main(["--dry-run"]) == 0
    out = capsys.readouterr().out
    assert all(f"what=large rule={name} " in out for name in gpu.fused())


def test_an_unknown_rule_is_an_error(gpu, capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--rules", "adamv"])
    assert "invalid choice: 'adamv'" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_device_it_says_so(gpu, capsys):
    assert gpu.main(["--rules", "adamw"]) == 2
    assert capsys.readouterr().err.startswith("gpu.py: needs a CUDA device, got none")


def test_a_row_is_a_line(gpu):
    row = {"what": "large", "rule": "adamw", "bytes": 10**9}
    row |= {"seconds": {"isostep": 1e-3, "torch fused": 1.5e-3}}
    assert (
        gpu.text(row, 2e12).split() == "large adamw 1.000 ms 50% of copy 1.50x torch fused".split()
    )
    assert "OTHER BITS" in gpu.text({"what": "captured", "rule": "lamb", "same_bits": False}, 0)
    assert gpu.text({"what": "copy", "error": "out of memory"}, 0).endswith("failed: out of memory")
