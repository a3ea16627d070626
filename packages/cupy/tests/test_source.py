"""The CUDA C text: readable, the same for every reader, and printed without CuPy."""

import re
import subprocess
import sys

import isostep
from isostep import pieces
from isostep.commands import sources as commands
from isostep.lower.device import kernels
from isostep.program import trace
from isostep.rule import compose
from isostep.storage import Storage
from isostep_cupy import axes_source
from isostep_cupy.cuda_source import show, source
from isostep_cupy.cuda_text import header, unit

ADDSIGN = """
// Pass 1 of 1: stores p, m.
extern "C" __global__ void stage0(
    const int64 *table, const int64 *chunks, const double *scalars, int64 count
) {
    for (int64 row = blockIdx.x; row < count; row += gridDim.x) {
        const int64 array = chunks[4 * row], start = chunks[4 * row + 1], stop = chunks[4 * row + 2];
        const int64 kind = chunks[4 * row + 3];
        stored *const at_p = array_at(table[array * 4 + 0]);
        stored *const at_g = array_at(table[array * 4 + 1]);
        stored *const at_m = array_at(table[array * 4 + 2]);
        const real beta = (real)scalars[kind * 4 + 0];
        const real alpha = (real)scalars[kind * 4 + 1];
        const real v7 = (real)scalars[kind * 4 + 2];
        const real v14 = (real)scalars[kind * 4 + 3];
        const bool wide = table[array * 4 + 3];
        for (int64 i = start + LANES * threadIdx.x; i < stop; i += LANES * blockDim.x) {
            const int n = lanes_left(stop - i);
            real p_lanes[LANES], g_lanes[LANES], m_lanes[LANES];
            load(p_lanes, at_p + i, n, wide);
            load(g_lanes, at_g + i, n, wide);
            load(m_lanes, at_m + i, n, wide);
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                const real p = p_lanes[lane];
                const real g = g_lanes[lane];
                const real m = m_lanes[lane];
                const real m_new = (beta * m) + (v7 * g);
                const real s = sign(g) * sign(m_new);
                const real factor = alpha + s;
                const real u = (v14 * factor) * g;
                m_lanes[lane] = m_new;
                p_lanes[lane] = p + u;
            }
            store(at_p + i, p_lanes, n, wide);
            store(at_m + i, m_lanes, n, wide);
        }
    }
}
"""


def test_a_kernel_reads_like_its_rule():
    text = show(isostep.program(isostep.rule("addsign")), "float32")
    assert text.startswith("// addsign, float32: 1 kernel. Generated from the rule by isostep.\n")
    assert text.endswith(ADDSIGN)


def test_values_of_a_group_in_another_dtype_are_rounded_where_arrays_use_them():
    program = isostep.program(isostep.rule("sgd_hd", hypergrad_lr=0.1))
    text = source(kernels(program, "float32", "float64"))
    assert "#define REAL float\n#define GROUP_REAL double\n" in text
    assert "const group_real lr = *(const group_real *)group[0];" in text
    assert re.search(r"const real u = real\(v\d+\) \* ", text)
    assert "real(" not in source(kernels(program, "float32"))


def test_what_is_kept_otherwise_is_loaded_and_stored_as_it_is():
    rule, storage = isostep.rule("adamw"), Storage("float32", stochastic=True)
    program = trace(rule, kept=storage.of("bfloat16"))
    text = source(kernels(program, "bfloat16", None, storage))
    assert "stored *const at_p = array_at(table[array * 6 + 0]);" in text
    assert "float *const at_exp_avg = array_at<float>(table[array * 6 + 2]);" in text
    assert "const unsigned key = key_of(scalars[" in text
    assert text.count("rounded_bfloat16(") == 1  # the state is kept whole


