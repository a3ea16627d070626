"""What happens to tensors, counts, options and checkpoints between steps, which a step has to notice."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

import isostep
import isostep_torch
from isostep_torch import load_optimizer

PATHS = [{"fused": True}, {"foreach": True}, {"fused": False, "foreach": False}]
IDS = ["fused", "foreach", "loop"]
EVERY = pytest.mark.parametrize("path", PATHS, ids=IDS)


def pair(shape=(5,), dtype=torch.float64, count=1, **hyper):
    """Our Adam and torch's on equal parameters."""
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for _ in range(count)]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    path = hyper.pop("path", {})
    return isostep_torch.Adam(ours, lr=0.1, **hyper, **path), torch.optim.Adam(
        theirs, lr=0.1, **hyper
    )


def params(optimizer):
    return [p for g in optimizer.param_groups for p in g["params"]]


def step(optimizer, k):
    torch.manual_seed(100 + k)
    for p in params(optimizer):
        p.grad = torch.randn_like(p)
    optimizer.step()


def same(ours, theirs):
    for p, q in zip(params(ours), params(theirs), strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-11, atol=1e-12)
        own, other = ours.state[p], theirs.state[q]
        for n in ("step", "exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(own[n], other[n], rtol=1e-11, atol=1e-12, check_dtype=False)


def moved(optimizer):
    for p in params(optimizer):
        for v in optimizer.state[p].values():
            v.data = v.data.clone() * (0.5 if v.ndim else 1)


def shared(optimizer):
    for p in params(optimizer):
        optimizer.state[p]["exp_avg"].share_memory_()


def swapped(optimizer):
    for p in params(optimizer):
        other = optimizer.state[p]["exp_avg"].clone() + 1
        torch.utils.swap_tensors(optimizer.state[p]["exp_avg"], other)


def zeroed(optimizer):
    for v in optimizer.state[params(optimizer)[0]].values():  # of one parameter of several
        v.zero_()


def counted(optimizer):
    optimizer.state[params(optimizer)[-1]]["step"].fill_(7)


def counted_elsewhere(optimizer):
    moved(optimizer)
    counted(optimizer)


@EVERY
@pytest.mark.parametrize(
    "change", [moved, shared, swapped, zeroed, counted, counted_elsewhere], ids=lambda f: f.__name__
)
def test_state_that_is_changed_under_its_own_name(change, path):
    ours, theirs = pair(count=3, path=path)
    for k in range(6):
        for optimizer in (ours, theirs):
            step(optimizer, k)
            if k in (2, 3):
                change(optimizer)
        ours.state_dict()
        same(ours, theirs)


@pytest.mark.parametrize("wrap", ["two", "fake"])
def test_tensors_without_memory_of_their_own_take_a_path_that_needs_none(wrap):
    if wrap == "two":
        mode, make = torch.no_grad(), lambda: TwoTensor(torch.ones(3), torch.ones(3))
    else:
        mode, make = FakeTensorMode(), lambda: torch.ones(3)
    with mode:
        p = torch.nn.Parameter(make())
        optimizer = isostep_torch.AdamW([p], lr=0.1)
        assert optimizer.path.startswith("torch:foreach")
        for _ in range(2):
            p.grad = make()
            optimizer.step()
        with pytest.raises(ValueError, match="wrappers such as DTensor; use foreach=True"):
            isostep_torch.AdamW([p], lr=0.1, fused=True).step()
    if wrap == "two":
        q = torch.nn.Parameter(torch.ones(3))
        other = torch.optim.AdamW([q], lr=0.1)
        for _ in range(2):
            q.grad = torch.ones(3)
            other.step()
        torch.testing.assert_close(p.detach().a, q.detach())


SHARDED = """
import sys, torch
from torch import distributed
from torch.distributed.checkpoint import state_dict as checkpoints
from torch.distributed.fsdp import fully_shard
import isostep_torch

rank, path = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
store = distributed.FileStore(path, 2)
distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)

def run(name, shard, **hyper):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))
    if shard:
        fully_shard(net)
    optimizer = isostep_torch.load_optimizer(name)(net.parameters(), lr=0.1, **hyper)
    for k in range(4):
        torch.manual_seed(k)
        net(torch.randn(8, 5)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if shard and k == 1:
            saved = checkpoints.get_optimizer_state_dict(net, optimizer)
            checkpoints.set_optimizer_state_dict(net, optimizer, saved)
    whole = [(p.full_tensor() if shard else p).detach() for p in net.parameters()]
    return whole, optimizer.path

for name, path, hyper in (("adamw", "torch:fused", {}), ("sgd", "torch:fused", {"momentum": 0.9}),
                          ("lamb", "torch:foreach", {}), ("adamw", "torch:fused", {"state_dtype": torch.bfloat16})):
    ours, chosen = run(name, True, **hyper)
    assert chosen.startswith(path), chosen
    torch.testing.assert_close(ours, run(name, False, **hyper)[0], rtol=1e-6, atol=1e-7)
distributed.destroy_process_group()
"""


def test_sharded_parameters_step_as_whole_ones(two_processes):
    """FSDP2's parameters are DTensors: rules of single elements step what lies here, others whole arrays."""
    two_processes(SHARDED, timeout=300)


@EVERY
def test_a_gradient_with_the_negative_bit(path):
    p = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    z = torch.tensor([1.0 + 1.0j], dtype=torch.complex128)
    p.grad = z.conj().imag
    assert p.grad.is_neg()
    isostep_torch.SGD([p], lr=0.5, **path).step()
    assert p.item() == 1.5


def test_capturable_switched_on_counts_each_parameter_once():
    ours, theirs = pair(count=3)
    for k in range(6):
        if k == 3:
            ours.param_groups[0]["capturable"] = True
        if k == 5:
            ours.param_groups[0]["capturable"] = False
        step(ours, k)
        step(theirs, k)
        same(ours, theirs)


def test_counts_are_float32_on_the_cpu_whatever_the_defaults_are():
    ours, _ = pair()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            for k in range(301):
                step(ours, k)
    finally:
        torch.set_default_dtype(torch.float32)
    count = ours.state_dict()["state"][0]["step"]
    assert (count.item(), count.dtype, count.device.type) == (301, torch.float32, "cpu")


class Rate:
    """A schedule that says it equals others."""

    __hash__ = None

    def __init__(self, value):
        self.value = np.array([value, value])

    def __call__(self, done):
        return float(self.value[0])

    def __eq__(self, other):
        return self.value == other.value


@pytest.mark.parametrize("path", [*PATHS, {"capturable": True}], ids=[*IDS, "capturable"])
@pytest.mark.parametrize("make", [np.array, Rate], ids=["array", "schedule"])
def test_a_rate_that_changes_where_it_stands(make, path):
    """Arrays hold numbers as tensors do, and a schedule that equals the last one may be changed after it."""
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = isostep_torch.SGD([p], lr=make(0.1), **path)
    p.grad = torch.ones(3)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = rate = make(0.1)
    optimizer.step()
    held = getattr(rate, "value", rate)
    held[...] = 0.5
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((3,), -0.7))


