"""Saved and loaded: the same bits, on any backend, and a wrong file is one clear line."""

import json
import sys

import numpy as np
import pytest

import isostep
from isostep import FileError, MissingExtra, StepError
from isostep.rule import Rule

safetensors_numpy = pytest.importorskip(
    "safetensors.numpy", reason="isostep[files] is not installed"
)

SHAPES = [(3, 4), (), (0,), (5,)]


def draw(seed, dtype="float64"):
    random = np.random.default_rng(seed)
    return [np.asarray(random.standard_normal(s)).astype(dtype) for s in SHAPES]


def some_rule():
    """State arrays, group state, a schedule of isostep's own, two pieces of one kind."""
    return isostep.compose(
        isostep.pieces.clip_by_global_norm(max_norm=0.5),
        isostep.pieces.weight_decay(weight_decay=0.1),
        isostep.rule("adam_hd", lr=0.01, betas=(0.7, 0.95), hypergrad_lr=1e-4),
        isostep.pieces.lookahead(k=3, alpha=0.3),
    )


def run(backend, rule, params, state, steps, first=0):
    for i in range(first, first + steps):
        grads = [backend.asarray(g) for g in draw(100 + i, backend.dtype(params[0]))]
        grads[i % 4] = None  # step counts differ
        params, state = backend.step(rule, params, grads, state)
    return params, state


def everything(backend, params, state):
    arrays = [*params, *(a for own in state.arrays for a in own.values()), *state.group.values()]
    bits = [(backend.dtype(a), backend.to_numpy(a).tobytes(), tuple(a.shape)) for a in arrays]
    return bits, state.t, state.group_t, state.rule, [list(own) for own in state.arrays]


def same_after(writer_name, reader_name, rule, dtype, tmp_path):
    writer, reader = isostep.backend(writer_name), isostep.backend(reader_name)
    params = [writer.asarray(p) for p in draw(1, dtype)]
    params, state = run(writer, rule, params, writer.init(rule, params), 5)
    isostep.save(tmp_path / "state.safetensors", rule, params, state)
    loaded, found, again = isostep.load(tmp_path / "state.safetensors", backend=reader_name)
    assert repr(loaded) == repr(rule)
    assert everything(reader, found, again) == everything(writer, params, state)
    if writer_name == reader_name:
        one = everything(writer, *run(writer, rule, params, state, 4, first=5))
        two = everything(reader, *run(reader, loaded, found, again, 4, first=5))
        assert one == two
    else:
        run(reader, loaded, found, again, 2, first=5)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_a_loaded_state_goes_on_to_the_bit(dtype, tmp_path):
    same_after("numpy:reference", "numpy:reference", some_rule(), dtype, tmp_path)


def test_bfloat16(tmp_path):
    pytest.importorskip("ml_dtypes", reason="isostep[halves] is not installed")
    import ml_dtypes

    same_after("numpy:reference", "numpy:reference", some_rule(), ml_dtypes.bfloat16, tmp_path)


