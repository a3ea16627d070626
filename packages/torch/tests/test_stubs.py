"""The generated stub: that of the registry, and enough for a strict type checker."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import pytest

import isostep
import isostep_torch
from isostep_torch import stubs

CLIENT = """
import torch
import isostep
from isostep_torch import AddSign, AdamW, Muon, SGDHD, Optimizer, from_rule, load_optimizer, param_groups

model = torch.nn.Linear(3, 1)
adamw = AdamW(model.parameters(), 1e-3, (0.9, 0.99), weight_decay=0.1, fused=True, amsgrad=True)
sign = AddSign(model.named_parameters(), lr=lambda done: 0.1 / (1 + done), sign_internal_decay=None)
others: list[Optimizer] = [
    adamw,
    sign,
    SGDHD(param_groups(model, lr=0.1, no_decay=["bias"]), lr=torch.tensor(0.1), hypergrad_lr=1e-3),
    Muon([model.weight], lr=0.1, adjust_lr_fn="original", state_dtype=torch.float32),
    from_rule(isostep.rule("adam", lr=0.1), model.parameters(), kahan=True),
    load_optimizer("adamw")(model.parameters(), lr=0.1),
]
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adamw, 10)
adamw.zero_grad()
model(torch.ones(2, 3)).sum().backward()
loss: float | None = adamw.step()
schedule.step()
where: str = adamw.path
"""
WRONG = {
    "AdamW(model.parameters(), beta=0.9)": 'Unexpected keyword argument "beta"',
    'AdamW(model.parameters(), lr="fast")': 'incompatible type "str"',
    'Muon([model.weight], adjust_lr_fn="other")': "Literal['other']",
    'AdamW(model.parameters(), foreach="yes")': "bool | None",
    "AdamW()": 'argument "params"',
}


def test_the_stub_is_that_of_the_registry(capsys):
    assert stubs.main(["--check"]) == 0, capsys.readouterr().out


def test_a_stale_stub_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stubs, "STUB", tmp_path / "__init__.pyi")
    assert stubs.main(["--check"]) == 1
    assert "run: python -m isostep_torch.stubs" in capsys.readouterr().out
    assert stubs.main([]) == 0
    assert stubs.main(["--check"]) == 0


def test_it_says_what_the_classes_say():
    """Every class: its arguments in order with their defaults, and its docstring."""
    tree = ast.parse(stubs.STUB.read_text())
    classes = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)}
    names = {
        a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names
    }
    names |= {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    names |= {n.target.id for n in tree.body if isinstance(n, ast.AnnAssign)}
    assert set(isostep_torch.__all__) <= names
    made = [isostep_torch.load_optimizer(n) for n in isostep.rules()]
    assert list(classes) == [c.__name__ for c in made]
    for c in made:
        node = classes[c.__name__]
        assert ast.get_docstring(node) == inspect.cleandoc(c.__doc__)
        (init,) = (n for n in node.body if isinstance(n, ast.FunctionDef))
        real = inspect.signature(c.__init__).parameters.values()
        plain = [p for p in real if p.kind is not p.KEYWORD_ONLY]
        assert [a.arg for a in init.args.args] == [p.name for p in plain]
        assert [a.arg for a in init.args.kwonlyargs] == [p.name for p in real if p not in plain]
        defaults = [ast.literal_eval(d) for d in (*init.args.defaults, *init.args.kw_defaults)]
        assert defaults == [p.default for p in real if p.default is not p.empty]


@pytest.mark.whole
def test_a_strict_type_checker_takes_a_client_and_sees_its_mistakes(tmp_path):
    pytest.importorskip("mypy", reason="the typecheck session has it; the tests may not")
    right, wrong = tmp_path / "client.py", tmp_path / "wrong.py"
    right.write_text(CLIENT)
    head = CLIENT[: CLIENT.index("adamw =")]
    wrong.write_text(head + "".join(f"{line}\n" for line in WRONG))
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-incremental",
        "--python-version=3.11",
    ]
    found = subprocess.run(
        [*command, "--follow-imports=silent", str(right), str(wrong)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [x for x in found.stdout.splitlines() if ": error:" in x]
    assert not [x for x in lines if "client.py" in x], found.stdout
    for k, text in enumerate(WRONG.values()):
        place = f"wrong.py:{head.count(chr(10)) + 1 + k}:"
        assert any(place in x and text in x for x in lines), found.stdout
