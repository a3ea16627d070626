"""The step within backward: the very bits of the step after it, and no more gradients than are on their way."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import weakref

import pytest
import torch
from torch.optim import lr_scheduler as schedulers

import isostep
from isostep.state import StepError
from isostep_torch import from_rule, load_optimizer, step_in_backward

PATHS = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "loop": {"fused": False, "foreach": False},
}


def bound(name):
    """The rule of a name, with a learning rate where it has no default."""
    hyper = isostep.definition(name).hyper
    return isostep.rule(name, **({"lr": 0.01} if "lr" in hyper else {}))


def alone(rule):
    """Whether a rule steps each array alone, said in other words than the code does."""
    parts = [c.part for c in rule.components]
    inputs = any(p.inputs or p.group_inputs for p in parts)
    sums = any(p.measure is not None for p in parts)
    return not (inputs or sums or rule.group_names)


ALONE = [n for n in isostep.rules() if alone(bound(n))]
TIED = [n for n in isostep.rules() if n not in ALONE]


class Net(torch.nn.Module):
    """A net whose parameters are of several shapes; one is used twice, and one only in some steps."""

    def __init__(self, ranks=None, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        shapes = {"a": (6, 4), "b": (4,), "c": (4, 6), "d": (6, 3, 2), "e": (5, 4), "f": (6, 1)}
        for name, shape in shapes.items():
            if ranks is None or len(shape) in ranks:
                p = torch.nn.Parameter(torch.randn(shape).to(dtype))
                self.register_parameter(name, p)

    def loss(self, k):
        """Of step k, which leaves ``e`` out if it is odd."""
        torch.manual_seed(100 + k)
        own, dtype = dict(self.named_parameters()), self.a.dtype
        x = torch.randn(8, 6).to(dtype)
        for _ in range(2):
            x = torch.tanh(x @ self.a + own.get("b", 0)) @ self.c
        if "d" in own:
            x = x * self.d.flatten(1).sum(1)
        total = (x @ self.f).abs().square().mean()
        if k % 2 == 0:
            total = total + (self.e.abs() ** 2).sum() * 0.1
        return total


def bits(tensor):
    """What a tensor is to the bit."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    flat = tensor.detach().contiguous().view(-1)
    return tensor.dtype, tuple(tensor.shape), flat.view(torch.uint8).tolist()


def contents(params, optimizer):
    """Everything that a step may change, to the bit."""
    found = []
    for p in params:
        own = optimizer.state.get(p, {})
        found.append((bits(p), {n: bits(v) for n, v in sorted(own.items())}))
    return found


def trained(made, inside, steps=4, dtype=torch.float32, ranks=None, each=None, check=True):
    """What a run leaves after each step, and its net and optimizer; ``inside``: stepped in backward."""
    net = Net(ranks, dtype)
    optimizer = made(net)
    handle = step_in_backward(optimizer) if inside else None
    found = []
    for k in range(steps):
        if each is not None:
            each(k, net, optimizer, handle)
        net.loss(k).backward()
        if inside and check:
            assert all(p.grad is None for p in net.parameters())
        optimizer.step()
        optimizer.zero_grad()
        found.append(contents(net.parameters(), optimizer))
    return found, net, optimizer


def same_bits(made, **given):
    """Compare a run with its twin that steps after backward; the twin's steps must have changed something."""
    plain, *_ = trained(made, False, **given)
    inside, *_ = trained(made, True, **given)
    for k, (ours, theirs) in enumerate(zip(inside, plain, strict=True)):
        assert ours == theirs, f"step {k}"
    assert plain[0] != plain[1]


def ranks_of(name):
    return isostep.definition(name).ndim


@pytest.mark.parametrize("name", ALONE)
def test_every_rule_of_single_arrays_has_the_same_bits(name):
    same_bits(
        lambda net: from_rule(bound(name), net.parameters(), fused=True), ranks=ranks_of(name)
    )


@pytest.mark.parametrize("path", ["foreach", "loop"])
@pytest.mark.parametrize("name", ALONE)
@pytest.mark.sampled(4)
def test_so_it_has_on_other_paths(name, path):
    made = lambda net: from_rule(bound(name), net.parameters(), **PATHS[path])  # noqa: E731
    same_bits(made, ranks=ranks_of(name))


