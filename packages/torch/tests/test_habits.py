"""What training loops do around an optimizer: schedulers, hooks, groups, scalers, averages, compiling, checkpoints."""

from __future__ import annotations

import copy
import gc
import time
import weakref
from functools import partial
from threading import Thread

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import lr_scheduler as schedulers

import isostep
import isostep_torch
from isostep_torch import load_optimizer
from isostep_torch.stepping import Stepping

PATHS = [{"fused": True}, {"foreach": True}, {"fused": False, "foreach": False}]
IDS = ["fused", "foreach", "loop"]


def tensors(shapes=((5, 3), (7,)), dtype=torch.float64):
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, dtype=dtype)) for s in shapes]


def fill(params, k):
    torch.manual_seed(100 + k)
    for p in params:
        p.grad = torch.randn_like(p)


SCHEDULERS = {
    "lambda": lambda o: schedulers.LambdaLR(o, lambda k: 0.9**k),
    "multiplicative": lambda o: schedulers.MultiplicativeLR(o, lambda k: 0.9),
    "step": lambda o: schedulers.StepLR(o, 3),
    "multistep": lambda o: schedulers.MultiStepLR(o, [2, 5]),
    "constant": lambda o: schedulers.ConstantLR(o),
    "linear": lambda o: schedulers.LinearLR(o),
    "exponential": lambda o: schedulers.ExponentialLR(o, 0.9),
    "polynomial": lambda o: schedulers.PolynomialLR(o),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 7),
    "restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3, 2),
    "cyclic": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, 3, cycle_momentum=True),
    "onecycle": lambda o: schedulers.OneCycleLR(o, 0.2, total_steps=12),
    "sequential": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o), schedulers.ExponentialLR(o, 0.9)], [4]
    ),
    "chained": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o), schedulers.ExponentialLR(o, 0.9)]
    ),
    "swa": lambda o: torch.optim.swa_utils.SWALR(o, 0.05, 4),
    "plateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=1),
}
PEERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adamw": (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.1}),
}


