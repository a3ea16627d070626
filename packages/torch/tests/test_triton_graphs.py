"""Graphs of ``capturable`` steps, as the host makes them: what is asked for in a capture is noted down, and done later.

The kernels are those of Triton's interpreter. On a device ``test_cuda.py`` captures and replays in earnest.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import isostep
from isostep import pieces
from isostep.state import State

pytest.importorskip("triton", reason="needs triton, which runs the kernels")

from isostep_torch import fused_traced
from isostep_torch.traced import Held

pytestmark = pytest.mark.whole  # triton comes with every package together
RULES = {
    "adamw": isostep.rule("adamw", lr=0.1, betas=(0.8, 0.7), eps=1e-3, weight_decay=0.1),
    "clipped": isostep.compose(
        pieces.clip_by_global_norm(max_norm=2.0), isostep.rule("sgd_hd", lr=0.1, hypergrad_lr=1e-3)
    ),
}
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


class Graph(TorchDispatchMode):
    """What writes is only noted down; new tensors are made now, and filled again at every replay."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function._schema.is_mutable:
            self.calls.append(lambda: function(*args, **kwargs))
            return args[0]
        found = function(*args, **kwargs)
        if isinstance(found, torch.Tensor) and not function.is_view:
            self.calls.append(lambda: found.copy_(function(*args, **kwargs)))
        return found

    def replay(self):
        for call in self.calls:
            call()


@pytest.fixture
def capture(monkeypatch):
    graphs = []  # those that are being captured
    launch, stage = fused_traced.launch, fused_traced.stage

    def noted(real):
        return lambda *a: graphs[-1].calls.append(lambda: real(*a)) if graphs else real(*a)

    monkeypatch.setattr(fused_traced, "launch", noted(launch))
    monkeypatch.setattr(fused_traced, "stage", noted(stage))
    monkeypatch.setattr(fused_traced, "capturing", lambda place: bool(graphs))

    def run(step):
        graph = Graph()
        graphs.append(graph)
        try:
            with graph:
                step()
        finally:
            graphs.pop()
        return graph

    return run


class Run:
    """Parameters with a backend and a state whose counts are tensors."""

    def __init__(self, rule):
        self.backend, self.rule = fused_traced.TracedInterpreter(), rule
        self.params = tensors(0)
        made = self.backend.init(rule, self.params)
        counts = [torch.zeros(()) for _ in self.params]
        self.state = State(made.rule, counts, made.arrays, made.group, torch.zeros(()))

    def step(self, grads):
        self.backend.step(self.rule, self.params, grads, self.state)

    def everything(self):
        state = self.state
        arrays = [a for own in state.arrays for a in own.values()]
        return [*self.params, *arrays, *state.group.values(), *state.t, state.group_t]


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator) for s in ((4, 3), (5,), (1030,))]


def same(one, other):
    return all(map(torch.equal, one.everything(), other.everything()))


@each_rule
@pytest.mark.parametrize("moved", [False, True], ids=["", "gradients-moved"])
def test_a_graph_steps_with_its_own_gradients_whatever_steps_come_between(rule, capture, moved):
    mine, plain = Run(rule), Run(rule)
    grads, others = tensors(1), tensors(2)
    for run in (mine, plain):
        run.step(grads)
    # A captured backward pass makes gradients of its own.
    static = [g.clone() for g in grads] if moved else grads
    graph = capture(lambda: mine.step(static))
    for k, given in enumerate((static, others, static, static, others, others, static)):
        if given is static:
            graph.replay()
        else:
            mine.step(others)
        plain.step(given)
        assert same(mine, plain), k


@each_rule
def test_a_graph_outlives_the_plan_that_it_was_captured_with(rule, capture):
    mine, plain = Run(rule), Run(rule)
    grads = tensors(1)
    for run in (mine, plain):
        run.step(grads)
    graph = capture(lambda: mine.step(grads))
    (plan,) = mine.state.plan.values()
    for k in range(1, 7):  # so many kinds of steps that the first plan is let go
        some = [g if k >> i & 1 else None for i, g in enumerate(grads)]
        mine.step(some), plain.step(some)
    assert plan not in mine.state.plan.values()
    assert plan in mine.backend._in_graphs
    graph.replay()
    plain.step(grads)
    assert same(mine, plain)


def test_two_graphs_take_turns(capture):
    """Of other gradients each; the second is captured with no step between, with what the first one uploads."""
    rule = RULES["adamw"]
    mine, plain = Run(rule), Run(rule)
    every = [tensors(1), tensors(2)]
    for run in (mine, plain):
        run.step(every[0])
    graphs = [capture(lambda: mine.step(every[0]))]
    mine.step(every[1]), plain.step(every[1])
    graphs.append(capture(lambda: mine.step(every[1])))
    graphs.append(capture(lambda: mine.step(every[0])))
    for k in (0, 1, 1, 2, 0, 2, 1):
        graphs[k].replay()
        plain.step(every[k % 2])
        assert same(mine, plain), k


def test_what_a_scaler_says_stays_with_the_graph_or_with_the_step(capture):
    rule = RULES["adamw"]
    mine, plain = Run(rule), Run(rule)
    grads = tensors(1)
    for run in (mine, plain):
        run.step(grads)
    mine.backend.grad_scale, mine.backend.found_inf = torch.tensor(0.5), torch.tensor(0.0)
    scaled = capture(lambda: mine.step(grads))
    mine.backend.grad_scale = mine.backend.found_inf = None
    bare = capture(lambda: mine.step(grads))
    twice = [2 * g for g in grads]
    for k, given in enumerate((twice, grads, twice, None, grads)):
        if given is None:
            mine.step(grads)
        else:
            (scaled if given is twice else bare).replay()
        plain.step(given or grads)
        assert same(mine, plain), k


def test_a_rate_that_is_a_tensor_is_read_at_every_replay(capture):
    lr = torch.tensor(0.5)
    mine = Run(isostep.rule("sgd", lr=Held(lr)))
    grads = [torch.ones_like(p) for p in mine.params]
    mine.step(grads)
    graph = capture(lambda: mine.step(grads))
    lr.fill_(0.25)
    wanted = [p - 0.5 for p in mine.params]
    for _ in range(2):
        graph.replay()
    assert all(map(torch.equal, mine.params, wanted))