@pytest.mark.parametrize("name", TIED)
def test_a_rule_of_the_group_is_refused_before_anything_is_hooked(name):
    net = Net(ranks_of(name))
    optimizer = from_rule(bound(name), net.parameters())
    with pytest.raises(StepError) as caught:
        step_in_backward(optimizer)
    text = str(caught.value)
    assert text.startswith(f"{name}: backward steps each array alone, and this one")
    assert text.endswith("call step() after backward")
    assert not any(p._post_accumulate_grad_hooks for p in net.parameters())
    assert not optimizer._optimizer_step_pre_hooks


def test_the_refusals_say_why():
    said = {}
    for name in TIED:
        with pytest.raises(StepError) as caught:
            step_in_backward(from_rule(bound(name), Net(ranks_of(name)).parameters()))
        said[name] = str(caught.value)
    assert "needs hessian_diag beside the gradients" in said["sophia"]
    assert "needs loss beside the gradients" in said["momo"]
    assert "sums over the group" in said["prodigy"]
    assert "has state of the whole group (mu_product)" in said["nadam"]
    assert "has state of the whole group (lr_max" in said["schedule_free_adamw"]


PIECES = isostep.pieces


def composed(*parts, rule="adamw"):
    return isostep.compose(*(p for p in parts if p.part.before), isostep.rule(rule, lr=0.01))


def test_pieces_of_single_arrays_are_taken_and_the_global_norm_is_not():
    rule = isostep.compose(
        PIECES.centralize(),
        PIECES.clip_by_norm(0.1),
        isostep.rule("adamw", lr=0.01),
        PIECES.lookahead(k=2),
    )
    for options in PATHS.values():
        same_bits(lambda net, options=options: from_rule(rule, net.parameters(), **options))
    whole = isostep.compose(PIECES.clip_by_global_norm(1.0), isostep.rule("adamw"))
    with pytest.raises(
        StepError, match=r"clip_by_global_norm\+adamw: .* this one sums over the group"
    ):
        step_in_backward(from_rule(whole, Net().parameters()))
    noisy = isostep.compose(PIECES.gradient_noise(0.1), isostep.rule("adamw"))
    with pytest.raises(StepError, match="needs noise beside the gradients"):
        step_in_backward(from_rule(noisy, Net().parameters()))


