"""Random lives: the same events, drawn from a seed, befall optimizers that differ in path alone; all must stay alike.

What a step keeps for the next must give way to whatever users do between two steps, in any order of events. Fixed
orders are in ``test_usual_steps.py`` and ``test_between_steps.py``.
"""

from __future__ import annotations

import copy
import io
import pickle
import random

import pytest
import torch

from isostep_torch import from_rule

cases = pytest.importorskip(
    "isostep_conformance.cases", reason="rules with settings are the suite's"
)

pytestmark = pytest.mark.whole  # not for want of a package: minutes of work, and once is enough

#: The first keeps nothing from step to step but what users see.
PATHS = {
    "forgetful": {"fused": False, "foreach": False},
    "loop": {"fused": False, "foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "any": {},
}
SHAPES = [(), (1,), (5,), (0,), (3, 4), (2, 3, 2), (17,), (0, 3), (7, 1), (2, 3, 2, 2)]
#: Events of one life; between two of them are up to two usual steps.
LENGTH = 30
#: In float64, of the largest element.
BOUND = 1e-9


class World:
    """An optimizer and its parameters; ``rng`` draws alike in all worlds, ``own`` for this one alone."""

    def __init__(self, rule, path, seed):
        self.rule, self.path, self.saved = rule, path, None
        self.rng, self.own = random.Random(seed), random.Random(f"{seed}/{path}")
        ranks = rule.rule.ndim
        self.shapes = [s for s in SHAPES if ranks is None or len(s) in ranks]
        groups = [self.group() for _ in range(self.rng.choice([1, 2, 3]))]
        self.optimizer = self.made(groups)

    def made(self, groups):
        return from_rule(self.rule, groups, **PATHS[self.path])

    def group(self):
        params = [self.parameter() for _ in range(self.rng.choice([1, 2, 5]))]
        return {"params": params, "maximize": self.rng.random() < 0.3}

    def parameter(self):
        return torch.nn.Parameter(self.numbers(self.rng.choice(self.shapes)))

    def numbers(self, shape):
        """Random numbers that lie in memory in a random way."""
        generator = torch.Generator().manual_seed(self.rng.randrange(1 << 40))
        return self.laid(torch.randn(shape, dtype=torch.float64, generator=generator))

    def laid(self, x):
        way = self.rng.randrange(8)
        if way == 0 and x.ndim > 1:
            return x.mT.contiguous().mT
        if way == 1 and x.ndim:
            return torch.stack([x, x], dim=-1)[..., 0]
        if way == 2:
            return torch.cat([x.new_zeros(3), x.reshape(-1)])[3:].view(x.shape)
        return x.clone()

    @property
    def groups(self):
        return self.optimizer.param_groups

    @property
    def params(self):
        return [p for g in self.groups for p in g["params"]]

    def shape(self):
        return [[tuple(p.shape) for p in g["params"]] for g in self.groups]

    def some(self):
        """A parameter that has been stepped, or None."""
        known = [p for p in self.params if self.optimizer.state.get(p)]
        return self.rng.choice(known) if known else None

    def forget(self, p):
        self.optimizer.state.pop(p, None)

    def step(self):
        if self.path == "forgetful":
            self.optimizer._forget()
        given = {p: p.grad.abs() + 0.1 for p in self.params if p.grad is not None}
        rule = self.rule
        inputs = dict.fromkeys(rule.input_names, given) | dict.fromkeys(rule.group_input_names, 0.7)
        self.optimizer.step(**inputs)

    def give(self, missing=0.0):
        for p in self.params:
            number, new = self.numbers(p.shape), self.rng.random() < 0.5
            if self.rng.random() < missing:
                p.grad = None
            elif p.requires_grad:
                if new or p.grad is None:
                    p.grad = number
                else:
                    p.grad.copy_(number)


def a_step(world):
    world.give()
    world.step()


def a_step_of_some(world):
    world.give(missing=0.3)
    world.step()


def a_step_with_zeros(world):
    world.optimizer.zero_grad(set_to_none=world.rng.random() < 0.5)
    world.step()


def another_rate(world):
    group = world.rng.choice(world.groups)
    if isinstance(group.get("lr"), float):
        group["lr"] *= world.rng.choice([0.5, 0.9, 1.1])


def another_direction(world):
    group = world.rng.choice(world.groups)
    group["maximize"] = not group["maximize"]


def another_path(world):
    group = world.rng.choice(world.groups)
    group.update({"fused": None, "foreach": None} | PATHS[world.own.choice(list(PATHS))])


def a_group_more(world):
    world.optimizer.add_param_group(world.group())


def a_group_less(world):
    if len(world.groups) > 1:
        gone = world.groups.pop(world.rng.randrange(len(world.groups)))
        list(map(world.forget, gone["params"]))


def a_parameter_more(world):
    params = world.rng.choice(world.groups)["params"]
    params.insert(world.rng.randrange(len(params) + 1), world.parameter())


def a_parameter_less(world):
    params = world.rng.choice(world.groups)["params"]
    if len(params) > 1:
        world.forget(params.pop(world.rng.randrange(len(params))))


def a_parameter_in_place_of_another(world):
    params = world.rng.choice(world.groups)["params"]
    k = world.rng.randrange(len(params))
    world.forget(params[k])
    params[k] = world.parameter()


def another_order(world):
    world.rng.shuffle(world.groups)
    world.rng.shuffle(world.rng.choice(world.groups)["params"])


def other_data(world):
    for p in world.params:
        if world.rng.random() < 0.5:
            p.data = world.laid(p.data * 0.9)


def data_in_one_buffer(world):
    params = world.rng.choice(world.groups)["params"]
    parts = torch.cat([p.data.reshape(-1) for p in params]).split([p.numel() for p in params])
    for p, part in zip(params, parts, strict=True):
        p.data = part.view(p.shape)


def frozen_or_thawed(world):
    p = world.rng.choice(world.params)
    p.requires_grad_(not p.requires_grad)


def other_state(world):
    if (p := world.some()) is not None:
        own = world.optimizer.state[p]
        for n in sorted(own.keys() - {"step"}):
            way = world.rng.randrange(4)
            if way == 0:
                own[n].mul_(0.5)
            elif way == 1:
                own[n] = own[n] * 0.5
            elif way == 2:
                own[n].data = own[n].data * 0.5


def no_state(world):
    if (p := world.some()) is not None:
        way = world.rng.randrange(3)
        if way == 0:
            world.forget(p)
        elif way == 1:
            world.optimizer.state[p] = {}
        else:
            world.optimizer.state.clear()


def another_count(world):
    if (p := world.some()) is not None:
        count = torch.tensor(world.rng.choice([3.0, 20.0]))
        if world.rng.random() < 0.5:
            world.optimizer.state[p]["step"] = count
        else:
            world.optimizer.state[p]["step"].copy_(count)


def remembered(world):
    world.saved = world.shape(), copy.deepcopy(world.optimizer.state_dict())


def rewound(world):
    if world.saved is not None and world.saved[0] == world.shape():
        world.optimizer.load_state_dict(world.saved[1])


def loaded(world):
    world.optimizer.load_state_dict(world.optimizer.state_dict())


def loaded_by_another(world):
    file = io.BytesIO()
    torch.save(world.optimizer.state_dict(), file)
    file.seek(0)
    found = torch.load(file, weights_only=True)
    world.optimizer = world.made([{"params": g["params"]} for g in world.groups])
    world.optimizer.load_state_dict(found)


def a_copy(world):
    grads = [p.grad for p in world.params]
    if world.rng.random() < 0.5:
        world.optimizer = copy.deepcopy(world.optimizer)
    else:
        world.optimizer = pickle.loads(pickle.dumps(world.optimizer))
    for p, g in zip(world.params, grads, strict=True):
        p.grad = g


def state_before_its_step(world):
    world.optimizer.init_state()


def a_look_at_the_evaluation_point(world):
    with world.optimizer.evaluating():
        pass


def an_error(world):
    """After which nothing has changed."""
    world.give()
    group = world.rng.choice(world.groups)
    if not world.rule.values or all(p.grad is None for p in group["params"]):
        return
    name = world.rng.choice(sorted(world.rule.values))
    before = copy.deepcopy(
        ([p.detach() for p in world.params], list(world.optimizer.state.values()))
    )
    kept, group[name] = group[name], "nonsense"
    with pytest.raises(ValueError, match="nonsense"):
        world.step()
    group[name] = kept
    now = [p.detach() for p in world.params], list(world.optimizer.state.values())
    torch.testing.assert_close(now, before, rtol=0, atol=0, equal_nan=True)


#: Event -> how often, beside others.
EVENTS = {
    **dict.fromkeys(
        [
            a_step_with_zeros, another_direction, another_path, a_group_more, a_group_less, a_parameter_more,
            a_parameter_less, a_parameter_in_place_of_another, another_order, data_in_one_buffer, frozen_or_thawed,
            other_state, no_state, remembered, a_copy, state_before_its_step,
            a_look_at_the_evaluation_point, an_error,
        ],
        1,
    ),
    **dict.fromkeys([a_step_of_some, another_rate, another_count, other_data, rewound, loaded, loaded_by_another], 2),
}  # fmt: skip


def near(found, wanted, what):
    """Within ``BOUND`` of the largest element; NaN where the other is."""
    found, wanted = torch.as_tensor(found).detach(), torch.as_tensor(wanted).detach()
    scale = wanted[wanted.isfinite()].abs().max().item() if wanted.isfinite().any() else 0.0
    torch.testing.assert_close(
        found,
        wanted,
        rtol=0,
        atol=BOUND * max(scale, 1e-3),
        equal_nan=True,
        msg=lambda m: f"{what}: {m}",
    )


def alike(world, reference):
    """The same parameters, state, shared state and hyperparameters."""
    for group, other in zip(world.groups, reference.groups, strict=True):
        own = group.keys() - {"params", "fused", "foreach", "shared"}
        assert {n: group[n] for n in own} == {n: other[n] for n in own}
        assert group.get("shared", {}).keys() == other.get("shared", {}).keys()
        for n, value in other.get("shared", {}).items():
            near(group["shared"][n], value, n)
        for p, q in zip(group["params"], other["params"], strict=True):
            near(p, q, "a parameter")
            mine, theirs = (w.optimizer.state.get(x, {}) for w, x in ((world, p), (reference, q)))
            assert mine.keys() == theirs.keys()
            for n, value in theirs.items():
                near(mine[n], value, n)


def live(rule, seed):
    """One life in every world; what has happened is told where they part."""
    drawn = random.Random(seed)
    events = []
    for event in drawn.choices(list(EVENTS), list(EVENTS.values()), k=LENGTH):
        events += [event, *[a_step] * drawn.randrange(3)]
    reference, *others = [World(rule, path, seed) for path in PATHS]
    for k, event in enumerate(events):
        try:
            for world in (reference, *others):
                world.rng = random.Random(f"{seed}/{k}")
                event(world)
            for world in others:
                alike(world, reference)
        except Exception as error:
            past = ", ".join(e.__name__ for e in events[: k + 1])
            error.add_note(f"seed {seed}, path {world.path}, after: {past}")
            raise


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", cases.names())
def test_whatever_happens_between_steps_every_path_takes_those_of_the_loop(name):
    subject, *_ = cases.of_rule(name)
    live(subject.rule, subject.id)