def test_pairs_may_be_arrays():
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = isostep_torch.Adam([p], lr=0.1, betas=np.array([0.5, 0.9]))
    for betas in (np.array([0.5, 0.9]), np.array([0.6, 0.9])):
        optimizer.param_groups[0]["betas"] = betas
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert optimizer.bound(optimizer.param_groups[0]).values["betas"] == (0.6, 0.9)


@EVERY
def test_a_count_that_is_set_under_its_own_name(path):
    ours, theirs = pair(count=3, path=path)
    for optimizer in (ours, theirs):
        for k in range(5):
            if k == 3:
                optimizer.state[params(optimizer)[1]]["step"].data = torch.tensor(1.0)
            step(optimizer, k)
    same(ours, theirs)


@EVERY
def test_counts_that_processes_share_stay_shared(path):
    """Hogwild's: each process counts in the same memory, as with torch.optim, whose counts are advanced in place."""
    ours, theirs = pair(count=2, path=path)
    for optimizer in (ours, theirs):
        step(optimizer, 0)
        for own in optimizer.state.values():
            for v in own.values():
                v.share_memory_()
        kept = [own["step"] for own in optimizer.state.values()]
        for k in range(1, 4):
            step(optimizer, k)
            kept[1].add_(2)  # another process has taken steps
        assert [own["step"] for own in optimizer.state.values()] == kept == [4, 10]
    same(ours, theirs)


