"""Tensors that are not stored as rules see them: complex numbers, and rows of sparse gradients."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import isostep
from isostep.state import StepError
from isostep.values import REDUCTIONS
from isostep_torch import SparseAdam, from_rule, load_optimizer

pytestmark = pytest.mark.whole  # not for want of a package: minutes of work, and once is enough

PATHS = [
    {"fused": True},
    {"foreach": True},
    {"fused": False, "foreach": False},
    {"capturable": True},
]
IDS = ["fused", "foreach", "loop", "capturable"]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("options", PATHS, ids=IDS)
@pytest.mark.parametrize("name", isostep.rules())
def test_complex_parameters_are_pairs_of_reals(name, options):
    torch.manual_seed(0)
    complexes = [torch.nn.Parameter(torch.randn(s, dtype=torch.complex128)) for s in [(3, 2), ()]]
    reals = [torch.nn.Parameter(torch.view_as_real(p.detach()).clone()) for p in complexes]
    a, b = (load_optimizer(name)(ps, lr=0.05, **options) for ps in (complexes, reals))
    allowed = isostep.definition(name).ndim
    if allowed is not None and not {q.ndim for q in reals} <= set(allowed):
        complexes[0].grad = torch.ones_like(complexes[0])
        with pytest.raises(StepError, match=r"params\[0\] must have"):
            a.step()
        return
    own = isostep.definition(name).inputs
    losses = dict.fromkeys(isostep.definition(name).group_inputs, 0.7)
    for k in range(4):
        torch.manual_seed(k)
        for p, q in zip(complexes, reals, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = torch.view_as_real(p.grad).clone()
        a.step(**{n: {p: p.grad for p in complexes} for n in own}, **losses)
        b.step(**{n: {q: q.grad for q in reals} for n in own}, **losses)
        for p, q in zip(complexes, reals, strict=True):
            assert torch.equal(torch.view_as_real(p.detach()), q.detach())
            for n, value in b.state[q].items():
                found = a.state[p][n]
                assert torch.equal(
                    torch.view_as_real(found) if found.is_complex() else found, value
                )
                assert found.is_complex() == (value.shape == q.shape)


def test_complex_states_are_torchs():
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(3, dtype=torch.complex128))]
    twins = copy.deepcopy(params)
    mine, theirs = load_optimizer("adamw")(params, lr=0.1), torch.optim.AdamW(twins, lr=0.1)
    for k in range(6):
        torch.manual_seed(k)
        params[0].grad = torch.randn_like(params[0])
        twins[0].grad = params[0].grad.clone()
        mine.step()
        theirs.step()
        if k == 2:
            before = theirs.state_dict()
            theirs.load_state_dict(copy.deepcopy(mine.state_dict()))
            mine.load_state_dict(before)
        torch.testing.assert_close(params[0], twins[0], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(
        mine.state[params[0]]["exp_avg"], theirs.state[twins[0]]["exp_avg"], rtol=1e-13, atol=0
    )


# Sparse gradients.


def table(rows=6, dtype=torch.float64):
    torch.manual_seed(0)
    return torch.nn.Parameter(torch.randn(rows, 3, dtype=dtype))


def sparse(p, rows, k, extra=()):
    """A gradient for these rows, some of them named twice."""
    torch.manual_seed(k)
    index = torch.tensor([[*rows, *extra]])
    values = torch.randn(index.shape[1], *p.shape[1:], dtype=p.dtype)
    return torch.sparse_coo_tensor(index, values, p.shape, check_invariants=True)


def elementwise(name):
    rule = isostep.definition(name).bind(lr=0.05)
    program = isostep.program(rule)
    return not (
        program.generic
        or program.group_inputs
        or any(n.op in REDUCTIONS or n.op == "size" for n in program.live)
    )


ELEMENTWISE = [n for n in isostep.rules() if elementwise(n)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("options", PATHS, ids=IDS)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_only_the_rows_of_a_sparse_gradient_change(name, options):
    """The rows named step as if they were a parameter alone; the others and their state keep their bits."""
    p, dense = table(), torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    rows = [4, 1]
    alone = torch.nn.Parameter(p.detach()[rows].clone())
    before = p.detach().clone()
    a = load_optimizer(name)([p, dense], lr=0.05, maximize=True, **options)
    b = load_optimizer(name)([alone], lr=0.05, maximize=True, **options)
    own = isostep.definition(name).inputs
    for k in range(4):
        p.grad = sparse(p, rows, k, extra=[4])
        dense.grad = torch.ones_like(dense)
        alone.grad = p.grad.to_dense()[rows]
        full = p.grad.to_dense()
        a.step(**{n: {p: full, dense: dense.grad} for n in own})
        b.step(**{n: {alone: alone.grad} for n in own})
        assert torch.equal(p.detach()[rows], alone.detach())
        assert torch.equal(p.detach()[[0, 2, 3, 5]], before[[0, 2, 3, 5]])
        for n, value in b.state[alone].items():
            found = a.state[p][n]
            assert torch.equal(found[rows] if value.ndim else found, value)
            assert value.ndim == 0 or not found[[0, 2, 3, 5]].any() or _starts_elsewhere(name)
    assert p.grad.is_sparse
    assert (dense != 1).all()


def _starts_elsewhere(name):
    return isostep.definition(name).init is not None


@pytest.mark.parametrize("name", sorted(set(isostep.rules()) - set(ELEMENTWISE)))
def test_rules_that_look_across_rows_refuse_sparse_gradients(name):
    p = table()
    optimizer = load_optimizer(name)([p], lr=0.05)
    p.grad = sparse(p, [1], 0)
    before = p.detach().clone()
    with pytest.raises(StepError, match=f"{name}: sparse gradients need a rule of single elements"):
        optimizer.step()
    assert torch.equal(p, before)


@pytest.mark.parametrize("options", PATHS, ids=IDS)
def test_sparse_adam_is_torchs(options):
    p, q = table(), table()
    hyper = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3}
    mine, theirs = SparseAdam([p], **hyper, **options), torch.optim.SparseAdam([q], **hyper)
    for k in range(30):
        p.grad = sparse(p, [k % 6, (k * k + 1) % 6] if k != 3 else [], k)
        q.grad = p.grad.clone()
        mine.step()
        theirs.step()
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)
        if k == 10:
            mine.load_state_dict(copy.deepcopy(theirs.state_dict()))
    other = torch.nn.Parameter(p.detach().clone())
    back = torch.optim.SparseAdam([other], **hyper)
    back.load_state_dict(copy.deepcopy(mine.state_dict()))
    other.grad, q.grad = (sparse(p, [1], 99) for _ in range(2))
    back.step()
    theirs.step()
    # torch takes its corrections from a number here and from a float32 tensor there
    torch.testing.assert_close(other, q, rtol=1e-7, atol=1e-7)
    mine.step(lambda: setattr(p, "grad", sparse(p, [1], 99)))
    for n in ("exp_avg", "exp_avg_sq", "step"):
        torch.testing.assert_close(
            mine.state[p][n], torch.as_tensor(theirs.state[q][n], dtype=mine.state[p][n].dtype)
        )
    assert type(pickle.loads(pickle.dumps(mine))) is SparseAdam


PEERS = {"sgd": {"lr": 0.1}, "adagrad": {"lr": 0.1, "lr_decay": 0.1, "eps": 1e-3}}


@pytest.mark.parametrize("options", PATHS, ids=IDS)
@pytest.mark.parametrize("name", [n for n in PEERS if n in isostep.rules()])
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # of torch's own Adagrad
def test_sparse_gradients_as_in_torch(name, options):
    theirs_class = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad}[name]
    p, q = table(), table()
    mine = load_optimizer(name)([p], **PEERS[name], **options)
    theirs = theirs_class([q], **PEERS[name])
    for k in range(30):
        p.grad = sparse(p, [k % 6, (k * k + 1) % 6], k)
        q.grad = p.grad.clone()
        mine.step()
        theirs.step()
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


def wide(p, g):
    p.grad_dtype = torch.float32
    return g.float()


@pytest.mark.parametrize("given", [lambda _, g: g.to_sparse(1), wide], ids=["sparse", "wide"])
@pytest.mark.parametrize("way", ["kahan", "master_weights"])
@pytest.mark.parametrize("path", PATHS, ids=IDS)
def test_what_is_beside_a_parameter_follows_gradients_that_are_stored_otherwise(way, given, path):
    """Updates far below a half's spacing: with a stale master copy they would all be lost."""
    found = []
    for make in (lambda _, g: g, given):
        p = torch.nn.Parameter(torch.ones(4, 3, dtype=torch.bfloat16))
        if make is wide and not hasattr(p, "grad_dtype"):
            pytest.skip("this torch has no gradients of another dtype")
        optimizer = load_optimizer("sgd")([p], lr=1e-3, momentum=0.9, **{way: True}, **path)
        for _ in range(20):
            p.grad = make(p, torch.full((4, 3), 0.5, dtype=torch.bfloat16))
            optimizer.step()
        found.append((p, *optimizer.state[p].values()))
    assert found[0][0][0, 0] < 0.96
    assert all(map(torch.equal, *found))


def test_an_embedding_with_sparse_gradients_trains():
    torch.manual_seed(0)
    layer = torch.nn.Embedding(10, 4, sparse=True)
    optimizer = load_optimizer("addsign")(layer.parameters(), lr=0.01)
    before = layer.weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.tensor([2, 7, 2])).square().sum().backward()
        optimizer.step()
    changed = (layer.weight.detach() != before).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [2, 7]


def test_composed_rules_take_sparse_gradients_if_their_pieces_do():
    p = table()
    p.grad = sparse(p, [1], 0)
    decay = isostep.compose(
        isostep.rule("sgd", lr=0.1), isostep.pieces.weight_decay(weight_decay=0.1)
    )
    from_rule(decay, [p]).step()
    clip = isostep.compose(
        isostep.pieces.clip_by_global_norm(max_norm=1.0), isostep.rule("sgd", lr=0.1)
    )
    with pytest.raises(StepError, match="depends on more than one row"):
        from_rule(clip, [p]).step()
