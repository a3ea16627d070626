"""A GPU contracts a * b + c into one rounding, which the host path does not: so does this, and stays in budget."""

import platform
from pathlib import Path

import pytest

import isostep
from isostep_cupy import host

pytestmark = pytest.mark.whole  # the cases are those of the conformance suite

RULES = ["addsign", "powersign", "adam", "lamb", "centralize+lamb", "sgd_hd"]


def fuses():
    """Whether this processor multiplies and adds at once."""
    info = Path("/proc/cpuinfo")
    has = info.exists() and " fma " in info.read_text().replace("\n", " ")
    return has or platform.machine() in ("aarch64", "arm64")


@pytest.fixture
def contracted(monkeypatch):
    if not fuses():
        pytest.skip("this processor has no fused multiply-add")
    flags = [f for f in host.FLAGS if "contract" not in f]
    monkeypatch.setattr(host, "FLAGS", (*flags, "-march=native", "-ffp-contract=fast"))
    try:
        return host.CupyRawHost()
    except isostep.Unavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", RULES)
def test_contracted_kernels_stay_in_budget(contracted, name):
    from isostep_conformance import runner
    from isostep_conformance.cases import Case, subjects

    subject = next(s for s in subjects() if s.name == name)
    case = Case(subject, "float32")
    for scenario in case.scenarios:
        tally = runner.check(contracted, "cupy:raw(host)", case, scenario)
        assert tally.failures == []
        assert tally.elements > 0