def test_constants_are_in_the_dtype_of_arithmetic():
    def update(p, g, t, /, *, lr):
        from isostep import nm

        low = nm.where(g > -1e300, g + 1e-30, float("nan"))
        return -lr * nm.minimum(low * 1234.5, float("inf"))

    from isostep.domains import Real
    from isostep.rule import Rule

    rule = Rule(name="constants", update=update, hyper={"lr": Real(1.0, low=0)}).bind()
    single, double = (show(isostep.program(rule), d) for d in ("float16", "float64"))
    assert "g > (-infinity())" in single
    assert "g > (-1e+300)" in double
    assert "g + 1e-30f) : not_a_number()" in single
    assert "minimum((low * 1234.5f), infinity())" in single
    assert "minimum((low * 1234.5), infinity())" in double


def test_the_header_is_put_in_once_and_nothing_else_is_included():
    text = unit(show(isostep.program(isostep.rule("lamb")), "float16"))
    assert text.count(header()) == 1
    assert "#include" not in text


def test_kernels_of_units_take_whole_units():
    rule = compose(pieces.centralize(0), isostep.rule("sgd", lr=0.1))
    text = show(isostep.program(rule), "float32")
    assert "const Share share = share_units(inner, units, length);" in text
    assert "const int64 unit = base + unit_of(i + lane, inner, units);" in text


def test_the_command_prints_it_without_cupy():
    code = (
        "import sys; from isostep.cli import main; main(['show', 'adamw', '--source', 'cuda', '--dtype', 'bfloat16']);"
        "assert not {'cupy', 'torch', 'jax', 'numba'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == show(isostep.program(isostep.rule("adamw")), "bfloat16")


PASS = """
// Pass 1 of 2: reduces to v14.
extern "C" __global__ void pass0(const int64 *table) {
    const int64 n0 = table[0], n1 = table[1];
    const int log0 = (int)table[2], log1 = (int)table[3];
    const int64 tiles0 = table[4], tiles1 = table[5];
    const int64 left1 = blockIdx.x;
    const int64 left0 = quotient(left1, tiles1), tile1 = left1 - left0 * tiles1;
    const int64 array = quotient(left0, tiles0), tile0 = left0 - array * tiles0;
    const int low0 = log1, places = 1 << (log0 + log1);
    const real *__restrict__ const _slot_g = array_at<real>(table[8 + array * 1]);
    double *__restrict__ const _block_v14 = array_at<double>(table[7]) + array * n0 * tiles1;
    __shared__ double room0[1024];
    for (int place = threadIdx.x; place < places; place += blockDim.x) {
        const int64 i0 = index_of(tile0, log0, place >> low0);
        const int64 i1 = index_of(tile1, log1, place);
        if (i0 >= n0 || i1 >= n1) {
            room0[place] = 0;
            continue;
        }
        const int64 at = i0 * n1 + i1;
        const real g = _slot_g[at];
        const real x = g * g;
        room0[place] = x;
    }
    {  // v14
        const Run high = {0, log1}, low = {0, 0};
        join<false>(room0, places, high, low);
        for (int k = threadIdx.x; k < places >> (high.length + low.length); k += blockDim.x) {
            const int place = place_of(k, high, low);
            const int64 i0 = index_of(tile0, log0, place >> low0);
            if (i0 < n0) _block_v14[i0 * tiles1 + tile1] = room0[place];
        }
    }
}
"""


def test_a_pass_over_axes_reads_like_its_rule():
    text = commands.text("cuda", isostep.program(isostep.rule("adammini")), "bfloat16")
    assert text.startswith(
        "// adammini, float32: 2 pass(es). Generated from the rule by isostep.\n"
    )
    assert PASS in text
    assert "\n        _slot_p[at] = _slot_p[at] + u;\n" in text


def test_headers_are_put_where_they_are_named():
    text = axes_source.show(isostep.program(isostep.rule("adammini")), "float64")
    assert all(header(name) in unit(text) for name in ("kernels.h", "tiles.h"))
    assert "#include" not in unit(text)