@pytest.mark.parametrize("rule", PEERS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_of_torch_as_with_torchs_own(name, rule):
    """Its learning rate, and the momentum or betas that it cycles; saved and loaded in mid-run."""
    theirs, hyper = PEERS[rule]
    params, twins = tensors(), tensors()
    pairs = []
    for ps, made in ((params, load_optimizer(rule)), (twins, theirs)):
        optimizer = made([{"params": ps[:1]}, {"params": ps[1:], "lr": 0.03}], **hyper)
        pairs.append((ps, optimizer, SCHEDULERS[name](optimizer)))
    for k in range(12):
        for ps, optimizer, schedule in pairs:
            fill(ps, k)
            optimizer.step()
            schedule.step(*([1.0] if name == "plateau" else []))
        for a, b in zip(*(o.param_groups for _, o, _ in pairs), strict=True):
            for key in ("lr", "momentum", "betas"):
                assert a.get(key) == b.get(key)
        if k == 5:
            mine = pairs[0][1]
            mine.load_state_dict(copy.deepcopy(mine.state_dict()))
    for a, b in zip(params, twins, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("number", [float, torch.tensor])
@pytest.mark.parametrize("name", ["adamw", "lbfgs"])
def test_a_scheduler_may_end_at_zero_but_for_rounding(name, number):
    """torch's ``LinearLR`` multiplies from step to step, and may end below 0; truly negative rates stay errors."""
    (p,) = tensors([(3,)])
    optimizer = load_optimizer(name)([p], lr=number(0.1))
    scheduler = schedulers.LinearLR(optimizer, 0.7, 0.0, total_iters=3)

    def train():
        optimizer.zero_grad()
        p.square().sum().backward()
        return p.square().sum()

    for _ in range(3):
        optimizer.step(train)
        scheduler.step()
    assert -1e-8 < optimizer.param_groups[0]["lr"] < 0.0
    before = p.detach().clone()
    optimizer.step(train)
    assert torch.equal(p, before)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step(train)
    optimizer.param_groups[0]["lr"] = number(-1e-3)
    with pytest.raises(ValueError, match="lr must be >= 0, got -"):
        optimizer.step(train)


#: Of the first group, by the step before which it is made; torch.optim takes all of them in mid-run.
NESTEROV_CHANGES = {
    2: {"momentum": 0},
    4: {"momentum": 0.5},
    6: {"dampening": 0.3},
    8: {"momentum": 0.0},
    9: {"momentum": 0.7, "dampening": 0},
}


@pytest.mark.parametrize("options", PATHS, ids=IDS)
def test_nesterov_where_a_run_takes_its_momentum_away_is_plain_as_torchs(options):
    """In mid-run, in a group of its own, and from a state dict; who asks for it so is told at once."""
    found = []
    for made in (torch.optim.SGD, load_optimizer("sgd")):
        params = tensors()
        groups = [{"params": params[:1]}, {"params": params[1:], "momentum": 0}]
        hyper = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
        optimizer = made(groups, **hyper, **options)
        for k in range(12):
            optimizer.param_groups[0].update(NESTEROV_CHANGES.get(k, {}))
            if k == 3:
                saved = copy.deepcopy(optimizer.state_dict())
                optimizer = made([{"params": [p]} for p in params], **hyper, **options)
                optimizer.load_state_dict(saved)
            fill(params, k)
            optimizer.step()
        found.append(params)
        for given in ({"momentum": 0}, {"momentum": 0.9, "dampening": 0.1}):
            with pytest.raises(ValueError, match=r"[Nn]esterov.*momentum"):
                made(tensors(), lr=0.1, nesterov=True, **given)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", isostep.rules())
def test_rules_with_momentum_or_betas_can_be_cycled(name):
    """OneCycleLR looks for those names in the defaults, and finds them where the rule has them."""
    ndim = isostep.definition(name).ndim
    params = tensors([(4, 3)] if ndim else [(5,)])
    optimizer = load_optimizer(name)(params, lr=0.01)
    hyper = isostep.definition(name).hyper
    cycles = "momentum" in hyper or "betas" in hyper
    schedule = schedulers.OneCycleLR(optimizer, 0.02, total_steps=6, cycle_momentum=cycles)
    seen = set()
    for k in range(6):
        fill(params, k)
        own = isostep.definition(name)
        given = {n: {p: p.grad.abs() + 0.1 for p in params} for n in own.inputs}
        optimizer.step(**given, **dict.fromkeys(own.group_inputs, 0.7))
        schedule.step()
        group = optimizer.param_groups[0]
        seen.add((group["lr"], group.get("momentum"), group.get("betas")))
    assert len(seen) >= 4
    assert all(p.isfinite().all() for p in params)


@pytest.mark.parametrize("options", PATHS, ids=IDS)
def test_hooks_run_around_the_step(options):
    params = tensors()
    optimizer = load_optimizer("adam")(params, lr=0.1, **options)
    seen = []
    handles = [
        optimizer.register_step_pre_hook(lambda o, a, k: seen.append("before")),
        optimizer.register_step_post_hook(lambda o, a, k: seen.append("after")),
        optimizer.register_state_dict_pre_hook(lambda o: seen.append("saving")),
        optimizer.register_state_dict_post_hook(lambda o, s: seen.append("saved")),
        optimizer.register_load_state_dict_pre_hook(lambda o, s: seen.append("loading")),
        optimizer.register_load_state_dict_post_hook(lambda o: seen.append("loaded")),
    ]
    fill(params, 0)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["before", "after", "saving", "saved", "loading", "loaded"]
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert len(seen) == 6
    assert not optimizer._optimizer_load_state_dict_pre_hooks


def test_a_load_hook_may_mend_what_would_be_refused():
    params, twins = tensors(), tensors()
    a, b = (load_optimizer(n)(p) for n, p in (("adam", params), ("adamw", twins)))
    fill(params, 0)
    a.step()
    saved = a.state_dict()
    with pytest.raises(ValueError, match="adamw: the state dict was saved by 'adam'"):
        b.load_state_dict(saved)

    def rename(_, state):
        state["param_groups"] = [{**g, "rule": "adamw"} for g in state["param_groups"]]

    b.register_load_state_dict_pre_hook(rename)
    b.load_state_dict(saved)
    assert torch.equal(b.state[twins[0]]["exp_avg"], a.state[params[0]]["exp_avg"])
    assert b.state[twins[0]]["exp_avg"] is not a.state[params[0]]["exp_avg"]


def test_an_error_while_loading_leaves_the_optimizer_as_it_was():
    named = [(n, p) for n, p in zip("ab", tensors([(3,), (3,)]), strict=True)]
    optimizer = load_optimizer("adam")(named, lr=0.1)
    params = [p for _, p in named]
    fill(params, 0)
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    kept = [optimizer.state[p]["exp_avg"] for p in params]

    def broken(change):
        state = copy.deepcopy(before)
        change(state)
        return state

    def swap(state):
        state["param_groups"][0]["param_names"].reverse()
        state["param_groups"][0]["lr"] = 7.0

    def shape(state):
        state["param_groups"][0]["lr"] = 7.0
        state["state"][1]["exp_avg_sq"] = torch.zeros(4)

    def lost(state):
        del state["state"][0]["exp_avg"]

    def shorter(state):
        state["param_groups"][0]["params"].pop()

    for change, text in (
        (swap, "adam: the state dict has parameter 'b' where this optimizer has 'a'; reorder it"),
        (shape, r"state exp_avg_sq of parameter 1 has shape \(4,\), expected \(3,\)"),
        (lost, r"state of parameter 0 has \['exp_avg_sq'\], expected \['exp_avg', 'exp_avg_sq'\]"),
        (shorter, "doesn't match the size of optimizer's group"),
    ):
        with pytest.raises(ValueError, match=text):
            optimizer.load_state_dict(broken(change))
        assert optimizer.param_groups[0]["lr"] == 0.1
        assert all(optimizer.state[p]["exp_avg"] is k for p, k in zip(params, kept, strict=True))
    optimizer.load_state_dict(before)


def test_loading_copies():
    """A run that goes on does not change the state dict that another was loaded from."""
    params, twins = tensors(), tensors()
    a, b = (load_optimizer("adam")(p, lr=0.1) for p in (params, twins))
    fill(params, 0)
    a.step()
    b.load_state_dict(a.state_dict())
    kept = a.state[params[0]]["exp_avg"].clone()
    fill(twins, 1)
    b.step()
    assert torch.equal(a.state[params[0]]["exp_avg"], kept)


def test_named_parameters_and_groups_that_come_later():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
    optimizer = load_optimizer("adam")(model[0].named_parameters(), lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    fill(list(model.parameters()), 0)
    optimizer.step()
    kept = model[1].weight.detach().clone()
    optimizer.add_param_group({"params": list(model[1].named_parameters()), "lr": 0.5})
    optimizer.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.5]
    assert (model[1].weight != kept).all()
    assert [optimizer.state[p]["step"].item() for p in model.parameters()] == [2, 2, 1, 1]
    assert optimizer.state_dict()["param_groups"][1]["param_names"] == ["weight", "bias"]
    with pytest.raises(ValueError, match="kahan and master_weights"):
        optimizer.add_param_group(
            {"params": [("x", torch.ones(2))], "kahan": True, "master_weights": True}
        )
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize("options", PATHS, ids=IDS)
def test_scaled_gradients_unscaled_in_the_step_or_before_it(options):
    """GradScaler leaves CPU gradients to the step; calling unscale_ first, as for clipping, gives the same bits."""
    ends = []
    for early in (False, True):
        params = tensors(dtype=torch.float32)
        optimizer = load_optimizer("adamw")(params, lr=0.1, **options)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        for k in range(6):
            optimizer.zero_grad()
            torch.manual_seed(k)
            factor = float("inf") if k == 2 else 1.0
            loss = sum((torch.randn_like(p) * p).sum() * factor for p in params)
            scaler.scale(loss).backward()
            if early:
                scaler.unscale_(optimizer)
            before = [p.detach().clone() for p in params]
            scaler.step(optimizer)
            scaler.update()
            for p, b in zip(params, before, strict=True):
                assert torch.equal(p, b) == (k == 2)
        assert [optimizer.state[p]["step"].item() for p in params] == [5, 5]
        assert not hasattr(optimizer, "found_inf")
        ends.append([p.detach() for p in params])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_where_reading_found_inf_would_wait_the_scaler_does_it():
    p = torch.nn.Parameter(torch.ones(2, device="meta"))
    assert not load_optimizer("adam")([p])._step_supports_amp_scaling
    assert load_optimizer("adam")([p], capturable=True)._step_supports_amp_scaling


@pytest.mark.parametrize(
    "options", [{"fused": True}, {"capturable": True}], ids=["fused", "capturable"]
)
def test_a_compiled_training_step_compiles_once(options):
    """The optimizer's step is one clean break of the graph, and no step recompiles."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    model, twin = (torch.nn.Linear(3, 1) for _ in range(2))
    twin.load_state_dict(model.state_dict())
    optimizer, other = (
        load_optimizer("adamw")(m.parameters(), lr=0.1, **options) for m in (model, twin)
    )
    x = torch.randn(8, 3)

    def train(model, optimizer):
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    compiled = torch.compile(train, backend="eager")
    for k in range(6):
        for o in (optimizer, other):
            o.param_groups[0]["lr"] = 0.1 / (1 + k)
        with torch.compiler.set_stance("fail_on_recompile" if k > 1 else "default"):
            compiled(model, optimizer)
        train(twin, other)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def step_with(optimizer, p, g):
    p.grad = g
    optimizer.step()
    return p.detach().clone()


@pytest.mark.parametrize(
    "options", [{}, *PATHS, {"capturable": True}], ids=["automatic", *IDS, "capturable"]
)
def test_a_step_that_is_traced_is_repeated(options):
    """``make_fx`` repeats the operations that its dispatch mode has seen; kernels write by address, past it."""
    found = []
    for traced in (False, True):
        (p,) = tensors([(3,)])
        optimizer = load_optimizer("sgd")([p], lr=0.1, momentum=0.9, **options)
        train = partial(step_with, optimizer, p)
        g = torch.arange(3.0, dtype=p.dtype)
        before = optimizer.path
        train(g)
        again = make_fx(train)(g) if traced else train
        if not traced:  # tracing takes a step, too
            train(g)
        with torch.no_grad():
            for k in range(3):
                again(g * k)
        found.append((train(g), optimizer.state[p]["momentum_buffer"]))
        assert optimizer.path == before
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_averaged_weights_and_batch_statistics():
    """SWA's loop: average the model now and then, then take its batch statistics anew."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)
    )
    optimizer = load_optimizer("sgd")(model.parameters(), lr=0.05, momentum=0.9)
    averages = {
        "swa": torch.optim.swa_utils.AveragedModel(model),
        "ema": torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
        ),
    }
    schedule = torch.optim.swa_utils.SWALR(optimizer, 0.01, 3)
    data = [torch.randn(16, 3) + 1 for _ in range(4)]
    seen = []
    for x in data * 3:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        schedule.step()
        seen.append(model[0].weight.detach().clone())
        for average in averages.values():
            average.update_parameters(model)
    torch.testing.assert_close(averages["swa"].module[0].weight, torch.stack(seen).mean(0))
    blend = seen[0]
    for w in seen[1:]:
        blend = 0.5 * blend + 0.5 * w
    torch.testing.assert_close(averages["ema"].module[0].weight, blend)
    torch.optim.swa_utils.update_bn(data, averages["swa"])
    assert averages["swa"].module[1].num_batches_tracked == len(data)