@pytest.mark.whole
@pytest.mark.parametrize("other", ["torch:loop", "jax:jit"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_any_backend_reads_what_another_wrote(other, dtype, tmp_path):
    if dtype == "bfloat16":
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    for writer, reader in (("numpy:reference", other), (other, "numpy:reference"), (other, other)):
        same_after(writer, reader, some_rule(), dtype, tmp_path)


@pytest.mark.parametrize("name", isostep.rules())
def test_every_rule(name, tmp_path):
    backend = isostep.backend("numpy:reference")
    rule = isostep.rule(name, **({} if name not in NEEDS else NEEDS[name]))
    shape = {None: (3, 4)}.get(rule.rule.ndim) or ((3, 4) if 2 in rule.rule.ndim else (3,))
    params = {"w": np.full(shape, 0.5), "v": np.full(shape, -0.25)}
    state = backend.init(rule, params)
    extra = {n: {k: np.full(shape, 0.3) for k in params} for n in rule.input_names}
    extra |= dict.fromkeys(rule.group_input_names, 0.7)
    backend.step(rule, params, {k: p * 0.7 for k, p in params.items()}, state, **extra)
    isostep.save(tmp_path / "x", rule, params, state)
    loaded, found, again = isostep.load(tmp_path / "x", "numpy:reference")
    assert list(found) == ["w", "v"]
    assert (repr(loaded), again.t, again.group_t) == (repr(rule), [1, 1], 1)
    for old, new in zip([params, *state.arrays], [found, *again.arrays], strict=True):
        assert {n: a.tobytes() for n, a in old.items()} == {n: a.tobytes() for n, a in new.items()}


NEEDS = {
    n: {k: 0.1 for k, d in isostep.definition(n).hyper.items() if d.default is isostep.domains.REQUIRED}
    for n in isostep.rules()
}  # fmt: skip


def saved(tmp_path, rule, params=None):
    backend = isostep.backend("numpy:reference")
    params = [np.ones(3)] if params is None else params
    isostep.save(tmp_path / "x", rule, params, backend.init(rule, params))
    return tmp_path / "x"


def test_schedules_of_isostep_are_kept(tmp_path):
    schedule = isostep.schedules.RestartCosineInternalDecay(10, num_periods=2, zero_after=1.5)
    rule = isostep.rule("addsign", lr=0.1, sign_internal_decay=schedule)
    loaded, _, _ = isostep.load(saved(tmp_path, rule), "numpy:reference")
    assert loaded.values["sign_internal_decay"] == schedule


def test_schedules_of_schedules_are_kept(tmp_path):
    s = isostep.schedules
    parts = [s.LinearWarmup(0.1, period=10), s.Scaled(s.CosineAnnealing(T_max=20), 0.5)]
    rule = isostep.rule(
        "adam", lr=s.Sequential(parts, (10,)), betas=(s.Constant(0.9, factor=0.5), 0.95)
    )
    loaded, _, _ = isostep.load(saved(tmp_path, rule), "numpy:reference")
    assert repr(loaded) == repr(rule)
    assert [loaded.at(t) for t in range(1, 40)] == [rule.at(t) for t in range(1, 40)]
    rule = isostep.rule("adam", lr=s.Lambda(0.1, factor=lambda done: 0.5))
    assert "adam's lr was <function" in line(saved(tmp_path, rule))


def line(path, **given):
    with pytest.raises(FileError) as caught:
        isostep.load(path, "numpy:reference", **given)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "x")


def test_other_functions_must_be_given_again(tmp_path):
    rule = isostep.rule("sgd", lr=lambda done: 0.1)
    path = saved(tmp_path, rule)
    text = line(path)
    assert text.startswith("x: sgd's lr was <function ")
    assert text.endswith("which a file cannot hold; pass the rule: load(path, rule=...)")
    loaded, _, state = isostep.load(path, "numpy:reference", rule=rule)
    assert loaded is rule
    assert state.rule == "sgd"


def test_rules_of_ones_own_must_be_given_again(tmp_path):
    own = Rule(name="mine", update=lambda p, g, m, t, /: (-g, m), state=("m",)).bind()
    path = saved(tmp_path, own)
    assert line(path) == "x: the rule 'mine' is not known here; pass it: load(path, rule=...)"
    assert isostep.load(path, "numpy:reference", rule=own)[0] is own


def test_another_rule_is_refused(tmp_path):
    path = saved(tmp_path, isostep.rule("adam"))
    text = line(path, rule=isostep.rule("sgd"))
    assert text.startswith("x does not fit this rule: sgd: state belongs to 'adam'")
    text = line(path, rule=isostep.rule("adam", amsgrad=True))
    assert "expected ['exp_avg', 'exp_avg_sq', 'max_exp_avg_sq']" in text


def test_wrong_files_are_one_line(tmp_path):
    with pytest.raises(FileNotFoundError):
        isostep.load(tmp_path / "none", "numpy:reference")
    path = tmp_path / "x"
    path.write_bytes(b"no tensors here, just text")
    assert line(path).startswith("x is not a safetensors file, or is damaged: ")
    saved(tmp_path, isostep.rule("adam"))
    path.write_bytes(path.read_bytes()[:-5])
    assert line(path).startswith("x is not a safetensors file, or is damaged: ")
    safetensors_numpy.save_file({"a": np.ones(2)}, path)
    assert line(path) == (
        "x is a safetensors file without isostep's metadata; load takes what isostep.save wrote"
    )
    for notes, expected in (
        ("{", "x is damaged: its metadata cannot be read; save it again"),
        ('{"format": 2}', "x has format 2, this isostep"),
        ('{"format": 1}', "x is damaged: KeyError 'rule'; save it again"),
    ):
        safetensors_numpy.save_file({"a": np.ones(2)}, path, metadata={"isostep": notes})
        assert line(path).startswith(expected)


def test_values_in_a_file_are_checked(tmp_path):
    path = saved(tmp_path, isostep.rule("adam", lr=0.25))
    path.write_bytes(path.read_bytes().replace(b"0.25", b"-1.5"))
    text = line(path)
    assert text == "x: adam: lr must be >= 0, got -1.5; pass the rule: load(path, rule=...)"


def test_what_load_is_asked_for_is_looked_at_first(tmp_path):
    path = saved(tmp_path, isostep.rule("adamw"))
    for rule in ("adamw", isostep.definition("adamw")):
        with pytest.raises(
            StepError, match=r"expected a rule such as isostep.rule\('adamw', lr=1e-3\), got "
        ):
            isostep.load(path, "numpy:reference", rule=rule)
    for backend in (None, 3, {}):
        with pytest.raises(
            isostep.BackendError, match="backend must be a name such as 'numpy', or"
        ):
            isostep.load(path, backend)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        *(("t", v) for v in (["x"], [None], 3, [-1, 2], [0, 0, 0], "ab")),
        *(("keys", v) for v in (["a", "b"], [], ["a", "a"], 3, {})),
        ("rule", [{}]),
        ("rule", 3),
        ("group_t", "x"),
        ("storage", {"master": 3, "none": 4}),
    ],
)
def test_damaged_metadata_is_one_line(entry, value, tmp_path):
    path = saved(tmp_path, isostep.rule("adamw"), {"w": np.ones(2), "v": np.ones(3)})
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    notes = json.loads(header["__metadata__"]["isostep"]) | {entry: value}
    if entry == "keys" and value == ["a", "b"]:
        notes["keys"] = ["a", "b", "c"]
    header["__metadata__"]["isostep"] = json.dumps(notes)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    assert line(path).startswith("x is damaged: ")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = saved(tmp_path, isostep.rule("adam"))
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        saved(tmp_path, isostep.rule("sgd"))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_what_cannot_be_saved_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(StepError, match=r"must have names, got the key 3; use strings, or a list"):
        saved(tmp_path, isostep.rule("sgd"), {3: np.ones(2)})
    backend = isostep.backend("numpy:reference")
    state = backend.init(isostep.rule("adam"), [np.ones(2)])
    with pytest.raises(StepError, match="state belongs to 'adam'"):
        isostep.save(tmp_path / "x", isostep.rule("sgd"), [np.ones(2)], state)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_the_error_names_the_command(tmp_path, monkeypatch):
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    text = r"needs the package 'safetensors'; pip install 'isostep\[files\]'"
    with pytest.raises(MissingExtra, match=f"isostep.save {text}"):
        saved(tmp_path, isostep.rule("sgd"))
    with pytest.raises(MissingExtra, match=f"isostep.load {text}"):
        isostep.load(tmp_path / "x")


def test_the_metadata_is_readable_json(tmp_path):
    from safetensors import safe_open

    with safe_open(saved(tmp_path, isostep.rule("adam", lr=0.125)), framework="np") as file:
        notes = json.loads(file.metadata()["isostep"])
    assert notes["rule"][0]["hyper"]["lr"] == 0.125
    assert notes["versions"]["isostep"] == isostep.__version__
    assert notes["backend"] == "numpy:reference"
