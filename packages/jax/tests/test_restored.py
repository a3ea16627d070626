"""States that come from elsewhere: of NumPy's arrays or Python's numbers, and those that somebody cast."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isostep
import isostep_jax

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.ones(2, jnp.bfloat16)}


@pytest.mark.parametrize("name", ["adamw", "adafactor", "prodigy"])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_state_of_numpy_is_stepped_as_one_of_jax(name, grouped):
    tx = getattr(isostep_jax, name)(0.1, grouped=grouped)
    state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)[1]
    restored = jax.tree.map(np.asarray, state)._replace(count=1)
    found, wanted = (tx.update(PARAMS, s, PARAMS) for s in (restored, state))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert isinstance(a, jax.Array)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("wide", [False, True])
def test_group_values_may_be_numbers_of_python(wide):
    tx = isostep_jax.prodigy()
    state = tx.init(PARAMS)
    numbers = {n: float(v) for n, v in state.group.items()}
    with jax.enable_x64(wide):
        found = tx.update(PARAMS, state._replace(group=numbers), PARAMS)[1].group
    for n, v in tx.update(PARAMS, state, PARAMS)[1].group.items():
        assert found[n].dtype == jnp.float32
        assert float(found[n]) == float(v)


@pytest.mark.parametrize("count", [np.array(300), np.array(300, np.int32), 300])
def test_a_restored_count_may_be_carried_by_a_scan(count):
    """Also with x64, where NumPy's integers are JAX's of 64 bits."""
    tx = isostep_jax.adam()

    def body(carry, _):
        params, state = carry
        updates, state = tx.update(params, state, params)
        return (jax.tree.map(lambda p, u: p + u.astype(p.dtype), params, updates), state), None

    with jax.enable_x64(True):
        first = (PARAMS, tx.init(PARAMS)._replace(count=count))
        (_, state), _ = jax.lax.scan(body, first, length=3)
        assert int(state.count) == 303
        assert state.count.dtype == getattr(count, "dtype", state.count.dtype)


def test_after_the_last_count_of_an_int32_steps_stay_numbers():
    tx, last = isostep_jax.adam(0.1), 2**31 - 1
    state = tx.init(PARAMS)._replace(count=jnp.int32(last - 1))
    for _ in range(3):
        updates, state = tx.update(PARAMS, state, PARAMS)
        assert int(state.count) == last
        assert all(np.isfinite(np.asarray(u, np.float32)).all() for u in jax.tree.leaves(updates))


@pytest.mark.parametrize("count", [np.int64(300), np.array(300, np.int16), jnp.uint32(300), 300])
def test_a_count_of_another_kind_of_integer_is_counted_on_as_int32(count):
    tx = isostep_jax.adam()
    found = tx.update(PARAMS, tx.init(PARAMS)._replace(count=count), PARAMS)[1].count
    assert (found.dtype, int(found)) == (jnp.int32, 301)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        # In bfloat16 it would count to 256 and no further.
        (
            lambda s: jax.tree.map(lambda a: a.astype(jnp.bfloat16), s),
            "prodigy: state count must be one whole number, got bfloat16 ()",
        ),
        (
            lambda s: s._replace(count=jnp.zeros(2, jnp.int32)),
            "prodigy: state count must be one whole number, got int32 (2,)",
        ),
        (
            lambda s: s._replace(group={**s.group, "d": s.group["d"].astype(jnp.bfloat16)}),
            "prodigy: state d must be one float32 number, got bfloat16 ()",
        ),
    ],
)
def test_counts_and_group_values_that_were_cast_or_stacked_are_one_line(change, text):
    tx = isostep_jax.prodigy()
    with pytest.raises(isostep.StepError) as caught:
        jax.jit(tx.update)(PARAMS, change(tx.init(PARAMS)), PARAMS)
    assert str(caught.value).startswith(text)
    assert str(caught.value).endswith("or make one with tx.init(params)")


@pytest.mark.parametrize("value", [None, [1], "int32"])
@pytest.mark.parametrize("name", ["count", "d"])
def test_what_is_no_number_at_all_is_one_line_too(name, value):
    tx = isostep_jax.prodigy()
    state = tx.init(PARAMS)
    change = {"count": value} if name == "count" else {"group": {**state.group, name: value}}
    with pytest.raises(
        isostep.StepError, match=rf"^prodigy: state {name} must be one \w+ number, got "
    ):
        tx.update(PARAMS, state._replace(**change), PARAMS)