def test_clipped_gradients_and_zero_grad():
    params = tensors()
    optimizer = load_optimizer("sgd")(params, lr=1.0)
    before = [p.detach().clone() for p in params]
    fill(params, 0)
    torch.nn.utils.clip_grad_norm_(params, 0.5)
    optimizer.step()
    moved = torch.cat([(p - b).flatten() for p, b in zip(params, before, strict=True)])
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-5)
    optimizer.zero_grad(set_to_none=False)
    assert all((p.grad == 0).all() for p in params)


def test_parameters_that_move_to_other_memory_are_found_again():
    params, twins = tensors(), tensors()
    a, b = (load_optimizer("adam")(p, lr=0.1) for p in (params, twins))
    for k in range(4):
        for each, opt in ((params, a), (twins, b)):
            fill(each, k)
            opt.step()
        params[0].data = params[0].data.clone()
    assert all(torch.equal(x, y) for x, y in zip(params, twins, strict=True))


@pytest.mark.parametrize("options", PATHS, ids=IDS)
def test_parameters_may_lie_with_their_channels_last_and_change_that(options):
    torch.manual_seed(0)
    start = torch.randn(4, 3, 2, 5, dtype=torch.float64)
    p, twin = (torch.nn.Parameter(start.clone()) for _ in range(2))
    p.data = p.data.to(memory_format=torch.channels_last)
    a, b = (load_optimizer("adamw")([x], lr=0.1, **options) for x in (p, twin))
    for k in range(6):
        g = torch.randn_like(start)
        if k == 3:
            p.data = p.data.contiguous()  # its state lies as before
        p.grad = g.clone() if k % 2 else g.to(memory_format=torch.channels_last)
        twin.grad = g.clone()
        a.step()
        b.step()
        torch.testing.assert_close(p, twin, rtol=1e-13, atol=1e-14)
        for name in ("exp_avg", "exp_avg_sq"):
            found, wanted = (o.state[x][name] for o, x in ((a, p), (b, twin)))
            torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("same_place", [True, False])
