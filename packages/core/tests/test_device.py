"""The device lowering, read by a third reader: kernels interpreted in NumPy, as ``lower.device`` describes them.

What the writers' texts do is tested beside them; here the description itself, and the executor's tables.
"""

import ctypes

import numpy as np
import pytest

import isostep
from isostep import blocks, pieces, rounding
from isostep.backends.numpy import NumpyReference
from isostep.lower import device
from isostep.lower.device import kernels, of_group
from isostep.lower.executor import Device, DeviceBackend
from isostep.rule import compose
from isostep.sums import factors
from isostep.values import FACTS, MAPS, is_bool

REFERENCE = isostep.backend("numpy:reference")


def memory(address, size, dtype):
    """The elements that begin at an address."""
    count = int(size) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * count).from_address(int(address)), dtype)


class Interpreter(Device):
    """Kernels as loops over rows, every value an array of NumPy."""

    def __init__(self):
        self.launched = []
        self.reduced = 0

    def buffer(self, count, dtype):
        return np.full(count, -1, dtype)

    def upload(self, buffer, values):
        assert buffer.dtype == values.dtype
        buffer[...] = values

    def compile(self, kernels):
        def stage(kernel):
            return lambda blocks, arguments: self.run(
                kernels, kernel, dict(zip(kernel.arguments, arguments, strict=True))
            )

        found = {k.name: stage(k) for k in kernels.stages}
        return found | {"reduce": self.reduce, "commit": lambda *a: self.commit(kernels, *a)}

    def address(self, buffer):
        return buffer.ctypes.data

    def passes(self, axes, dtype):
        return ()  # of the rules here none has any

    def reduce(self, blocks, arguments):
        self.reduced += 1
        given = dict(zip(device.REDUCE, arguments, strict=True))
        arrays, width, columns = (given[n] for n in ("arrays", "width", "columns"))
        assert blocks == arrays + 1
        partials = given["partials"].reshape(-1, width)[:, :columns]
        spans = given["spans"]
        for a in range(arrays):
            own = partials[spans[a] : spans[a + 1]]
            given["sums"].reshape(-1, width)[a, :columns] = own.sum(axis=0)
        given["totals"][:columns] = partials[spans[0] : spans[arrays]].sum(axis=0)

    def commit(self, kernels, blocks, arguments):
        group, new, values = arguments
        for k in range(values):
            memory(group[k], 1, kernels.group_dtype)[0] = new[k]

    def run(self, kernels, kernel, a):
        self.launched.append((kernel.name, kernel.grid, a["count"]))
        rows = a["chunks"].reshape(-1, 4)
        assert len(rows) == a["count"]
        slots = kernels.slots
        table = a["table"].reshape(-1, kernels.layout.width + 1)
        for row, (array, start, stop, kind) in enumerate(rows):
            known = {}
            for node, place in kernel.given.items():
                if place.table != "unit_sums":
                    known[node] = self.given(kernels, node, place, a, array, kind)
            facts = (
                dict(zip(device.FACT_COLUMNS, a["facts"].reshape(-1, 5)[array], strict=True))
                if "facts" in a
                else {}
            )
            self.evaluate(kernels, kernel.group, known, facts)
            if row == 0 and a.get("lead"):
                for k, node in enumerate(kernel.group_outputs):
                    a["group_new"][k] = self.operand(kernels, node, kernels.group_dtype, known)
            self.evaluate(kernels, kernel.array, known, facts)
            totals = dict.fromkeys(kernel.sums, np.float64(0))
            seen = np.zeros(len(kernel.figures))
            for unit, i in self.indices(kernel, facts, start, stop):
                own = dict(known)
                for node, place in kernel.given.items():
                    if place.table == "unit_sums":
                        columns = a["unit_sums"].reshape(-1, len(kernels.unit_sums))
                        own[node] = columns[unit, place.column].astype(kernels.compute)
                end = i.max(initial=-1) + 1
                sizes = {s: -(-end // blocks.BLOCK) for s in kernels.layout.storage.scales}
                place = {
                    s: memory(table[array, k], sizes.get(s, end), kernels.layout.dtype_of(s))
                    for k, s in enumerate(slots)
                }
                for slot, node in kernel.inputs.items():
                    if node is not None:
                        own[node] = self.loaded(kernels, place, slot, i).astype(kernels.compute)
                self.evaluate(kernels, [*kernel.unit, *kernel.element], own, facts)
                text = lambda node, own=own: self.operand(kernels, node, kernels.compute, own)  # noqa: E731
                for node in totals:
                    totals[node] += np.sum(text(node.args[0]), dtype=np.float64)
                for node, k in kernel.unit_sums.items():
                    a["unit_sums"].reshape(-1, len(kernels.unit_sums))[unit, k] = np.sum(
                        text(node.args[0]), dtype=np.float64
                    )
                for k, node in enumerate(kernel.figures):
                    x, *more = map(text, factors(node))
                    seen[k] += np.sum(x * more[0] if more else x, dtype=np.float64)
                new = {slot: text(node) for slot, node in kernel.stores.items()}
                if kernel.update is not None:
                    new["p"] = place["p"][i].astype(kernels.compute) + text(kernel.update)
                for slot, value in new.items():
                    if slot in kernels.layout.packed:
                        row = a["scalars"].reshape(-1, len(kernels.scalars))[kind]
                        words = [row[kernel.given[n].column] for n in kernels.program.noise]
                        key = rounding.key_of(np, *map(int, words), int(table[array, -2]))
                        self.store(kernels, place, slot, i, np.float32(value), key)
                    else:
                        place[slot][i] = value
            for node, k in kernel.sums.items():
                a["partials"].reshape(-1, a["width"])[row, k] = totals[node]
            if len(seen):
                a["seen"].reshape(-1, len(seen))[row] = seen

    def loaded(self, kernels, place, slot, i):
        if slot not in kernels.layout.storage.packed:
            return place[slot][i]
        scales = place[slot + blocks.SCALE][i[:: blocks.BLOCK] // blocks.BLOCK]
        return blocks.unpacked(np, place[slot][i], scales, kernels.layout.storage.form)

    def store(self, kernels, place, slot, i, value, key):
        noise = rounding.noise_of(np, key, kernels.layout.number(slot), i.astype(np.uint32))
        found = blocks.packed(np, value, kernels.layout.storage.form, noise)
        starts = i[:: blocks.BLOCK] // blocks.BLOCK
        place[slot][i], place[slot + blocks.SCALE][starts] = found

    def indices(self, kernel, facts, start, stop):
        """The units and elements of one row."""
        if kernel.grid == "units":
            size, inner, count = (facts[n] for n in ("size", "inner", "count"))
            for u in range(start, stop):
                r = np.arange(size // count)
                yield facts["base"] + u, r // inner * count * inner + u * inner + r % inner
            return
        i = np.arange(start, stop)
        yield (
            (
                facts["base"] + i // facts["inner"] % max(facts["count"], 1)
                if kernel.reads_units
                else None
            ),
            i,
        )

    def given(self, kernels, node, place, a, array, kind):
        k = place.column
        if place.table == "group":
            return memory(a["group"][k], 1, kernels.group_dtype)[0]
        value = {
            "scalars": lambda: a["scalars"].reshape(-1, len(kernels.scalars))[kind, k],
            "shared": lambda: a["shared"][k],
            "totals": lambda: a["totals"].reshape(-1, a["width"])[place.stage, k],
            "sums": lambda: a["sums"].reshape(-1, a["arrays"], a["width"])[place.stage, array, k],
        }[place.table]()
        if is_bool(node):
            return value != 0
        return np.dtype(kernels.group_dtype if of_group(node) else kernels.compute).type(value)

    def operand(self, kernels, node, dtype, known):
        if node.op == "const":
            value = node.attrs[0]
            return value if isinstance(value, bool) else np.dtype(dtype).type(value)
        value = known[node]
        return value if is_bool(node) else np.asarray(value).astype(dtype)

    def evaluate(self, kernels, nodes, known, facts):
        for node in nodes:
            dtype = kernels.group_dtype if of_group(node) else kernels.compute
            if node.op in FACTS:
                value = {
                    "eps": lambda: np.finfo(kernels.compute).eps,
                    "unit_size": lambda: facts["size"] / max(facts["count"], 1),
                }.get(node.op, lambda node=node: facts[node.op])()
                known[node] = np.dtype(dtype).type(value)
            else:
                known[node] = MAPS[node.op].array(
                    np, *(self.operand(kernels, x, dtype, known) for x in node.args)
                )


class Interpreted(DeviceBackend, NumpyReference):
    """The interpreter as a backend."""

    name = "numpy:interpreted"

    def __init__(self):
        self.device = Interpreter()

    def addressable(self, array):
        return isinstance(array, np.ndarray) and array.flags.c_contiguous

    def stand_in(self, array):
        return np.empty(array.shape, array.dtype)

    def addresses(self, arrays):
        return np.array([a.ctypes.data for a in arrays], np.int64)


RULES = [
    isostep.rule("addsign", lr=0.3),
    isostep.rule("sgd", lr=lambda done: 0.5**done, momentum=0.9),
    isostep.rule("lamb", lr=0.1, weight_decay=0.1),
    isostep.rule("sgd_hd", hypergrad_lr=1e-3, momentum=0.5),
    isostep.rule("adam_hd", hypergrad_lr=1e-4),
    compose(pieces.centralize(0), isostep.rule("adam", lr=0.1)),
    compose(
        pieces.adaptive_clip(0.1, unit_axis=-1), isostep.rule("sgd", lr=0.1), pieces.lookahead(2)
    ),
    compose(pieces.clip_by_global_norm(1.0), pieces.centralize(1), isostep.rule("lamb", lr=0.1)),
]
SHAPES = [(7, 5), (), (1009,), (0,), (2, 3, 4), (3, device.CHUNK)]


@pytest.mark.parametrize("rule", RULES, ids=[r.name for r in RULES])
def test_the_description_is_the_step(rule):
    dtypes = (
        ("f8",) if rule.reduces_group else ("f4", "f8")
    )  # a single sum would round the double ones
    results = []
    for backend in (Interpreted(), REFERENCE):
        rng = np.random.default_rng(0)
        params = [np.asarray(rng.normal(size=s)).astype(d) for s in SHAPES for d in dtypes]
        params.append(np.asfortranarray(rng.normal(size=(4, 6))))
        state = backend.init(rule, params)
        for k in range(4):
            grads = [np.asarray(rng.normal(size=p.shape)).astype(p.dtype) for p in params]
            grads[k] = None
            backend.step(rule, params, grads, state)
        results.append((params, state))
    (found, state), (wanted, other) = results
    assert state.t == other.t
    pairs = list(zip(found, wanted, strict=True))
    for own, others in zip(state.arrays, other.arrays, strict=True):
        pairs += [(own[n], others[n]) for n in others]
    pairs += [(state.group[n], other.group[n]) for n in other.group]
    for a, b in pairs:
        assert a.dtype == b.dtype
        tolerance = 1e-10 if a.dtype == np.float64 else 2e-5
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("form", blocks.FORMATS)
@pytest.mark.parametrize("name", ["adamw", "lion", "addsign"])
def test_state_in_blocks_of_eight_bits_is_described_too(name, form):
    rule, storage = isostep.rule(name, lr=0.1), isostep.low_precision(state_dtype=form)
    results = []
    for backend in (Interpreted(), REFERENCE):
        rng = np.random.default_rng(0)
        params = [np.asarray(rng.normal(size=s)).astype(d) for s in SHAPES for d in ("f4", "f8")]
        state = backend.init(rule, params, storage=storage, seed=7)
        assert getattr(backend, "takes_blocks", lambda rule: True)(rule)
        for k in range(3):
            grads = [np.asarray(rng.normal(size=p.shape)).astype(p.dtype) for p in params]
            grads[k] = None
            backend.step(rule, params, grads, state)
        results.append((backend, params, state.arrays))
    (backend, params, arrays), (_, wanted, others) = results
    assert backend.device.launched
    for a, b in zip(params, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    for own, other in zip(arrays, others, strict=True):
        for n, a in other.items():
            np.testing.assert_array_equal(own[n], a)


@pytest.mark.parametrize("rule", [RULES[2], RULES[3], RULES[6]], ids=lambda r: r.name)
def test_an_observed_step_launches_what_a_plain_one_does(rule):
    launched, results = [], []
    for backend, own in (
        (Interpreted(), rule),
        (Interpreted(), isostep.observe(rule)),
        (REFERENCE, isostep.observe(rule)),
    ):
        rng = np.random.default_rng(0)
        params = [np.asarray(rng.normal(size=s)) for s in SHAPES[:-1]]
        params.append(rng.normal(size=3).astype("f4") if not rule.reduces_group else np.ones(3))
        state = backend.init(own, params)
        rows = []
        for k in range(3):
            grads = [np.asarray(rng.normal(size=p.shape)).astype(p.dtype) for p in params]
            grads[k] = None
            if backend is not REFERENCE:
                backend.device.launched.clear()
                backend.device.reduced = 0
            backend.step(own, params, grads, state)
            if backend is not REFERENCE:
                launched.append((list(backend.device.launched), backend.device.reduced))
            if own.observed:
                rows.append(state.figures.rows())
        results.append((params, rows))
    assert launched[:3] == launched[3:]
    for a, b in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_array_equal(a, b)
    for found, wanted in zip(results[1][1], results[2][1], strict=True):
        for name, row in wanted.items():
            wide = name not in (str(len(SHAPES) - 1), "group")
            for figure, value in row.items():
                np.testing.assert_allclose(
                    found[name][figure], value, rtol=1e-11 if wide else 3e-6, err_msg=figure
                )


def test_kernels_have_only_the_arguments_that_they_use():
    plain = kernels(isostep.program(isostep.rule("sgd")), "float32")
    assert [k.arguments for k in plain.stages] == [("table", "chunks", "scalars", "count")]
    lamb = kernels(isostep.program(isostep.rule("lamb")), "bfloat16")
    assert [k.name for k in lamb.stages] == ["stage0", "stage1"]
    assert "partials" in lamb.stages[0].arguments
    assert {"sums", "arrays", "width"} <= set(lamb.stages[1].arguments)
    assert lamb.compute == lamb.group_dtype == "float32"
    hyper = kernels(isostep.program(isostep.rule("sgd_hd")), "float32", "float64")
    assert {"group", "group_new", "totals", "lead"} <= set(hyper.stages[1].arguments)
    assert all(set(k.arguments) <= set(device.ARGUMENTS) for k in (*lamb.stages, *hyper.stages))


def test_what_a_stage_loads_and_stores():
    rule = compose(isostep.rule("sgd", lr=0.1), pieces.lookahead(3))
    between, sync = (kernels(isostep.program(rule, t=t), "float32").stages[0] for t in (1, 3))
    assert list(between.inputs) == ["p", "g"]  # the slow weights are left alone between syncs
    assert between.update is not None
    assert list(between.stores) == []
    assert "lookahead.slow" in sync.inputs
    assert {"p", "lookahead.slow"} <= {*sync.stores, *(["p"] if sync.update is not None else [])}


def test_only_stages_that_sum_over_units_take_whole_units():
    backend = Interpreted()
    rule = compose(pieces.centralize(0), isostep.rule("sgd", lr=0.1))
    params = [np.ones((5, 3)), np.ones(4)]
    backend.step(rule, params, [np.ones((5, 3)), np.ones(4)], backend.init(rule, params))
    assert backend.device.launched == [("stage0", "units", 2), ("stage1", "chunks", 2)]


@pytest.mark.parametrize("size", [1, device.CHUNK, 10**6, device.CHUNK * device.MOST + 1])
def test_rows_depend_on_the_array_alone_and_stay_few(size):
    from isostep.lower.bins import Bin
    from isostep.lower.executor import _rows

    program = isostep.program(isostep.rule("sgd"))
    one = _rows(Bin(program, "float32", ((size,),), np.zeros(1, np.int64)), None, "chunks", 0)
    two = _rows(Bin(program, "float32", ((7,), (size,)), np.zeros(2, np.int64)), None, "chunks", 3)
    np.testing.assert_array_equal(one[:, 1:], two[two[:, 0] == 4, 1:])
    assert len(one) <= device.MOST
    assert (one[:, 1] % device.CHUNK == 0).all()
    assert (one[1:, 1] == one[:-1, 2]).all()
    assert one[-1, 2] == size