@EVERY
def test_state_may_be_made_in_shared_memory(path):
    """``share_memory``, which torch.optim.Adagrad has: before processes start to step together."""
    ours, theirs = pair(count=2, path=path)
    ours.share_memory()
    kept = [v for own in ours.state.values() for v in own.values()]
    assert len(kept) == 6
    for k in range(3):
        for optimizer in (ours, theirs):
            step(optimizer, k)
    found = [v for own in ours.state.values() for v in own.values()]
    assert all(a is b and a.is_shared() for a, b in zip(kept, found, strict=True))
    same(ours, theirs)


@pytest.mark.parametrize("path", [*PATHS, {"capturable": True}], ids=[*IDS, "capturable"])
@pytest.mark.parametrize("name", ["adamw", "nadam", "adafactor"])
def test_nothing_goes_to_the_default_device(name, path):
    """``torch.as_tensor`` moves a tensor there, and steps and checkpoints have to do with the parameters' alone."""
    found = []
    for device in ("cpu", "meta"):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(3, 4))
        with torch.device(device):
            optimizer = load_optimizer(name)([p], **(path if name != "adafactor" else {}))
            for _ in range(2):
                p.grad = p.detach() * 0.5
                optimizer.step()
                optimizer.load_state_dict(optimizer.state_dict())
        found.append((p, *optimizer.state[p].values()))
    for mine, others in zip(*found, strict=True):
        assert mine.device == others.device
        assert torch.equal(mine, others)


# Checkpoints.


@pytest.mark.parametrize("ours_saved", [True, False], ids=["ours", "torch's"])
def test_a_checkpoint_brings_its_groups_settings(ours_saved):
    """amsgrad of the saved run, momentum of some groups only: what torch.optim loads."""
    saved, theirs = pair(amsgrad=True), pair(amsgrad=True)
    source = (saved if ours_saved else theirs)[not ours_saved]
    step(source, 0)
    into = isostep_torch.Adam([torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))])
    into.load_state_dict(source.state_dict())
    assert into.param_groups[0]["amsgrad"]
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in "ab")
    groups = [{"params": [a], "momentum": 0.0}, {"params": [b], "momentum": 0.9}]
    sgd = isostep_torch.SGD(groups, lr=0.1)
    step(sgd, 0)
    sgd.load_state_dict(copy.deepcopy(sgd.state_dict()))
    step(sgd, 1)


def test_complex_state_of_another_dtype_comes_back():
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
    optimizer = isostep_torch.Adam([p], lr=0.1, state_dtype=torch.float64)
    step(optimizer, 0)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(optimizer, 1)


BAD = {
    "lr": lambda d: d["param_groups"][0].update(lr=-1.0),
    "betas": lambda d: d["param_groups"][0].update(betas=(2.0, 0.9)),
    "kahan and master_weights": lambda d: d["param_groups"][0].update(
        kahan=True, master_weights=True
    ),
    "fused and foreach": lambda d: d["param_groups"][0].update(fused=True, foreach=True),
    "step": lambda d: d["state"][0].update(step="a"),
    "step must be": lambda d: d["state"][0].update(step=torch.ones(2)),
    "exp_avg": lambda d: d["state"][0].update(exp_avg=3.0),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_checkpoint_is_refused_and_nothing_is_lost(what):
    ours, theirs = pair()
    step(ours, 0)
    step(theirs, 0)
    saved = copy.deepcopy(ours.state_dict())
    BAD[what](saved)
    with pytest.raises(ValueError, match=what):
        ours.load_state_dict(saved)
    step(ours, 1)
    step(theirs, 1)
    same(ours, theirs)


def test_options_of_groups_outlast_torchs_checkpoint():
    a, b = (torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)) for _ in "ab")
    groups = [{"params": [a], "kahan": True}, {"params": [b], "master_weights": True}]
    ours = isostep_torch.AdamW(groups, lr=0.1)
    theirs = torch.optim.AdamW([{"params": [a]}, {"params": [b]}], lr=0.1)
    step(theirs, 0)
    ours.load_state_dict(theirs.state_dict())
    assert [(g["kahan"], g["master_weights"]) for g in ours.param_groups] == [
        (True, False),
        (False, True),
    ]


def test_observation_goes_on_after_a_checkpoint():
    ours, _ = pair()
    seen = ours.observe()
    step(ours, 0)
    ours.load_state_dict(copy.deepcopy(ours.state_dict()))
    step(ours, 1)
    assert seen.rows()


