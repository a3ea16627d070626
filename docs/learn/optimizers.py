"""From SGD to hypergradients, formula by formula: the source of optimizers.ipynb, run by build.py."""

# %% [markdown]
# # From SGD to hypergradients
#
# Every optimizer below is written out in a few lines of NumPy and checked against isostep's rule of that name, step
# by step over Rosenbrock's valley. Beside each stands a slip that is met in the wild, and what catches it: comparing
# parameters at every step, in float64, with no hyperparameter at a value that hides it.

# %%
import numpy as np

import isostep
from isostep.plot import SURFACES, path

surface, start, steps = SURFACES["rosenbrock"], (-0.5, 1.4), 30


def walk(update, *state):
    """The points of 30 steps of update(p, g, *state, t) -> (u, *state)."""
    p, points = np.array(start), [np.array(start)]
    for t in range(1, steps + 1):
        g = np.array(surface.gradient(*p))
        u, *state = update(p, g, *state, t)
        p = p + u
        points.append(p)
    return np.array(points)


def apart(points, rule):
    """The largest distance from the rule's own path, at any step."""
    return float(np.max(np.abs(points - path(rule, surface, start=start, steps=steps).points)))


zero = np.zeros(2)

# %% [markdown]
# ## SGD
# Down the gradient: $u_t = -\eta g_t$.

# %%
sgd = isostep.rule("sgd", lr=1e-3)
right = apart(walk(lambda p, g, t: (-1e-3 * g,)), sgd)
print(f"written out: {right:.1e}")
assert right < 1e-14

# %% [markdown]
# ## Momentum
# A sum of past gradients that fades: $b_t = \mu b_{t-1} + g_t$, $u_t = -\eta b_t$. With dampening the gradient is
# weighted by $1 - d$, **but not in the first step**, where torch.optim.SGD sets $b_1 = g_1$. The usual slip
# dampens it too.


# %%
def momentum(p, g, b, t):
    """The first step takes the gradient whole."""
    b = g if t == 1 else 0.9 * b + (1 - 0.5) * g
    return -1e-3 * b, b


def dampened_at_once(p, g, b, t):
    """The slip."""
    b = 0.9 * b + (1 - 0.5) * g
    return -1e-3 * b, b


rule = isostep.rule("sgd", lr=1e-3, momentum=0.9, dampening=0.5)
right, wrong = apart(walk(momentum, zero), rule), apart(walk(dampened_at_once, zero), rule)
print(f"written out: {right:.1e}   first step dampened: {wrong:.1e}")
assert right < 1e-13 < 1e-2 < wrong

# %% [markdown]
# ## RMSProp
# Each element by the root of the running average of its squares: $v_t = \alpha v_{t-1} + (1 - \alpha) g_t^2$,
# $u_t = -\eta\, g_t / (\sqrt{v_t} + \epsilon)$. A slip that still goes downhill now and then: the update without the
# gradient, $-\eta / (\sqrt{v_t} + \epsilon)$.


# %%
def rmsprop(p, g, v, t):
    """The gradient over the root of its mean square."""
    v = 0.95 * v + 0.05 * g**2
    return -0.01 * g / (np.sqrt(v) + 1e-3), v


def without_the_gradient(p, g, v, t):
    """The slip."""
    v = 0.95 * v + 0.05 * g**2
    return -0.01 / (np.sqrt(v) + 1e-3), v


rule = isostep.rule("rmsprop", lr=0.01, alpha=0.95, eps=1e-3)
right, wrong = apart(walk(rmsprop, zero), rule), apart(walk(without_the_gradient, zero), rule)
print(f"written out: {right:.1e}   without the gradient: {wrong:.1e}")
assert right < 1e-13 < 1e-2 < wrong

# %% [markdown]
# ## Adam
# RMSProp's denominator under momentum's numerator, both averages corrected for starting at zero by $1 - \beta^t$.
# Written $(1 - \beta)^t$ it is right at $t = 1$, so a test of one step passes it.


# %%
def adam(correction):
    """Adam with one of two corrections, a function of beta and t."""

    def update(p, g, m, v, t):
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        c1, c2 = correction(0.8, t), correction(0.95, t)
        return -0.05 * (m / c1) / (np.sqrt(v / c2) + 1e-3), m, v

    return update


rule = isostep.rule("adam", lr=0.05, betas=(0.8, 0.95), eps=1e-3)
true, slip = (
    walk(adam(lambda b, t: 1 - b**t), zero, zero),
    walk(adam(lambda b, t: (1 - b) ** t), zero, zero),
)
own = path(rule, surface, start=start, steps=steps).points
print(f"written out: {apart(true, rule):.1e}   (1 - beta)^t: {np.max(np.abs(slip - own)):.1e}")
print(
    f"after one step: {np.max(np.abs(slip[1] - own[1])):.1e}, after two: {np.max(np.abs(slip[2] - own[2])):.1e}"
)
assert apart(true, rule) < 1e-13
assert np.max(np.abs(slip[1] - own[1])) < 1e-13 < 1e-3 < np.max(np.abs(slip[2] - own[2]))

# %% [markdown]
# ## AddSign
# The gradient, twice as long where its sign agrees with its own running average, nothing where it does not:
# $u_t = -\eta\,(\alpha + \mathrm{sign}(g_t)\,\mathrm{sign}(m_t))\,g_t$. The average is updated **first**; with the
# old one, the first step sees $\mathrm{sign}(0) = 0$.


# %%
def addsign(new_first):
    """AddSign with the new average, or with the old one."""

    def update(p, g, m, t):
        old, m = m, 0.9 * m + 0.1 * g
        agreement = np.sign(g) * np.sign(m if new_first else old)
        return -5e-4 * (1.0 + agreement) * g, m

    return update


rule = isostep.rule("addsign", lr=5e-4, beta=0.9, alpha=1.0)
right, wrong = apart(walk(addsign(True), zero), rule), apart(walk(addsign(False), zero), rule)
print(f"written out: {right:.1e}   with the old average: {wrong:.1e}")
assert right < 1e-13 < 1e-3 < wrong

# %% [markdown]
# ## Hypergradient
# The learning rate by its own gradient: $\eta_t = \eta_{t-1} + \beta \langle g_t, d_{t-1} \rangle$, with $d_{t-1}$
# the direction of the step before. One number for all elements; learned element by element it is another rule.


# %%
def sgd_hd(whole):
    """One learning rate for all elements, or one for each."""

    def update(p, g, previous, lr, t):
        lr = lr + 1e-8 * (np.sum(g * previous) if whole else g * previous)
        return -lr * g, g, lr

    return update


rule = isostep.rule("sgd_hd", lr=5e-4, hypergrad_lr=1e-8)
right = apart(walk(sgd_hd(True), zero, 5e-4), rule)
wrong = apart(walk(sgd_hd(False), zero, 5e-4), rule)
print(f"written out: {right:.1e}   element by element: {wrong:.1e}")
assert right < 1e-13 < 1e-6 < wrong

# %% [markdown]
# ## All of them
# Each with the learning rate of a grid that ends lowest. `isostep plot surface -o paths.html` makes a page of this with
# sliders.

# %%
names = ("sgd", "rmsprop", "adam", "addsign")
figure = isostep.plot.figure([path(n, surface, start=start, steps=steps) for n in names])
