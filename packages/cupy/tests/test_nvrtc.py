"""Every kernel compiles for three generations of GPUs, without a warning; and what the PTX says of its speed.

NVRTC comes from PyPI (nvidia-cuda-nvrtc), is called through ctypes and needs no GPU.
"""

import ctypes
import functools
import importlib.util
import re
import zlib
from pathlib import Path

import pytest

import isostep
from isostep import nm
from isostep.lower.axes import axes
from isostep.lower.device import kernels
from isostep.lower.layout import layout
from isostep.program import examples, shaped, trace
from isostep.rule import Rule
from isostep_cupy.axes_source import MOST
from isostep_cupy.axes_source import source as passes_source
from isostep_cupy.cuda_source import source
from isostep_cupy.cuda_text import unit

pytestmark = pytest.mark.whole  # the cases are those of the conformance suite

ARCHITECTURES = ["sm_80", "sm_90", "sm_100"]
OTHERS = ["float64", "float16", "bfloat16"]


@functools.cache
def library():
    """The compiler, or None where the package is not installed."""
    spec = importlib.util.find_spec("nvidia")
    places = spec.submodule_search_locations if spec is not None else ()
    found = sorted(f for p in places for f in Path(p).rglob("libnvrtc.so*"))
    return ctypes.CDLL(str(found[-1])) if found else None


@pytest.fixture(autouse=True)
def _installed():
    if library() is None:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc")


def compiled(text, arch, *more):
    """What NVRTC says of a text, and what it makes: PTX for ``compute_80``, machine code for ``sm_80``."""
    nvrtc, program = library(), ctypes.c_void_p()
    _checked(
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"isostep.cu", 0, None, None)
    )
    options = [f"--gpu-architecture={arch}".encode(), b"-std=c++17", *more]
    failed = nvrtc.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*options)
    )
    log = _text(nvrtc, "ProgramLog", program).rstrip(b"\0").decode()
    code = (
        b"" if failed else _text(nvrtc, "PTX" if arch.startswith("compute") else "CUBIN", program)
    )
    _checked(nvrtc.nvrtcDestroyProgram(ctypes.byref(program)))
    return log, code


