"""Rules that look at the loss, which a closure returns or ``step(loss=...)`` hands in."""

import numpy as np
import pytest
import torch

import isostep
from isostep import StepError
from isostep_torch import AdamW, MoMo, MoMoAdam

HYPER = {"lr": 0.3, "weight_decay": 0.1, "lb": 0.1, "use_fstar": True}


def closure_of(p, target):
    def closure():
        p.grad = None
        loss = ((p - target) ** 2).sum()
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False}, {"capturable": True}])
@pytest.mark.parametrize("make", [MoMo, MoMoAdam])
def test_the_closures_loss_and_a_given_one_take_the_references_steps(make, options):
    target = torch.arange(4, dtype=torch.float64)
    twins = [torch.nn.Parameter(torch.full((4,), 5.0, dtype=torch.float64)) for _ in range(2)]
    first, second = (make([p], **HYPER, **options) for p in twins)
    rule = isostep.rule(make.definition.name, **HYPER)
    reference = isostep.backend("numpy:reference")
    point = [np.full(4, 5.0)]
    state = reference.init(rule, point)
    for _ in range(6):
        number = float(np.sum((point[0] - target.numpy()) ** 2))
        reference.step(rule, point, [2 * (point[0] - target.numpy())], state, loss=number)
        assert first.step(closure_of(twins[0], target)).item() == pytest.approx(number, rel=1e-12)
        second.step(loss=closure_of(twins[1], target)())
        for p in twins:
            np.testing.assert_allclose(p.detach().numpy(), point[0], rtol=1e-12)
    kept = first.param_groups[0]["shared"]
    assert not kept["loss"].requires_grad
    np.testing.assert_allclose(kept["fstar"].item(), state.group["fstar"], rtol=1e-11)


def test_without_a_loss_the_error_says_what_to_hand_in():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.raises(StepError, match=r"momo needs the input 'loss'.*loss=0-d value"):
        MoMo([p]).step()
    with pytest.raises(StepError, match="adamw takes no input 'loss'"):
        AdamW([p]).step(loss=1.0)
    assert torch.equal(p.detach(), torch.ones(3))