STORAGE = {
    "bfloat16": (torch.bfloat16, {}),
    "float16": (torch.float16, {}),
    "master": (torch.bfloat16, {"master_weights": True}),
    "kahan": (torch.bfloat16, {"kahan": True}),
    "stochastic": (torch.bfloat16, {"stochastic_rounding": True, "rounding_seed": 7}),
    "stochastic, float16": (torch.float16, {"stochastic_rounding": True}),
    "state in bfloat16": (torch.float32, {"state_dtype": torch.bfloat16}),
    "state in float32": (torch.bfloat16, {"state_dtype": torch.float32}),
    "eight bits": (torch.float32, {"state_dtype": "mxfp8_e4m3"}),
    "eight bits of halves": (
        torch.bfloat16,
        {"state_dtype": "mxfp8_e5m2", "stochastic_rounding": True},
    ),
    "complex": (torch.complex64, {}),
    "double": (torch.float64, {}),
    "maximize": (torch.float32, {"maximize": True}),
    "maximize halves": (torch.bfloat16, {"maximize": True, "master_weights": True}),
    "capturable": (torch.float32, {"capturable": True, "fused": None}),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", STORAGE)
@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_every_way_of_storing_has_the_same_bits(kind, path, name):
    dtype, options = STORAGE[kind]
    options = PATHS[path] | options
    same_bits(lambda net: from_rule(bound(name), net.parameters(), **options), dtype=dtype)


@pytest.mark.parametrize("kind", ["stochastic", "eight bits of halves"])
def test_noise_goes_by_the_place_in_the_whole_optimizer(kind):
    """Alike parameters with alike gradients are rounded by other numbers."""
    dtype, options = STORAGE[kind]

    def run(inside):
        params = [torch.nn.Parameter(torch.linspace(-1, 1, 64).to(dtype)) for _ in range(4)]
        groups = [{"params": params[:2]}, {"params": params[2:]}]
        optimizer = from_rule(bound("adam"), groups, **options)
        if inside:
            step_in_backward(optimizer)
        for _ in range(3):
            sum((p**2).sum() for p in params).backward()
            optimizer.step()
            optimizer.zero_grad()
        return contents(params, optimizer)

    plain = run(False)
    assert run(True) == plain
    assert len({str(bits) for bits, _ in plain}) == 4


@pytest.mark.parametrize("path", PATHS)
def test_sparse_gradients_step_their_rows(path):
    def run(inside):
        torch.manual_seed(0)
        table = torch.nn.Embedding(9, 4, sparse=True)
        optimizer = load_optimizer("adam")(table.parameters(), lr=0.1, **PATHS[path])
        if inside:
            step_in_backward(optimizer)
        found = []
        for k in range(3):
            table(torch.tensor([k, 2 * k, k])).square().sum().backward()
            assert not inside or table.weight.grad is None
            optimizer.step()
            optimizer.zero_grad()
            found.append(contents(table.parameters(), optimizer))
        return found

    assert run(True) == run(False)


def test_a_parameter_without_a_gradient_keeps_its_count():
    _, net, optimizer = trained(
        lambda net: load_optimizer("adamw")(net.parameters()), True, steps=3
    )
    assert float(optimizer.state[net.e]["step"]) == 2
    assert float(optimizer.state[net.a]["step"]) == 3  # used twice in each


# Groups, schedulers, what comes and goes.


def grouped(net, cls="adamw", **options):
    named = list(net.parameters())
    groups = [{"params": named[:2], "lr": 0.03, "weight_decay": 0.2}, {"params": named[2:4]}]
    return load_optimizer(cls)(
        [*groups, {"params": named[4:], "maximize": True}], lr=0.01, **options
    )


@pytest.mark.parametrize("path", PATHS)
def test_groups_have_their_own_numbers_and_schedulers_change_them(path):
    known = {}

    def each(k, net, optimizer, handle):
        if k == 0:
            known[id(optimizer)] = schedulers.ExponentialLR(optimizer, 0.7)
        else:
            known[id(optimizer)].step()
        optimizer.param_groups[1]["betas"] = (0.5 + 0.1 * k, 0.99)

    same_bits(lambda net: grouped(net, **PATHS[path]), each=each, steps=5)


def test_a_tensor_or_a_schedule_may_be_a_number():
    rate = lambda done: 0.1 / (1 + done)  # noqa: E731
    same_bits(lambda net: load_optimizer("adamw")(net.parameters(), lr=torch.tensor(0.1)))
    same_bits(lambda net: load_optimizer("adamw")(net.parameters(), lr=rate))


@pytest.mark.parametrize("path", PATHS)
def test_groups_that_are_added_and_parameters_that_are_thawed_are_stepped_all_the_same(path):
    inside_from = []

    def made(net):
        net.d.requires_grad_(False)
        rest = [p for p in net.parameters() if p is not net.f]
        return load_optimizer("adamw")(rest, lr=0.01, stochastic_rounding=True, **PATHS[path])

    def each(k, net, optimizer, handle):
        if k == 1:
            optimizer.add_param_group({"params": [net.f], "lr": 0.5})
        if k == 2:
            net.d.requires_grad_(True)
            net.b.requires_grad_(False)
        if k == 4:
            net.b.requires_grad_(True)
        if handle is not None:
            inside_from.append(len(handle._each.hooks))

    given = {"each": each, "steps": 6, "check": False, "dtype": torch.bfloat16}
    same_bits(made, **given)
    assert inside_from == [4, 4, 5, 6, 6, 6]  # hooked by the next step()


@pytest.mark.parametrize("which", [0, 2])
def test_a_parameter_that_is_taken_away_is_left_alone(which):
    """Whether its gradient is the first that is whole or among the last."""
    net = Net()
    optimizer = grouped(net)
    handle = step_in_backward(optimizer)
    gone = optimizer.param_groups.pop(which)["params"]
    before = [p.detach().clone() for p in gone]
    net.loss(0).backward()
    assert all(torch.equal(p, b) and p.grad is not None for p, b in zip(gone, before, strict=True))
    assert not any(p._post_accumulate_grad_hooks for p in gone)
    kept = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(p.grad is None for p in kept)
    assert len(handle._each.hooks) == len(kept) == 4


def test_a_parameter_that_is_put_in_the_place_of_another_is_hooked_by_the_next_step():
    net = Net()
    optimizer = load_optimizer("adamw")(net.parameters())
    step_in_backward(optimizer)
    old = net.b
    net.b = torch.nn.Parameter(torch.zeros(4))
    optimizer.param_groups[0]["params"][1] = net.b
    for _ in range(2):
        net.loss(0).backward()
        optimizer.step()
        assert not old._post_accumulate_grad_hooks
        assert net.b._post_accumulate_grad_hooks
        optimizer.zero_grad()
    net.loss(0).backward()
    assert net.b.grad is None
    assert float(optimizer.state[net.b]["step"]) == 3


def test_gradients_add_up_while_it_is_paused():
    def run(inside):
        net = Net()
        optimizer = load_optimizer("adamw")(net.parameters(), lr=0.1)
        handle = step_in_backward(optimizer) if inside else None
        found = []
        for k in range(0, 9, 3):
            if inside:
                with handle.paused():
                    with handle.paused():
                        net.loss(k).backward()
                    net.loss(k + 1).backward()
                    assert net.a.grad is not None
                assert found[-1:] == [] or contents(net.parameters(), optimizer) == found[-1]
            else:
                net.loss(k).backward()
                net.loss(k + 1).backward()
            net.loss(k + 2).backward()
            if inside:  # a parameter that the last one leaves out has its sum still
                left = [n for n, p in net.named_parameters() if p.grad is not None]
                assert left == (["e"] if k % 2 else [])
            optimizer.step()
            optimizer.zero_grad()
            found.append(contents(net.parameters(), optimizer))
        return found

    assert run(True) == run(False)


def test_a_pause_ends_with_an_error():
    handle = step_in_backward(load_optimizer("adamw")((net := Net()).parameters()))
    with pytest.raises(ZeroDivisionError), handle.paused():
        raise ZeroDivisionError
    net.loss(0).backward()
    assert net.a.grad is None


def test_a_gradient_that_was_there_before_is_part_of_the_sum():
    def run(inside):
        net = Net()
        optimizer = load_optimizer("adamw")(net.parameters())
        net.loss(0).backward()
        if inside:
            step_in_backward(optimizer)
        net.loss(2).backward()
        optimizer.step()
        return contents(net.parameters(), optimizer)

    assert run(True) == run(False)


def test_a_closure_is_called_once_and_steps_once():
    def run(inside):
        net = Net()
        optimizer = load_optimizer("adamw")(net.parameters())
        if inside:
            step_in_backward(optimizer)
        losses = []
        for k in range(3):

            def closure(k=k):
                optimizer.zero_grad()
                loss = net.loss(k)
                loss.backward()
                losses.append(loss.item())
                return loss

            assert optimizer.step(closure).item() == losses[-1]
        return losses, contents(net.parameters(), optimizer)

    assert run(True) == run(False)
    assert len(run(True)[0]) == 3


# State dicts, copies, options.


def test_a_state_dict_is_loaded_in_mid_run():
    """New groups and entries are those that backward steps from then on."""

    def each(k, net, optimizer, handle):
        if k == 2:
            saved = pickle.loads(pickle.dumps(optimizer.state_dict()))
            saved["param_groups"][0]["lr"] = 0.5
            for own in saved["state"].values():
                own["exp_avg"] = own["exp_avg"] * 2
            optimizer.load_state_dict(saved)

    for options in PATHS.values():
        same_bits(lambda net, options=options: grouped(net, **options), each=each, steps=5)


def test_state_dicts_are_alike():
    inside, plain = (trained(grouped, inside)[2].state_dict() for inside in (True, False))
    assert inside["param_groups"] == plain["param_groups"]
    found = [
        {k: {n: bits(v) for n, v in own.items()} for k, own in saved["state"].items()}
        for saved in (inside, plain)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_have_no_hooks(how):
    _, net, optimizer = trained(grouped, True, steps=2)
    if how == "deepcopy":
        other, copied = copy.deepcopy((net, optimizer))
    else:
        other, copied = pickle.loads(pickle.dumps((net, optimizer)))
    before = contents(other.parameters(), copied)
    assert before == contents(net.parameters(), optimizer)
    other.loss(0).backward()
    assert all(p.grad is not None for p in other.parameters())
    assert contents(other.parameters(), copied) == before
    copied.step()
    net.loss(0).backward()
    assert contents(other.parameters(), copied) == contents(net.parameters(), optimizer)


def test_removed_hooks_step_no_more_and_the_run_goes_on():
    def each(k, net, optimizer, handle):
        if handle is not None and k == 2:
            handle.remove()
            handle.remove()
            assert not any(p._post_accumulate_grad_hooks for p in net.parameters())
            assert not optimizer._optimizer_step_pre_hooks
        if handle is not None and k == 4:
            with step_in_backward(optimizer):
                net.loss(k).backward()
                assert net.a.grad is None
        elif k == 4:
            net.loss(k).backward()
            optimizer.step()
            optimizer.zero_grad()

    same_bits(grouped, each=each, steps=6, check=False)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("first", [True, False])
def test_an_option_that_changes_with_the_way_of_stepping_comes_into_force(first, path):
    """Who steps next keeps state anew, though the other has kept it last."""

    def each(k, net, optimizer, handle):
        if k == 2:
            for group in optimizer.param_groups:
                group["state_dtype"] = torch.float64
        if handle is not None and k == (2 if first else 0):
            handle.remove()
        if handle is not None and k == 2 and not first:
            step_in_backward(optimizer)

    made = lambda net: grouped(net, **PATHS[path])  # noqa: E731
    same_bits(made, each=each, check=False)
    _, _, optimizer = trained(made, True, each=each, check=False)
    assert {own["exp_avg"].dtype for own in optimizer.state.values()} == {torch.float64}


def test_a_parameter_is_stepped_by_one_handle():
    net = Net()
    optimizer = load_optimizer("adamw")(net.parameters())
    handle = step_in_backward(optimizer)
    with pytest.raises(
        StepError, match=r"^adamw: params\[0\] is stepped in backward already; call"
    ):
        step_in_backward(optimizer)
    with pytest.raises(StepError, match=r"^sgd: params\[0\] is stepped in backward already"):
        step_in_backward(load_optimizer("sgd")([net.f]))
    handle.remove()
    step_in_backward(optimizer)


def test_who_is_not_one_of_ours_is_refused():
    with pytest.raises(StepError, match=r"an optimizer of isostep_torch, got AdamW; see list_opt"):
        step_in_backward(torch.optim.AdamW(Net().parameters()))


def test_options_that_need_all_are_refused():
    net = Net()
    with pytest.raises(StepError, match="differentiable needs the graph"):
        step_in_backward(load_optimizer("adamw")(net.parameters(), differentiable=True))
    optimizer = load_optimizer("adamw")(net.parameters())
    observer = optimizer.observe()
    with pytest.raises(StepError, match=r"figures of observe\(\) are the group's"):
        step_in_backward(optimizer)
    observer.close()
    step_in_backward(optimizer)
    before = contents(net.parameters(), optimizer)
    with optimizer.observe(), pytest.raises(StepError, match=r"^adamw: .*figures of observe"):
        net.loss(0).backward()
    assert contents(net.parameters(), optimizer) == before


# Random lives: the same events befall two twins.

EVENTS = (
    "lr", "state_dtype", "reset", "load", "copy", "freeze", "thaw", "group", "accumulate", "pause", "remove",
    "attach", "write", "dtype", "count", "maximize",
)  # fmt: skip


class Life:
    """An optimizer, stepped in backward or after it."""

    def __init__(self, inside, seed, name, path):
        self.inside, self.rng = inside, random.Random(seed)
        self.net = Net(ranks_of(name))
        self.more = []
        self.optimizer = from_rule(bound(name), self.net.parameters(), **PATHS[path])
        self.handle = step_in_backward(self.optimizer) if inside else None
        self.k = 0

    def params(self):
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def backward(self):
        self.k += 1
        loss = self.net.loss(self.k)
        for p in self.more:
            loss = loss + (p.abs() ** 2).sum().to(loss.dtype)
        loss.backward()

    def step(self, pause=False):
        if pause and self.handle is not None:
            with self.handle.paused():
                self.backward()
        else:
            self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def befall(self):
        event = self.rng.choice(EVENTS)
        getattr(self, f"on_{event}")()
        for _ in range(self.rng.randrange(3)):
            self.step()
        return event

    def settle(self):
        """Options come into force with a parameter's next step, after it in all of the group that have state."""
        self.on_thaw()
        self.k += 1 - self.k % 2
        self.step()

    def on_lr(self):
        for group in self.optimizer.param_groups:
            if "lr" in group:
                group["lr"] = self.rng.choice([0.01, 0.002])

    def on_maximize(self):
        self.rng.choice(self.optimizer.param_groups)["maximize"] = self.rng.random() < 0.5

    def on_state_dtype(self):
        chosen = self.rng.choice([None, torch.bfloat16, torch.float64, "mxfp8_e4m3"])
        if chosen == "mxfp8_e4m3" and not self.optimizer._template.state_names:
            chosen = None
        for group in self.optimizer.param_groups:
            group["state_dtype"] = chosen
        self.settle()

    def on_reset(self):
        self.optimizer.state.clear()

    def on_load(self):
        self.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))

    def on_copy(self):
        self.net, self.more, self.optimizer = copy.deepcopy((self.net, self.more, self.optimizer))
        self.handle = step_in_backward(self.optimizer) if self.inside else None

    def on_freeze(self):
        self.rng.choice(self.params()).requires_grad_(False)
        self.net.a.requires_grad_(True)

    def on_thaw(self):
        for p in self.params():
            p.requires_grad_(True)

    def on_group(self):
        if len(self.more) < 3:
            torch.manual_seed(len(self.more))
            self.more.append(torch.nn.Parameter(torch.randn(3, 5)))
            self.optimizer.add_param_group({"params": [self.more[-1]]})

    def on_accumulate(self):
        if self.handle is not None:
            with self.handle.paused():
                self.backward()
        else:
            self.backward()
        self.step()

    def on_pause(self):
        self.step(pause=True)

    def on_remove(self):
        if self.handle is not None:
            self.handle.remove()
            self.handle = None

    def on_attach(self):
        if self.inside and self.handle is None:
            self.handle = step_in_backward(self.optimizer)

    def on_write(self):
        p = self.rng.choice(self.params())
        for n, v in self.optimizer.state.get(p, {}).items():
            if n != "step" and v.dtype is not torch.uint8:
                self.optimizer.state[p][n] = v.clone()
        with torch.no_grad():
            p.mul_(0.9)

    def on_count(self):
        p = self.rng.choice(self.params())
        if "step" in self.optimizer.state.get(p, {}):
            self.optimizer.state[p]["step"].fill_(7)

    def on_dtype(self):
        dtype = self.rng.choice([torch.float32, torch.float64])
        self.net.to(dtype)
        for p in self.more:
            p.data = p.data.to(dtype)
        self.settle()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["adamw", "sgd", "muon", "lamb"])
