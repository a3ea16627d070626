"""Everything that the README shows is run: its Python blocks, its rule as a new file, its commands."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import isostep

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^(python3 .*)$", README, flags=re.MULTILINE)
RULE_BLOCK = next(block for block in BLOCKS if "RULE = " in block)


def execute(block):
    """The names that a block defines; errors point at its line of the README."""
    above = README[: README.index(block)].count("\n")
    names = {}
    exec(compile("\n" * above + block, ROOT / "README.md", "exec"), names)
    return names


def title(block):
    named = [
        name
        for name in ("portable", "cupy", "torch", "jax", "compose", "RULE", "from_formula")
        if name in block
    ]
    return named[0] if named else "numpy"


def without_gpu():
    """The reason why CuPy cannot run here, or None."""
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed"
    try:
        cupy.cuda.Device(0).compute_capability  # noqa: B018  (asking is the test)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CuPy finds no GPU: {error}"
    return None


@pytest.mark.whole
@pytest.mark.parametrize("block", BLOCKS, ids=title)
def test_block_runs(block, capsys):
    if "cupy" in block and (reason := without_gpu()):
        pytest.skip(reason)
    names = execute(block)
    if "backend" in names:
        assert names["state"].t == [1] * len(names["params"])
    elif "optimizer" in names and "tx" in names:
        moments = names["state"].arrays["exp_avg"]
        assert sorted(moments) == ["bias", "weight"]
        np.testing.assert_allclose(moments["weight"], np.full((1, 3), 0.2), rtol=1e-6)
    elif (
        "tx" in names
    ):  # PowerSign's first step from 1 with gradient 2, which its average agrees with
        assert int(names["state"].count) == 1
        np.testing.assert_allclose(names["params"]["w"], np.full(3, 1 - 0.1 * np.e * 2), rtol=1e-6)
    elif "optimizer" in names:
        steps = [s["step"].item() for s in names["optimizer"].state.values()]
        assert steps == [1.0, 1.0]
    if "print(" in block:
        assert capsys.readouterr().out.strip()


def test_there_is_one_example_for_each_framework():
    assert [title(block) for block in BLOCKS] == [
        "numpy",
        "torch",
        "jax",
        "cupy",
        "compose",
        "from_formula",
        "portable",
        "RULE",
    ]
    for block in BLOCKS[:4]:
        assert len(block.splitlines()) in (5, 6)


def test_the_first_example_takes_the_step_that_it_says():
    names = execute(BLOCKS[0])
    # m and g agree in sign at the first step: p - lr * (1 + 1) * g, and nothing where g is 0.
    np.testing.assert_allclose(names["params"][0], [0.9, 1.4, 1.0], rtol=1e-15)


def test_the_rule_of_the_readme_is_a_rule_once_its_file_is_there(tmp_path):
    name = re.search(r'name="(\w+)"', RULE_BLOCK)[1]
    shutil.copytree(Path(isostep.__file__).parent, tmp_path / "isostep")
    (tmp_path / "isostep" / "rules" / f"{name}.py").write_text(RULE_BLOCK, encoding="utf-8")
    code = f"""
import isostep, numpy as np
assert {name!r} in isostep.rules()
rule, backend = isostep.rule({name!r}, lr=0.5, beta=0.5), isostep.backend("numpy:reference")
params = [np.zeros(2)]
state = backend.init(rule, params)
params, state = backend.step(rule, params, [np.array([2.0, -4.0])], state)
np.testing.assert_allclose(params[0], -0.5 * np.tanh([1.0, -2.0]))
print(isostep.__file__)
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().startswith(str(tmp_path))


def cells(text):
    """A support matrix whose columns are groups of rules as {(rule, path): word}."""
    groups = dict(re.findall(r"^\*\*(\w)\*\*, \d+ rules: (.*)\.$", text, re.M))
    rows = [[c.strip() for c in row.split("|")[1:-1]] for row in re.findall(r"^\|.*$", text, re.M)]
    (_, *letters), _, *body = rows
    return {
        (rule, path): word
        for path, *words in body
        for letter, word in zip(letters, words, strict=True)
        for rule in groups[letter].split(", ")
    }


def builder():
    spec = importlib.util.spec_from_file_location("build", ROOT / "docs" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    return build


@pytest.mark.whole
def test_a_rules_page_has_everything(monkeypatch, tmp_path):
    build = builder()
    short = dataclasses.replace(build.sanity.rosenbrock(), steps=4)
    monkeypatch.setattr(build.sanity, "rosenbrock", lambda: short)
    monkeypatch.setattr(build.sanity, "rule_for", lambda name, task: isostep.rule(name))
    said = {"rule": "adam", "oracle": "torch.optim", "setting": "amsgrad", "worst": 2e-13}
    (tmp_path / "oracles-libraries.json").write_text(
        json.dumps([said | {"tolerance": 1e-10, "passed": True}])
    )
    monkeypatch.setattr(build, "ORACLES", tmp_path)
    pages = {name: build.page(isostep.definition(name)) for name in isostep.rules()}
    for name, lines in pages.items():
        text = "\n".join(lines)
        for heading in (
            "Hyperparameters",
            "Source",
            "Dialects",
            "Support",
            "Oracles",
            "Path",
            "Program",
        ):
            assert f"\n## {heading}\n" in text, (name, heading)
        assert "```text" in text.partition("## Hyperparameters")[0], name  # the formula
        assert "**Follows:**" in text, name
        assert "**Departs:**" in text, name
        for hyper in isostep.definition(name).hyper:
            assert f"| `{hyper}` | " in text, name
        (svg,) = (line for line in lines if "<svg" in line)
        assert len(svg) < 20_000, name
        assert ElementTree.fromstring(svg.removeprefix("<div>").removesuffix("</div>")) is not None
    assert "| torch.optim | amsgrad | 2.0e-13 | 1.0e-10 | agrees |" in pages["adam"]
    assert any(line.startswith("`torch`, `paper`, `keras`") for line in pages["adam"])
    assert any(line.startswith("Not recorded: ") for line in pages["sgd"])


@pytest.mark.whole
def test_the_support_matrix_is_what_the_backends_say():
    build = builder()
    texts = [text.partition(build.BEGIN)[2] for text in (README, build.with_matrix(README))]
    shown, now = map(cells, texts)
    assert shown.keys() == now.keys(), "renew it: python docs/build.py --readme"
    declared, known = ([x for x in t.splitlines() if x.startswith("- path ")] for t in texts)
    assert declared == known, "renew it: python docs/build.py --readme"
    for place, word in now.items():
        assert word == shown[place] or "not run here" in (word, shown[place]), place


def test_two_commands_set_everything_up():
    assert len(COMMANDS) == 2
    start = "python3 -m venv .venv && .venv/bin/pip install -q nox && .venv/bin/nox -s "
    assert [command.removeprefix(start) for command in COMMANDS] == ["demo", "tests"]


def test_ci_runs_the_test_command_of_the_readme():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    run = subprocess.run(
        ["bash", str(script), "--command"], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == COMMANDS[1]
    assert COMMANDS[1] not in script.read_text(encoding="utf-8")


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