def test_cleared_state_takes_what_is_shared_with_it():
    p, q = (torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in "pq")
    ours, theirs = isostep_torch.NAdam([p], lr=0.1), torch.optim.NAdam([q], lr=0.1)
    for k in range(5):
        if k == 3:
            ours.state.clear()
            theirs.state.clear()
        step(ours, k)
        step(theirs, k)
        torch.testing.assert_close(
            p.detach(), q.detach(), rtol=1e-7, atol=0
        )  # torch's product is float32


@pytest.mark.parametrize("path", [*PATHS, {"capturable": True}], ids=[*IDS, "capturable"])
def test_what_a_group_shares_may_be_replaced(path):
    """In its dict, with it, or by a number: the next step goes on from there, as from a checkpoint that says so."""

    def entry(group):
        group["shared"]["d"] = torch.tensor(0.5)

    def number(group):
        group["shared"]["d"] = 0.5

    def whole(group):
        group["shared"] = {**group["shared"], "d": torch.tensor(0.5, dtype=torch.float64)}

    def nothing(group):
        pass

    ends = []
    for change in (entry, number, whole, nothing, None):
        ours = load_optimizer("prodigy")(
            [torch.nn.Parameter(torch.ones(3, dtype=torch.float64))], **path
        )
        for k in range(6):
            if k == 4 and change is not None:
                change(ours.param_groups[0])
            elif k == 4:
                saved = ours.state_dict()
                for own in (saved["param_groups"][0]["shared"], *saved["state"].values()):
                    own["d"] = torch.tensor(0.5, dtype=torch.float64)
                ours.load_state_dict(saved)
            step(ours, k)
        ends.append(params(ours)[0].detach())
    *replaced, untouched, loaded = ends
    assert all(torch.equal(end, loaded) for end in replaced)
    assert not torch.equal(untouched, loaded)
    ours.param_groups[0]["shared"]["d"] = torch.ones(2)
    with pytest.raises(
        ValueError, match=r"prodigy: shared\['d'\] must be a number or a 0-d array, got shape"
    ):
        step(ours, 6)


@pytest.mark.parametrize("path", [*PATHS, {"capturable": True}], ids=[*IDS, "capturable"])
def test_plain_numbers_that_a_group_shares_are_saved_loaded_and_stepped_with(path):
    ours, other = (
        load_optimizer("prodigy")([torch.nn.Parameter(torch.ones(3))], **path) for _ in range(2)
    )
    for k in range(2):
        step(ours, k)
    (group,) = ours.param_groups
    numbers = {n: v if n == "step" else float(v) for n, v in group["shared"].items()}
    group["shared"] = numbers | {"d": 0.3}
    with ours.evaluating():
        pass
    other.load_state_dict(ours.state_dict())
    params(other)[0].data.copy_(params(ours)[0])
    for optimizer in (ours, other):
        step(optimizer, 2)
    assert torch.equal(params(ours)[0], params(other)[0])
    for optimizer in (ours, other):
        assert optimizer.param_groups[0]["shared"]["d_max"].dtype is torch.float32
    group["shared"] = None
    ours.state_dict()
    step(ours, 3)


# Low precision.


@EVERY
@pytest.mark.parametrize("way", ["master_weights", "kahan"])
def test_what_is_beside_a_parameter_goes_with_it(way, path):
    """A parameter that somebody has written to, or that was stepped without it, is what the next step starts from."""
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = isostep_torch.SGD([p], lr=0.1, **{way: True}, **path)
    group = optimizer.param_groups[0]

    def one():
        p.grad = torch.ones_like(p)
        optimizer.step()
        return p[0].item()

    one()
    p.data = torch.full_like(p, 0.25)  # a checkpoint of the model alone
    spacing = (
        0.0 if way == "master_weights" else 2.0**-9
    )  # what is lost may be another's, if it is less than that
    assert abs(one() - torch.tensor(0.25 - 0.1).bfloat16().item()) <= spacing
    group[way] = False
    before = [one() for _ in range(3)][-1]
    assert {*optimizer.state[p]} <= {"step", "momentum_buffer"}
    group[way] = True
    assert abs(one() - torch.tensor(before - 0.1).bfloat16().item()) <= spacing
    values = [one() for _ in range(20)]
    assert abs(values[-1] - (before - 2.1)) < 0.02