@pytest.mark.sampled(3)
def test_whatever_befalls_them_twins_stay_alike(name, path, seed):
    ours, theirs = (Life(inside, seed, name, path) for inside in (True, False))
    told = []
    for _ in range(25):
        told.append(ours.befall())
        assert theirs.befall() == told[-1]
        found = [contents(x.params(), x.optimizer) for x in (ours, theirs)]
        assert found[0] == found[1], told


# Errors.


def test_an_error_of_a_step_comes_out_of_backward_and_leaves_what_it_found():
    net = Net()
    optimizer = grouped(net)
    step_in_backward(optimizer)
    net.loss(0).backward()
    before = contents(net.parameters(), optimizer)
    for group in optimizer.param_groups:
        group["lr"] = -1.0
    with pytest.raises(ValueError, match=r"^adamw: lr must be >= 0, got -1.0"):
        net.loss(2).backward()
    assert contents(net.parameters(), optimizer) == before
    optimizer.zero_grad()
    for group, lr in zip(optimizer.param_groups, (0.03, 0.01, 0.01)):
        group["lr"] = lr
    net.loss(2).backward()
    plain = Net()
    other = grouped(plain)
    for k in (0, 2):
        plain.loss(k).backward()
        other.step()
        other.zero_grad()
    assert contents(net.parameters(), optimizer) == contents(plain.parameters(), other)


