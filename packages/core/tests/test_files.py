"""Saved and loaded: the same bits, on any backend, and a wrong file is one clear line."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import isostep
from isostep import FileError, MissingExtra, StepError
from isostep.rule import Rule

safetensors_numpy = pytest.importorskip(
    "safetensors.numpy", reason="isostep[files] is not installed"
)
import safetensors  # noqa: E402

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


@pytest.mark.parametrize("momentum", [None, "exp_avg_sq"])
def test_an_observed_rule_stays_one(momentum, tmp_path):
    rule = isostep.observe(isostep.rule("adam"), momentum=momentum)
    grads, backend = [np.ones(3)], isostep.backend("numpy:reference")
    loaded, found, state = isostep.load(saved(tmp_path, rule), "numpy:reference")
    assert (loaded.observed, state.figures) == (momentum or True, None)
    _, state = backend.step(loaded, found, grads, state)
    _, other = backend.step(rule, [np.ones(3)], grads, backend.init(rule, grads))
    assert repr(state.figures.rows()) == repr(other.figures.rows())
    assert (
        isostep.load(saved(tmp_path, isostep.rule("adam")), "numpy:reference")[0].observed is False
    )


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


def rewritten(path, change):
    """The file with other notes and tensors, as ``change(notes, tensors)`` makes them."""
    with safetensors.safe_open(path, framework="np") as file:
        notes, read = (
            json.loads(file.metadata()["isostep"]),
            {n: file.get_tensor(n) for n in file.keys()},
        )
    change(notes, read)
    safetensors_numpy.save_file(read, path, metadata={"isostep": json.dumps(notes)})
    return path


@pytest.mark.parametrize(
    ("entry", "value", "text"),
    [
        *(("t", v, "t must be a list of step counts, got") for v in (3, "ab", {})),
        *(("t", v, "t[0] must be a whole number >= 0, got") for v in (["x"], [None], [-1, 2], [1.0, 2])),
        ("t", [True, 0], "t[0] must be a whole number >= 0, got True"),
        ("t", [0, 0, 0], "for 3 parameters it lacks the tensors params/2"),
        ("t", [0], "for 1 parameters it has the tensors params/1, state/1/exp_avg, state/1/exp_avg_sq"),
        *(
            ("keys", v, "2 parameters must have as many different names as keys, got")
            for v in (["a", "b", "c"], [], ["a", "a"], 3, {}, {"a": 0, "b": 1}, "ab", [1, 2], [None, "a"])
        ),
        ("rule", [{}], "KeyError"),
        ("rule", 3, "TypeError"),
        *(("observed", v, "RuleError observe: momentum must be a state of adamw of its") for v in ("x", 3, [1])),
        *(("group_t", v, "group_t must be a whole number >= 0, got") for v in ("x", -5, 1.5, None)),
        *(("seed", v, "seed must be a whole number, got") for v in ("x", 1.5, None)),
        ("storage", {"master": 3, "none": 4}, "storage must be a dict of state, beside, stochastic, scaled, got"),
        ("storage", [], "storage must be a dict of state, beside, stochastic, scaled, got"),
        (
            "storage",
            {"state": "int8"},
            "storage's state must be one of None, float64, float32, bfloat16, float16, mxfp8_e4m3, mxfp8_e5m2, got",
        ),
        ("storage", {"beside": "x"}, "storage's beside must be one of None, master_weight, kahan_compensation, got"),
        ("storage", {"stochastic": 1}, "storage's stochastic must be one of False, True, got 1"),
        ("storage", {"stochastic": []}, "storage's stochastic must be one of False, True, got []"),
    ],
)  # fmt: skip
def test_damaged_metadata_is_one_line(entry, value, text, tmp_path):
    path = saved(tmp_path, isostep.rule("adamw"), {"w": np.ones(2), "v": np.ones(3)})
    found = line(rewritten(path, lambda notes, read: notes.update({entry: value})))
    assert found.startswith(f"x is damaged: {text}")
    assert found.endswith("; save it again")


def without(name):
    return lambda notes, read: read.pop(name)


def put(name, array):
    return lambda notes, read: read.update({name: array})


#: What is said of a sound file with other arrays than its rule has.
NOT = "x does not fit this rule"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (without("params/1"), "x is damaged: for 2 parameters it lacks the tensors params/1; save it again"),
        *(
            (put(name, np.ones(3)), f"x is damaged: for 2 parameters it has the tensors {name}; save it again")
            for name in ("params/7", "params/-1", "params/", "state/-1/exp_avg", "state/2/exp_avg", "state", "more/0")
        ),
        (without("state/1/exp_avg"), f"{NOT}: adam_hd: state of params[1] has ['exp_avg_sq'], expected"),
        (put("state/1/more", np.ones(3)), f"{NOT}: adam_hd: state of params[1] has ['exp_avg',"),
        (put("group/more", np.ones(())), f"{NOT}: adam_hd: group state has ['lr', 'more']"),
        (
            put("state/1/exp_avg", np.ones(2)),
            f"{NOT}: state exp_avg of params[1] must be a float64 array of shape (3,), got float64 (2,)",
        ),
        (
            put("state/0/exp_avg", np.ones(2, np.float32)),
            f"{NOT}: state exp_avg of params[0] must be a float64 array of shape (2,), got float32 (2,)",
        ),
        (
            put("group/lr", np.ones(2)),
            f"{NOT}: group value lr must be a float64 or float32 array of shape (), got float64 (2,)",
        ),
        (put("group/lr", np.ones((), np.int32)), f"{NOT}: group value lr must be a float64 or float32"),
        (put("params/0", np.ones(2, np.int32)), f"{NOT}: adam_hd: params[0] must be one of float64,"),
        (
            lambda notes, read: notes.update(storage={"state": "float32"}),
            f"{NOT}: state exp_avg of params[0] must be a float32 array of shape (2,), got float64 (2,)",
        ),
    ],
)  # fmt: skip
def test_arrays_of_a_file_are_those_of_its_rule(change, text, tmp_path):
    path = saved(tmp_path, isostep.rule("adam_hd", lr=0.1), [np.ones(2), np.ones(3)])
    assert line(rewritten(path, change)).startswith(text)


def test_arrays_beside_parameters_are_looked_at(tmp_path):
    half, wide = np.ones(2, np.float16), np.ones(3)
    path = saved(tmp_path, isostep.rule("sgd", lr=0.1), [half, wide])
    text = line(rewritten(path, lambda n, read: n.update(storage={"beside": "master_weight"})))
    assert text == (
        "x does not fit this rule: params[0] of float16 must have the arrays ['master_weight'], got []"
    )
    rewritten(path, put("state/0/master_weight", np.ones(2, np.float32)))
    _, _, state = isostep.load(path, "numpy:reference")
    assert [list(own) for own in state.arrays] == [["master_weight"], []]
    text = line(rewritten(path, put("state/1/master_weight", np.ones(3, np.float32))))
    assert text == (
        "x does not fit this rule: params[1] of float64 must have the arrays [], got ['master_weight']"
    )


def test_state_of_shapes_of_its_own_is_looked_at(tmp_path):
    path = saved(tmp_path, isostep.rule("adafactor"), [np.ones((3, 4)), np.ones(3)])
    isostep.load(path, "numpy:reference")
    _, _, state = isostep.load(path, "numpy:reference")
    name = next(n for n, a in state.arrays[0].items() if a.shape == (3, 1))
    text = line(rewritten(path, put(f"state/0/{name}", np.ones((3, 2)))))
    assert text.startswith(f"x does not fit this rule: state {name} of params[0] must be a float64")


def test_several_threads_save_to_one_path(tmp_path):
    backend, rule = isostep.backend("numpy:reference"), isostep.rule("adam", lr=0.1)

    def save(k):
        params = [np.full(1000, float(k))]
        for _ in range(20):
            isostep.save(tmp_path / "x", rule, params, backend.init(rule, params))
            isostep.load(tmp_path / "x", "numpy:reference")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save, range(4)))
    _, (found,), _ = isostep.load(tmp_path / "x", "numpy:reference")
    assert len(set(found)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def refused(path):
    rule, backend = isostep.rule("sgd", lr=0.1), isostep.backend("numpy:reference")
    with pytest.raises(FileError) as caught:
        isostep.save(path, rule, [np.ones(2)], backend.init(rule, [np.ones(2)]))
    return str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "none" / "x"
    assert refused(path) == (
        f"{path} cannot be written: there is no folder {tmp_path / 'none'}; make it first"
    )


def test_only_a_file_gives_way_to_a_file(tmp_path):
    pipe, link, folder = tmp_path / "pipe", tmp_path / "link", tmp_path / "folder"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    folder.mkdir()
    for path in (pipe, link, folder):
        assert refused(path) == (
            f"{path} is not a regular file, which a file could take the place of; choose another place"
        )
    assert pipe.is_fifo()
    assert folder.is_dir()


def test_a_link_stays_one(tmp_path):
    rule, backend = isostep.rule("sgd", lr=0.1), isostep.backend("numpy:reference")
    other, link = tmp_path / "other", tmp_path / "x"
    link.symlink_to(other)
    saved(tmp_path, rule)
    assert link.is_symlink()
    assert other.is_file()
    isostep.load(link, backend)


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


def test_bfloat16_in_a_process_of_its_own_which_has_not_imported_ml_dtypes(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="isostep[halves] is not installed")
    backend, rule = isostep.backend("numpy:reference"), isostep.rule("adam")
    params = [np.ones(3, ml_dtypes.bfloat16)]
    isostep.save(tmp_path / "x", rule, params, backend.init(rule, params))
    code = "import isostep, sys; print(isostep.load(sys.argv[1])[1][0].dtype)"
    loads = [sys.executable, "-c", code, str(tmp_path / "x")]
    run = subprocess.run(loads, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "bfloat16", run.stderr


def test_bfloat16_without_the_extra_names_the_command(tmp_path, monkeypatch):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="isostep[halves] is not installed")
    backend, rule = isostep.backend("numpy:reference"), isostep.rule("adam")
    params = [np.ones(3, ml_dtypes.bfloat16)]
    isostep.save(tmp_path / "x", rule, params, backend.init(rule, params))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    text = r"needs the package 'ml_dtypes'; pip install 'isostep\[halves\]'"
    with pytest.raises(
        MissingExtra, match=f"isostep.load of .*x, which has bfloat16 arrays, {text}"
    ):
        isostep.load(tmp_path / "x")
    with pytest.raises(MissingExtra, match=f"a bfloat16 NumPy array {text}"):
        backend.init(rule, [np.ones(3)], storage=isostep.low_precision(state_dtype="bfloat16"))


def test_the_metadata_is_readable_json(tmp_path):
    from safetensors import safe_open

    with safe_open(saved(tmp_path, isostep.rule("adam", lr=0.125)), framework="np") as file:
        notes = json.loads(file.metadata()["isostep"])
    assert notes["rule"][0]["hyper"]["lr"] == 0.125
    assert notes["versions"]["isostep"] == isostep.__version__
    assert notes["backend"] == "numpy:reference"


def test_a_file_does_not_execute_what_it_names(tmp_path):
    code = tmp_path / "sgd.py"
    code.write_text("import pathlib; pathlib.Path(__file__).with_suffix('.ran').touch()")
    path = saved(tmp_path, isostep.rule("sgd"))
    for kind in ("Rule", "Piece"):
        arrays = safetensors_numpy.load_file(path)
        with safetensors.safe_open(path, "np") as file:
            notes = json.loads(file.metadata()["isostep"])
        notes["rule"][0] |= {"name": str(code), "kind": kind}
        safetensors_numpy.save_file(arrays, path, {"isostep": json.dumps(notes)})
        assert "is not known here; pass it: load(path, rule=...)" in line(path)
    assert not code.with_suffix(".ran").exists()


def test_a_file_s_parameters_go_by_names(tmp_path):
    """Saved in another order than the state's, and stepped in another one than the file's."""
    backend, rule = isostep.backend("numpy:reference"), isostep.rule("adamw", lr=0.1)
    params = {"w": np.asarray([1.0, 2.0]), "b": np.asarray([3.0, -4.0])}
    grads = {"w": np.asarray([0.5, -1.0]), "b": np.asarray([-2.0, 30.0])}
    params, state = backend.step(rule, params, grads, backend.init(rule, params))
    isostep.save(tmp_path / "s.safetensors", rule, dict(reversed(params.items())), state)
    bound, read, again = isostep.load(tmp_path / "s.safetensors")
    for k, v in params.items():
        np.testing.assert_array_equal(read[k], v)
    expected, _ = backend.step(rule, params, grads, state)
    got, _ = backend.step(bound, dict(sorted(read.items())), grads, again)
    for k, v in expected.items():
        np.testing.assert_array_equal(got[k], v)


def test_a_rule_whose_momentum_a_run_has_taken_to_zero_is_loaded(tmp_path):
    """Who binds Nesterov's needs one; a file is of a run that goes on."""
    rule = isostep.rule("sgd", momentum=0.9, nesterov=True).midway(momentum=0.0)
    params = [np.ones(3)]
    backend = isostep.backend("numpy:reference")
    isostep.save(tmp_path / "x", rule, params, backend.init(rule, params))
    found = isostep.load(tmp_path / "x")[0]
    assert (found.values["momentum"], found.values["nesterov"]) == (0.0, True)