@EVERY
@pytest.mark.parametrize("way", ["master_weights", "kahan"])
def test_a_model_that_becomes_half_in_mid_run(way, path):
    net = torch.nn.Linear(3, 2)
    optimizer = isostep_torch.AdamW(net.parameters(), lr=0.1, **{way: True}, **path)
    for k in range(4):
        if k == 2:
            net.bfloat16()
        step(optimizer, k)
    name = {"master_weights": "master_weight", "kahan": "kahan_compensation"}[way]
    assert all(name in own for own in optimizer.state.values())


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_gradients_are_unscaled_in_full_precision(dtype, path):
    """2e-5 / 65536 is below what float16 has; and a 0-d parameter is one like another."""
    found = []
    for shape in ((4,), ()):
        p = torch.nn.Parameter(torch.ones(shape, dtype=dtype))
        ways = {"master_weights": True, "state_dtype": torch.float32}
        optimizer = isostep_torch.AdamW([p], lr=0.1, eps=1e-12, weight_decay=0.0, **ways, **path)
        scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
        scaler.scale((p.float() * 1e-9).sum()).backward()
        scaler.step(optimizer)
        found.append(p.detach().float().flatten()[0])
    for value in found:
        torch.testing.assert_close(value, torch.tensor(0.9).to(dtype).float(), rtol=0, atol=2e-3)


def test_matrices_are_multiplied_in_their_own_dtype_under_autocast():
    found = []
    for on in (False, True):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(4, 3))
        optimizer = isostep_torch.Shampoo([p], lr=0.1)
        with torch.autocast("cpu", enabled=on):
            step(optimizer, 0)
        found.append(p.detach())
    assert torch.equal(*found)


# Errors.


@EVERY
def test_an_error_in_a_later_group_leaves_the_first_alone(path):
    a, b = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(4, 2))
    optimizer = load_optimizer("lamb")([{"params": [a]}, {"params": [b]}], lr=0.1, **path)
    a.grad = torch.ones(4)
    b.grad = torch.sparse_coo_tensor([[1]], torch.ones(1, 2), (4, 2), check_invariants=True)
    with pytest.raises(ValueError, match="lamb: sparse gradients need"):
        optimizer.step()
    assert a[0].item() == 1.0
    assert not any(optimizer.state.values())


def test_a_parameter_listed_twice_is_refused():
    p = torch.nn.Parameter(torch.ones(1))
    with (
        pytest.warns(UserWarning, match="duplicate"),
        pytest.raises(ValueError, match="a parameter stands twice in a group"),
    ):
        isostep_torch.SGD([p, p], lr=0.1)


def test_wrong_kinds_of_arguments_are_one_clear_line():
    net = torch.nn.Linear(2, 2)
    with pytest.raises(
        TypeError, match=r"from_rule needs a rule such as isostep.rule\('adamw'\), got 'adamw'"
    ):
        isostep_torch.from_rule("adamw", net.parameters())
    with pytest.raises(TypeError, match="load_optimizer needs a rule's name, got 3"):
        load_optimizer(3)
    with pytest.raises(TypeError, match="param_groups needs a module or named parameters"):
        isostep_torch.param_groups(net.parameters())
    with pytest.raises(ValueError, match="layer_decay must be a finite number > 0, got -2"):
        isostep_torch.param_groups(net, layer_decay=-2)


@EVERY
def test_an_expanded_parameter_is_refused_before_anything_is_written(path):
    p, q = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(1).expand(3))
    optimizer = isostep_torch.SGD([p, q], lr=0.1, **path)
    p.grad, q.grad = torch.ones(3), torch.ones(3)
    with pytest.raises(ValueError, match=r"sgd: params\[\d\] is read-only; pass a writable copy"):
        optimizer.step()
    assert p[0].item() == 1.0


@EVERY
def test_numbers_beyond_a_dtype_are_infinite_in_it(path):
    def update(p, g, t, /, *, lr, top):
        from isostep import nm

        return -lr * nm.minimum(nm.maximum(g, -1e300), top)

    hyper = {"lr": isostep.domains.Real(0.5), "top": isostep.domains.Real(1e300)}
    rule = isostep.Rule(name="far", update=update, hyper=hyper).bind()
    p = torch.nn.Parameter(torch.zeros(3))
    p.grad = torch.tensor([1.0, -2.0, 1e30])
    isostep_torch.from_rule(rule, [p], **path).step()
    assert p.tolist() == [-0.5, 1.0, torch.tensor(-0.5e30).item()]