def test_a_step_that_fails_keeps_its_gradient_and_those_before_it_stay():
    net = Net()
    optimizer = load_optimizer("adamw")(net.parameters())
    step_in_backward(optimizer)
    net.loss(0).backward()
    order = []
    for n, p in net.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, n=n: order.append((n, p.grad is None)))
    first = bits(net.a)
    optimizer.state[net.a]["exp_avg"] = torch.zeros(2, 2)
    with pytest.raises(StepError, match="exp_avg"):
        net.loss(2).backward()
    assert bits(net.a) == first
    assert net.a.grad is not None
    assert [done for n, done in order if n != "a"] == [True] * len(order)
    assert all(float(optimizer.state[getattr(net, n)]["step"]) == 2 for n, _ in order)


def test_a_parameter_that_the_graph_needs_after_its_step_is_an_error():
    """Not a wrong gradient: the step tells autograd what it has written to, on every path."""
    for options in PATHS.values():
        w, v = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
        optimizer = load_optimizer("sgd")([w, v], lr=0.1, **options)
        step_in_backward(optimizer)
        late = torch.exp(v) * w.detach()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            (late.sum() + (3 * w).sum()).backward()
        assert float(optimizer.state[w].get("step", 1)) == 1


def test_a_gradient_scaler_is_told_that_it_comes_too_late():
    net = Net()
    optimizer = load_optimizer("adamw")(net.parameters())
    handle = step_in_backward(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(net.loss(0)).backward()
    with pytest.raises(StepError, match=r"^adamw: a GradScaler needs all gradients before a step"):
        scaler.step(optimizer)
    net.loss(2).backward()  # torch leaves the scaler's attributes with the optimizer
    assert net.a.grad is None
    handle.remove()
    optimizer = load_optimizer("adamw")(net.parameters())
    step_in_backward(optimizer)
    off = torch.amp.GradScaler("cpu", enabled=False)
    off.scale(net.loss(0)).backward()
    off.step(optimizer)

    def run(inside):
        net = Net()
        optimizer = load_optimizer("adamw")(net.parameters())
        handle = step_in_backward(optimizer) if inside else None
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        net.loss(7).backward()
        optimizer.step()
        optimizer.zero_grad()
        for k in range(3):
            if handle is not None:
                with handle.paused():
                    scaler.scale(net.loss(k)).backward()
            else:
                scaler.scale(net.loss(k)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        return contents(net.parameters(), optimizer)

    assert run(True) == run(False)


def test_processes_that_come_together_after_it_are_noticed_by_the_first_step(monkeypatch):
    net = Net()
    optimizer = load_optimizer("adamw")(net.parameters())
    handle = step_in_backward(optimizer)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(
        StepError, match=r"^adamw: a parameter is a plain tensor and several processes"
    ):
        net.loss(0).backward()
    handle.remove()
    with pytest.raises(
        StepError, match=r"^adamw: params\[0\] is a plain tensor and several processes"
    ):
        step_in_backward(optimizer)
    step_in_backward(optimizer, reduced=True)
    net.loss(0).backward()


def test_lazy_parameters_are_stepped_in_backward_once_they_are_there():
    net = torch.nn.LazyLinear(3)
    optimizer = load_optimizer("adamw")(net.parameters())
    step_in_backward(optimizer)
    for k in range(2):
        net(torch.ones(2, 4)).sum().backward()
        assert (net.weight.grad is None) == bool(k)
        optimizer.step()
        optimizer.zero_grad()
    assert float(optimizer.state[net.weight]["step"]) == 2


@pytest.mark.parametrize("path", PATHS)
def test_autocast_does_not_reach_into_the_step(path):
    def run(inside):
        net = Net(ranks_of("muon"))
        optimizer = load_optimizer("muon")(net.parameters(), lr=0.1, **PATHS[path])
        if inside:
            step_in_backward(optimizer)
        for k in range(2):
            with torch.autocast("cpu"):
                net.loss(k).backward()
                optimizer.step()
                optimizer.zero_grad()
        return contents(net.parameters(), optimizer)

    assert run(True) == run(False)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["double", "eight bits of halves"])
@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
def test_a_graph_of_the_gradient_is_not_gone_through(kind, path):
    dtype, options = STORAGE[kind]

    def run(inside):
        net = Net(dtype=dtype)
        optimizer = load_optimizer("adamw")(net.parameters(), lr=0.1, **PATHS[path], **options)
        if inside:
            step_in_backward(optimizer)
        for k in range(2):
            net.loss(k).backward(create_graph=True)
            optimizer.step()
            optimizer.zero_grad()
        assert not any(v.requires_grad for own in optimizer.state.values() for v in own.values())
        return contents(net.parameters(), optimizer)

    assert run(True) == run(False)


# Memory and lives.


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "master", "eight bits"])
def test_no_more_than_two_gradients_are_there_at_a_time(kind, path):
    """Of twelve: the one that is stepped, and the one that autograd is about to hand over."""
    dtype, options = STORAGE.get(kind, (torch.float32, {}))

    def most(inside):
        torch.manual_seed(0)
        net = torch.nn.Sequential(*(torch.nn.Linear(16, 16, bias=False) for _ in range(12)))
        net.to(dtype)
        there, peak = [], 0

        def see(p):
            nonlocal there, peak
            there = [r for r in there if r() is not None] + [weakref.ref(p.grad)]
            peak = max(peak, len(there))

        for p in net.parameters():
            p.register_post_accumulate_grad_hook(see)
        optimizer = load_optimizer("adamw")(net.parameters(), **PATHS[path] | options)
        if inside:
            step_in_backward(optimizer)
        for _ in range(3):
            net(torch.randn(4, 16, dtype=dtype)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return peak, sum(r() is not None for r in there)

    assert most(False)[0] == 12
    assert most(True) in ((1, 0), (2, 0))


def test_hooks_keep_nothing_alive():
    """Python cannot see a cycle through a hook of a tensor."""
    net = Net()
    optimizer = load_optimizer("adamw")(net.parameters())
    step_in_backward(optimizer)
    net.loss(0).backward()
    seen = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert seen() is None
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.warns(UserWarning, match="the optimizer is gone and steps nothing more; keep it"):
        net.loss(1).backward()
    assert all(map(torch.equal, before, net.parameters()))
    net.zero_grad()
    optimizer = load_optimizer("adamw")(net.parameters())
    handle = step_in_backward(optimizer)
    net.loss(0).backward()
    assert net.a.grad is None
    assert len(net.e._post_accumulate_grad_hooks) == 1  # the dead one's is gone
    gone = weakref.ref(net.a)
    del net, optimizer, handle
    gc.collect()
    assert gone() is None


def test_a_compiled_loop_takes_the_same_steps():
    def run(inside, compiled):
        torch._dynamo.reset()
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
        optimizer = load_optimizer("adamw")(net.parameters(), lr=0.1)
        if inside:
            step_in_backward(optimizer)

        def one(x):
            net(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        step = torch.compile(one, backend="eager") if compiled else one
        for k in range(3):
            torch.manual_seed(k)
            step(torch.randn(4, 5))
        return contents(net.parameters(), optimizer)

    assert run(True, True) == run(False, True) == run(True, False)


def test_checkpointed_activations_are_made_again_before_their_parameters_are_stepped():
    from torch.utils.checkpoint import checkpoint

    def run(inside):
        torch.manual_seed(0)
        layers = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(3))
        optimizer = load_optimizer("adamw")(layers.parameters(), lr=0.1)
        if inside:
            step_in_backward(optimizer)
        for k in range(3):
            torch.manual_seed(k)
            x = torch.randn(4, 6)
            for layer in [*layers, layers[0]]:  # the first one's weights are tied
                x = checkpoint(lambda x, layer=layer: torch.tanh(layer(x)), x, use_reentrant=False)
            x.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return contents(layers.parameters(), optimizer)

    assert run(True) == run(False)


PROCESSES = """
import datetime, os, sys
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
import isostep_torch
from isostep.state import StepError

rank, store = int(sys.argv[1]), distributed.FileStore(sys.argv[2], 2)
torch.set_num_threads(1)
patience = datetime.timedelta(seconds=60)
distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=patience)

def run(name, inside, summed_first):
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(6, 6) for _ in range(3)))
    for layer in net:
        fully_shard(layer)
    fully_shard(net)
    params = [p for p in net.parameters() if name != "muon" or p.ndim == 2]
    optimizer = isostep_torch.load_optimizer(name)(params, lr=0.01)
    if inside:
        isostep_torch.step_in_backward(optimizer)
    for k in range(4):
        torch.manual_seed(10 * k + rank)
        last = not summed_first or k % 2 == 1
        net.set_requires_gradient_sync(last)
        net(torch.randn(4, 6)).square().mean().backward()
        if last:
            assert not inside or all(p.grad is None for p in params)
            optimizer.step()
            net.zero_grad()
    found = [p.full_tensor() for p in params]
    for p in params:
        found += [getattr(v, "full_tensor", lambda: v)() for v in optimizer.state[p].values()]
    return found

for name in ("adamw", "lamb", "muon", "adafactor"):
    for summed_first in (False, True):
        plain, inside = (run(name, inside, summed_first) for inside in (False, True))
        assert len(plain) == len(inside) and all(map(torch.equal, plain, inside)), name

torch.manual_seed(0)
net = nn.Linear(3, 1)
optimizer = isostep_torch.AdamW(net.parameters())
try:
    isostep_torch.step_in_backward(optimizer)
except StepError as error:
    assert "params[0] is a plain tensor and several processes run" in str(error)
else:
    raise AssertionError("DistributedDataParallel would sum too late")
for p in net.parameters():
    p.register_hook(lambda g: distributed.nn.functional.all_reduce(g) / 2)
isostep_torch.step_in_backward(optimizer, reduced=True)
net(torch.full((2, 3), 1.0 + rank)).sum().backward()
found = [None, None]
distributed.all_gather_object(found, net.weight.detach())
assert net.weight.grad is None and torch.equal(*found)
distributed.destroy_process_group()
os._exit(0)  # now and then torch aborts at exit after a backward of FSDP2, hooks or none
"""


def test_shards_are_stepped_in_backward_and_plain_tensors_of_several_processes_are_refused(
    two_processes,
):
    two_processes(PROCESSES, timeout=240)