@pytest.mark.parametrize("options", PATHS, ids=IDS)
def test_a_parameter_that_has_another_shape_is_refused(options, same_place):
    """Its state no longer fits, and a kernel that knew its shape would read past its end."""
    p = torch.nn.Parameter(torch.ones(40))
    optimizer = load_optimizer("adam")([p], lr=0.1, **options)
    for _ in range(2):
        p.grad = torch.ones(40)
        optimizer.step()
    short = p.data[:3]
    p.data = short if same_place else short.clone()
    p.grad, before = torch.ones(3), short.clone()
    with pytest.raises(ValueError, match="state exp_avg of params"):
        optimizer.step()
    assert torch.equal(p, before)
    assert optimizer.state[p]["step"] == 2


@pytest.mark.parametrize("options", PATHS, ids=IDS)
def test_a_parameter_that_leaves_the_device_of_its_state_is_refused(options):
    """A kernel that went by the last step's addresses would read memory that is not there."""
    p = torch.nn.Parameter(torch.ones(40))
    optimizer = load_optimizer("adam")([p], lr=0.1, **options)
    p.grad = torch.ones(40)
    for _ in range(2):
        optimizer.step()
    elsewhere = torch.nn.Parameter(torch.empty(40, device="meta"))
    torch.utils.swap_tensors(p, elsewhere)
    p.grad = torch.empty(40, device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        optimizer.step()
    assert optimizer.state[p]["step"] == 2
    torch.utils.swap_tensors(p, elsewhere)
    optimizer.step()
    assert optimizer.state[p]["step"] == 3
    torch.testing.assert_close(p.detach(), torch.full((40,), 0.7))


def test_an_optimizer_lets_its_parameters_go():
    params = tensors()
    optimizer = load_optimizer("adam")(params, lr=0.1)
    fill(params, 0)
    optimizer.step()
    seen = weakref.ref(params[0])
    del params, optimizer
    gc.collect()
    assert seen() is None


@pytest.mark.parametrize("options", [*PATHS, {"capturable": True}])
def test_a_group_that_is_taken_away_is_let_go(options):
    gone, stays = tensors()
    optimizer = load_optimizer("adam")([{"params": [gone]}, {"params": [stays]}], lr=0.1, **options)
    fill([gone, stays], 0)
    optimizer.step()
    del optimizer.param_groups[0], optimizer.state[gone]
    optimizer.step()
    seen = weakref.ref(gone)
    del gone
    gc.collect()
    assert seen() is None


def test_threads_that_step_one_optimizer_take_turns(monkeypatch):
    """A kernel reads where its arrays lie while others of Python's threads run."""
    inside, most, one = [], [], Stepping._step_group

    def slow(*given):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        one(*given)
        inside.pop()

    params = tensors()
    optimizer = load_optimizer("adam")(params, lr=0.1)
    fill(params, 0)
    monkeypatch.setattr(Stepping, "_step_group", slow)
    threads = [Thread(target=optimizer.step) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert most == [1, 1, 1]
    assert copy.deepcopy(optimizer).state_dict()["state"][0]["step"] == 3


@pytest.mark.parametrize("name", ["DAdaptAdam", "DAdaptSGD", "Prodigy"])
def test_a_growth_without_bound_is_infinite_as_in_the_authors_packages(name):
    """Their own default, and what the groups of their state dicts hold."""
    infinite, none = tensors(), tensors()
    theirs = load_optimizer(name)(infinite, growth_rate=float("inf"))
    ours = load_optimizer(name)(none)
    for k in range(4):
        for params, optimizer in ((infinite, theirs), (none, ours)):
            fill(params, k)
            optimizer.step()
        assert all(map(torch.equal, infinite, none))
        if k == 1:
            ours.load_state_dict(theirs.state_dict())
            theirs.load_state_dict(ours.state_dict())
    assert {*theirs.state[infinite[0]]} == {*ours.state[none[0]]}


def test_what_the_module_lists():
    assert "SparseAdam" in dir(isostep_torch)
    assert isostep_torch.list_optimizers("ad*") == [n for n in isostep.rules() if n[:2] == "ad"]
