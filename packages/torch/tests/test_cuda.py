"""``torch:fused(cuda)`` on a device: what the interpreter cannot show. (Its numbers the conformance suite proves.)"""

import pytest
import torch

import isostep
import isostep_torch
from isostep import pieces

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

#: Elementwise; sums over arrays; state of the group; sums over units and over the group, and pieces around.
RULES = {
    "adamw": isostep.rule("adamw", lr=0.01, weight_decay=0.1),
    "lamb": isostep.rule("lamb", lr=0.01, weight_decay=0.1),
    "sgd_hd": isostep.rule("sgd_hd", lr=0.01, hypergrad_lr=1e-5),
    "composed": isostep.compose(
        pieces.centralize(),
        pieces.adaptive_clip(clipping=0.1),
        pieces.clip_by_global_norm(max_norm=2.0),
        isostep.rule("adam", lr=0.01),
    ),
}
SHAPES = [(5,), (1000, 300), (3, 5), (), (70_001,)]
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
each_way = pytest.mark.parametrize("capturable", [False, True])


def parameters(shapes=SHAPES):
    torch.manual_seed(0)
    made = [torch.nn.Parameter(torch.randn(s, device="cuda")) for s in shapes]
    for p in made:
        p.grad = torch.randn_like(p)
    return made


def optimizer(rule, params, **options):
    made = isostep_torch.from_rule(rule, params, fused=True, **options)
    assert made.path.startswith("torch:fused(cuda): ")
    return made


def equal(a, b):
    return all(map(torch.equal, a, b))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@each_rule
@each_way
def test_nothing_waits_for_the_device(rule, capturable):
    opt = optimizer(rule, parameters(), capturable=capturable)
    for _ in range(3):
        opt.step()
    for p in opt.param_groups[0]["params"]:
        p.grad = torch.randn_like(p)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for k in range(3):
            if not capturable:
                opt.param_groups[0]["lr"] = 0.01 / (k + 1)
            opt.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@each_rule
def test_a_graph_takes_the_steps(rule):
    params, others = parameters(), parameters()
    lr = torch.tensor(0.01, device="cuda")
    opt, eager = (optimizer(rule, p, capturable=True) for p in (params, others))
    if rule is not RULES["composed"]:
        for o in (opt, eager):
            o.param_groups[0]["lr"] = lr
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            opt.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        opt.step()  # captured, not taken
    for _ in range(3):
        eager.step()
    for k in range(4):
        lr.fill_(0.01 / (k + 1))
        for p, q in zip(params, others, strict=True):
            q.grad.normal_()
            p.grad.copy_(q.grad)
        graph.replay()
        eager.step()
        assert equal(params, others)
    own = [v for o in (opt, eager) for s in o.state.values() for v in s.values()]
    assert equal(own[: len(own) // 2], own[len(own) // 2 :])


@each_rule
def test_a_graph_keeps_its_gradients_whatever_steps_come_between(rule):
    params, others = parameters(), parameters()
    opt, eager = (optimizer(rule, p, capturable=True) for p in (params, others))
    own = [p.grad for p in params]
    more = [torch.randn_like(g) for g in own]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        opt.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        opt.step()
    eager.step()
    for given in (own, more, own, own, more, own):
        for p, q, g in zip(params, others, given, strict=True):
            p.grad = q.grad = g
        opt.step() if given is more else graph.replay()
        eager.step()
        assert equal(params, others)


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
@each_rule
def test_a_graph_is_refused_where_it_would_repeat_its_count(rule):
    opt = optimizer(rule, parameters())
    opt.step()
    with (
        pytest.raises(isostep.StepError, match="use capturable=True"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        opt.step()


@each_way
def test_a_scaler_unscales_and_skips(capturable):
    params, others = parameters(), parameters()
    opt, plain = (optimizer(RULES["adamw"], p, capturable=capturable) for p in (params, others))
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    scaler.scale(torch.ones((), device="cuda"))  # makes the scale
    for k in range(3):
        for p, q in zip(params, others, strict=True):
            q.grad.normal_()
            p.grad.copy_(q.grad * 1024)
        if k == 1:
            params[1].grad[0, 0] = torch.inf
        else:
            plain.step()
        scaler.step(opt)
        scaler.update(1024.0)
        assert equal(params, others)


def test_the_current_stream_is_the_one_used():
    p = torch.nn.Parameter(torch.zeros(10**6, device="cuda"))
    opt = optimizer(isostep.rule("sgd", lr=1.0), [p])
    p.grad = torch.zeros_like(p)
    opt.step()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(10**8)
        p.grad.fill_(1.0)
        opt.step()
    side.synchronize()
    assert (p == -1).all()


WAYS = [{"stochastic_rounding": True}, {"kahan": True}, {"master_weights": True, "maximize": True}]


@pytest.mark.parametrize("way", WAYS, ids=str)
@each_way
def test_low_precision_is_stored_as_on_the_cpu(way, capturable):
    """One store in fifty may round the other way, where the last bit of the arithmetic differs."""
    pairs = []
    for place in ("cuda", "cpu"):
        torch.manual_seed(0)
        made = [torch.nn.Parameter(torch.randn(s).bfloat16().to(place)) for s in SHAPES]
        on_device = {"capturable": capturable} if place == "cuda" else {}
        opt = isostep_torch.from_rule(RULES["adamw"], made, fused=True, **way, **on_device)
        for k in range(3):
            torch.manual_seed(k)
            for p in made:
                p.grad = torch.randn(p.shape).bfloat16().to(place)
            opt.step()
        pairs.append((made, opt))
    (params, here), (others, there) = pairs
    for p, q in zip(params, others, strict=True):
        for n, x in {"p": p, **here.state[p]}.items():
            y = {"p": q, **there.state[q]}[n]
            off = (x.detach().cpu() - y.detach()).abs() > 1e-5
            assert off.sum() <= 1 + x.numel() / 50, n


@pytest.mark.parametrize("way", [{}, {"maximize": True}, *WAYS], ids=str)
def test_a_step_takes_no_memory(way):
    params = parameters([(1024, 1024)] * 20)
    if way in WAYS:
        params = [torch.nn.Parameter(p.detach().bfloat16()) for p in params]
        for p in params:
            p.grad = torch.ones_like(p)
    opt = optimizer(RULES["lamb"], params, **way)
    for _ in range(2):
        opt.step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    opt.step()
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before
    assert extra < 0.01 * sum(p.nbytes for p in params)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_elements_past_two_to_the_31st(dtype):
    count = 2**31 + 1024
    need = 2 * count * dtype.itemsize
    if torch.cuda.mem_get_info()[0] < 1.2 * need:
        pytest.skip(f"needs {need >> 30} GiB of the device's memory")
    p = torch.nn.Parameter(torch.zeros(count, device="cuda", dtype=dtype))
    p.grad = torch.ones_like(p)
    optimizer(isostep.rule("sgd", lr=0.5), [p]).step()
    assert (p.detach()[-2048:] == -0.5).all()
    assert p.detach()[:: 2**20].eq(-0.5).all()