def _text(nvrtc, what, program):
    size = ctypes.c_size_t()
    _checked(getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    text = ctypes.create_string_buffer(max(size.value, 1))
    _checked(getattr(nvrtc, f"nvrtcGet{what}")(program, text))
    return text.raw[: size.value]


def _checked(status):
    assert status == 0, f"NVRTC: error {status}"


def subjects():
    """The first case of every rule and composition."""
    from isostep_conformance.cases import subjects

    return {s.name: s.rule for s in subjects() if s.index == 0}


def programs(rule):
    """The rule's programs, one per kind of step, that have kernels."""
    phases = {rule.phase(t): None for t in range(1, 9)}
    found = [trace(rule, p) for p in phases]
    return [p for p in found if layout(p, "float32").obstacle is None]


def names():
    try:
        return list(subjects())
    except ImportError:
        return list(isostep.rules())


@pytest.mark.parametrize("name", names())
def test_kernels_compile_without_a_warning(name, request):
    """For one architecture each; with ``--full`` for every one."""
    draw = zlib.crc32(name.encode()) % len(ARCHITECTURES)
    every = request.config.getoption("--full", default=False)
    for program in programs(subjects()[name]):
        for arch in ARCHITECTURES if every else ARCHITECTURES[draw:][:1]:
            log, code = compiled(unit(source(kernels(program, "float32"))), arch)
            assert log == ""
            assert code[:4] == b"\x7fELF"


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", names())
def test_another_dtype_of_every_rule_compiles_too(name):
    draw = zlib.crc32(name.encode())
    dtype, arch = OTHERS[draw % 3], ARCHITECTURES[draw // 3 % 3]
    for program in programs(subjects()[name])[:1]:
        assert compiled(unit(source(kernels(program, dtype))), arch)[0] == ""


def in_passes(rule):
    """The programs of a rule's steps for an example's shape; None if something else has to do them."""
    shape = examples(rule)[0]
    found = [axes(shaped(rule, kind, shape)) for kind in rule.kinds()]
    return found if all(one.fits for one in found) else None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", names())
def test_passes_over_axes_compile_without_a_warning(name, dtype, request):
    """Of rules that have no kernels of the other kind; with ``--full`` of all, and for every architecture."""
    rule, every = subjects()[name], request.config.getoption("--full", default=False)
    draw = zlib.crc32(f"{name} {dtype}".encode()) % len(ARCHITECTURES)
    if every or not programs(rule):
        for found in in_passes(rule) or ():
            for arch in ARCHITECTURES if every else ARCHITECTURES[draw:][:1]:
                log, code = compiled(unit(passes_source(found, dtype)), arch)
                assert log == ""
                assert code[:4] == b"\x7fELF"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_as_much_as_a_pass_can_reduce_at_once_has_room(dtype):
    """A block has 48 KiB that its threads share; and nothing that a thread holds lies in memory."""

    def update(p, g, t, /):
        found = [
            f(x, axis=a) for a in (0, 1) for x in (g, p, g * p) for f in (nm.sum_axis, nm.max_axis)
        ]
        return sum(found[1:], found[0])

    rule = Rule(name="made", update=update, ndim=(2,)).bind()
    found = axes(shaped(rule, rule.phase(1), (40, 25)))
    assert len(found.passes[0].reduced) > MOST
    for arch in (*ARCHITECTURES, "compute_80"):
        log, code = compiled(unit(passes_source(found, dtype)), arch)
        assert log == ""
    assert b".local" not in code


def stage(text, name):
    """The PTX of one kernel."""
    return re.search(rf"\.entry {name}\(.*?^}}", text, re.DOTALL | re.MULTILINE)[0]


def ptx(rule, dtype="float32"):
    log, code = compiled(unit(source(kernels(isostep.program(rule), dtype))), "compute_80")
    assert log == ""
    return code.decode()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["addsign", "adamw"])
def test_arrays_are_loaded_and_stored_16_bytes_at_a_time(name, dtype):
    text = stage(ptx(isostep.rule(name), dtype), "stage0")
    rule = isostep.rule(name)
    loads, stores = 2 + len(rule.state_names), 1 + len(rule.state_names)
    assert len(re.findall(r"ld\.global\.(?:\w+\.)?v4\.[ubf]32", text)) == loads
    assert len(re.findall(r"st\.global\.(?:\w+\.)?v4\.[ubf]32", text)) == stores


@pytest.mark.parametrize("name", ["addsign", "powersign", "adamw", "lamb"])
def test_single_precision_stays_single_and_in_registers(name):
    text = ptx(isostep.rule(name))
    last = stage(text, "stage1" if name == "lamb" else "stage0")
    assert not re.search(r"\b(?:add|sub|mul|fma|div|sqrt|rcp|ex2)\.(?:\w+\.)*f64", last)
    assert ".local" not in text


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_observed_kernels_compile_and_stay_wide(dtype):
    rule = isostep.observe(isostep.rule("adamw"))
    text = stage(ptx(rule, dtype), "stage0")
    assert len(re.findall(r"ld\.global\.(?:\w+\.)?v4\.[ubf]32", text)) == 4
    assert len(re.findall(r"st\.global\.(?:\w+\.)?v4\.[ubf]32", text)) == 3
    assert text.count("st.global.f64") + text.count("st.global.b64") >= 8  # a row's sums


#: What is kept in another way: the parameter's dtype, the options, and AdamW's loads and stores of 16 and of 8 bytes.
KEPT = {
    "stochastic": ("bfloat16", {"stochastic_rounding": True}, (4, 3), (0, 0)),
    # Eight elements of float32 are two words of 16 bytes.
    "state in float32": (
        "bfloat16", {"stochastic_rounding": True, "state_dtype": "float32"}, (6, 5), (0, 0)
    ),
    "kahan": ("float16", {"kahan": True}, (5, 4), (0, 0)),
    "master": ("float16", {"master_weights": True}, (6, 5), (0, 0)),
    # Four elements of bfloat16 are half a word.
    "state in bfloat16": (
        "float32", {"stochastic_rounding": True, "state_dtype": "bfloat16"}, (2, 1), (2, 2)
    ),
    # A byte of each number: two in a word of 2 bytes, four in one of 4, eight in one of 8.
    "blocks beside float64": ("float64", {"state_dtype": "mxfp8_e4m3"}, (2, 1), (0, 0)),
    "blocks": ("float32", {"state_dtype": "mxfp8_e4m3"}, (2, 1), (0, 0)),
    "blocks beside halves": ("bfloat16", {"state_dtype": "mxfp8_e5m2"}, (2, 1), (2, 2)),
    "blocks, stochastic": (
        "float16", {"state_dtype": "mxfp8_e5m2", "stochastic_rounding": True}, (2, 1), (2, 2)
    ),
}  # fmt: skip


def kept(name, way):
    dtype, options, *_ = KEPT[way]
    rule = isostep.rule(name)
    storage = isostep.low_precision(**options).of_rule(rule)
    program = trace(rule, kept=storage.of(dtype))
    return unit(source(kernels(program, dtype, None, storage)))


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("way", KEPT)
def test_what_is_kept_otherwise_compiles_without_a_warning(way, arch):
    log, code = compiled(kept("adamw", way), arch)
    assert log == ""
    assert code[:4] == b"\x7fELF"


@pytest.mark.parametrize("name", ["adamw", "lamb"])
@pytest.mark.parametrize("way", KEPT)
def test_what_is_kept_otherwise_is_loaded_and_stored_as_wide_as_it_can_be(name, way):
    log, code = compiled(kept(name, way), "compute_80")
    assert log == ""
    text = code.decode()
    assert ".local" not in text
    last = stage(text, "stage1" if name == "lamb" else "stage0")
    for width, (loads, stores) in zip((4, 2), KEPT[way][2:], strict=True):
        assert len(re.findall(rf"ld\.global\.(?:\w+\.)?v{width}\.[ubf]32", last)) == loads
        assert len(re.findall(rf"st\.global\.(?:\w+\.)?v{width}\.[ubf]32", last)) == stores


@pytest.mark.parametrize(("way", "bits"), [("blocks beside float64", 16), ("blocks", 32)])
def test_codes_are_loaded_and_stored_a_word_at_a_time(way, bits):
    _, code = compiled(kept("adamw", way), "compute_80")
    text = stage(code.decode(), "stage0")
    for verb in ("ld", "st"):
        assert len(re.findall(rf"{verb}\.global\.cg\.[ub]{bits}\b", text)) == 2
    # A block is 32 neighbours of 16 or 8 threads, which find its largest in so many steps, for either array.
    assert len(re.findall(r"shfl\.sync\.bfly", text)) == 2 * (4 if bits == 16 else 3)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("way", [way for way in KEPT if way.startswith("blocks")])
def test_what_is_kept_in_blocks_needs_no_more_registers_than_there_are(way, arch):
    log, _ = compiled(kept("adamw", way), arch, b"--ptxas-options=-v")
    assert "Used " in log
    found = re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", log)
    assert set(found) == {"0"}
    assert max(map(int, re.findall(r"Used (\d+) registers", log))) <= 96


def test_denormals_are_kept():
    assert "ftz" not in ptx(isostep.rule("adamw"))  # exp has it inside, where nothing is small
