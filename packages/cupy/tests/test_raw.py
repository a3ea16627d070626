"""``cupy:raw`` on a device: what the host path cannot show. (The conformance suite is the proof of its numbers.)"""

import numpy as np
import pytest

import isostep
from isostep import BackendError, pieces
from isostep_cupy import AddSign, from_rule

pytestmark = pytest.mark.gpu


@pytest.fixture
def raw():
    try:
        return isostep.backend("cupy:raw")
    except BackendError as error:
        pytest.skip(str(error))


def test_denormals_are_kept(raw):
    import cupy

    p = cupy.full(5, 1e-40, np.float32)
    AddSign(p, lr=0.5).step(cupy.full(5, 1e-42, np.float32))
    assert (p.get() == np.float32(1e-40) - np.float32(1e-42)).all()


def test_a_graph_takes_the_steps(raw):
    import cupy

    rule = isostep.compose(pieces.clip_by_global_norm(1.0), isostep.rule("adam", lr=0.1))
    start, grads = np.linspace(-1, 1, 5000, dtype=np.float32), cupy.ones(5000, np.float32)
    wanted, found = cupy.array(start), cupy.array(start)
    plain, opt = from_rule(rule, wanted), from_rule(rule, found)
    stream = cupy.cuda.Stream(non_blocking=True)
    plain.step(grads), opt.step(grads)
    cupy.cuda.Device().synchronize()  # the other stream waits for nothing
    with stream:
        launch = opt.prepare(grads)
        stream.begin_capture()
        launch()
        graph = stream.end_capture()
        graph.launch(stream)
        for _ in range(3):
            assert opt.prepare(grads) == launch
            graph.launch(stream)
    stream.synchronize()
    for _ in range(4):
        plain.step(grads)
    np.testing.assert_array_equal(found.get(), wanted.get())


def test_the_current_stream_is_the_one_used(raw):
    import cupy

    p, slow = cupy.zeros(10**6, np.float32), cupy.cuda.Stream(non_blocking=True)
    opt = AddSign(p, lr=1.0)
    opt.step(cupy.zeros(10**6, np.float32))  # compiles
    with slow:
        busy, grads = cupy.zeros(2**28, np.float32), cupy.zeros(10**6, np.float32)
        busy += 1
        cupy.cuda.Device().synchronize()
        for _ in range(50):
            busy += 1  # still under way when the step is asked for
        grads += busy[0] / 51
        opt.step(grads)
    slow.synchronize()
    np.testing.assert_allclose(p.get(), -2, rtol=1e-5)
