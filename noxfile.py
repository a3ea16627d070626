"""Every task of the repository: `nox --list` is the table of contents.

Each session builds an environment of its own, at the versions of packages/constraints.txt. Packages
are found as packages/*/pyproject.toml, backends in their entry points; whatever else a session
needs is a dependency group of pyproject.toml. Words after `--` go to the session's command.
"""

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
# pip, not uv: uv does not look where pip may have been told to look for a CPU build of torch.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests"]

TOMLS = [*sorted(Path("packages").glob("*/pyproject.toml")), Path("conformance/pyproject.toml")]
FOLDERS = {toml.parent.name: toml.parent.as_posix() for toml in TOMLS}
POINTS = [nox.project.load_toml(toml)["project"].get("entry-points", {}) for toml in TOMLS]
BACKENDS = [name for points in POINTS for name in points.get("isostep.backends", {})]
GROUPS = nox.project.load_toml("pyproject.toml")
SPREAD = ["-n", "auto", "--maxprocesses", "4", "--dist", "worksteal"]
#: What tests and conformance need, in pure Python, and a machine with torch, JAX and CuPy may lack.
CARRIED = {
    "array-api-compat", "array-api-strict", "optax", "absl-py", "pytest", "iniconfig", "packaging", "pluggy",
    "Pygments",
}  # fmt: skip
#: Projects whose tests need nothing that `isolation` lacks, unless they are marked so: each is run once, there.
ALONE = ["jax", "torch"]
EXTRAS = {"core": "[fused,halves,files,cli,plot,train]", "torch": "[fused,halves]"}


def install(session, projects=tuple(FOLDERS), groups=(), extras=EXTRAS):
    """Install projects (editable) and dependency groups in one pip call, so in one solve."""
    editable = [word for name in projects for word in ("-e", FOLDERS[name] + extras.get(name, ""))]
    needed = nox.project.dependency_groups(GROUPS, *groups) if groups else ()
    # What is never imported, most of torch and JAX, need not be compiled.
    session.install("--no-compile", *editable, *needed, "-c", "packages/constraints.txt")


@nox.session
def demo(session):
    """Train one small network on real digits on every framework, and draw the curves."""
    install(session, groups=["demo"])
    session.run("python", "benchmarks/demo/main.py", "--out", "demo-out", *session.posargs)


@nox.session
def tests(session):
    """Every test but for samples (`-- --full packages`), in one environment; then `isolation`, package by package."""
    for project in FOLDERS:
        session.notify(f"isolation({project})", posargs=())
    install(session, groups=["test", "libraries", "kernels"])
    together = [folder for project, folder in FOLDERS.items() if project not in ALONE]
    session.run("pytest", *SPREAD, *(session.posargs or together))
    if not session.posargs:
        session.run("pytest", *SPREAD, "-m", "whole", *(FOLDERS[project] for project in ALONE))


@nox.session
@nox.parametrize("project", list(FOLDERS), ids=list(FOLDERS))
def isolation(session, project):
    """The tests of one package where no sibling but core is installed, and core without extras."""
    groups = ["test", *({project} & GROUPS["dependency-groups"].keys())]
    install(session, dict.fromkeys(["core", project]), groups, EXTRAS | {"core": ""})
    session.run("pytest", *SPREAD, "-m", "not whole", FOLDERS[project], *session.posargs)


@nox.session
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def conformance(session, backend):
    """The best path of one backend against the reference; `-- --backend torch:loop` adds a path."""
    install(session)
    session.run("isostep-conformance", "--backend", backend, *session.posargs)


@nox.session
def full(session):
    """The whole conformance matrix, hours of it: every rule, path, dtype and mutant; goes on where it was stopped."""
    install(session)
    files = ["--json", "conformance/reports/full.json", "--html", "conformance/reports/full.html"]
    spread = ["--processes", str(os.cpu_count() or 1), "--journal", "conformance/reports/full.journal"]
    session.run("isostep-conformance", "--full", "--mutants", *spread, *files, *session.posargs)


@nox.session
@nox.parametrize("oracle", ["tensorflow", "libraries", "catalogue"], ids=["tensorflow", "libraries", "catalogue"])
def oracles(session, oracle):
    """Live: TensorFlow's kernels and Keras; torch.optim and optax; the authors' packages and the collections."""
    alone = {"tensorflow": ["core", "conformance"], "catalogue": ["core", "torch", "conformance"]}
    install(session, alone.get(oracle, FOLDERS), groups=["test"] if oracle == "catalogue" else [oracle])
    if oracle == "catalogue":
        session.install("--no-deps", *nox.project.dependency_groups(GROUPS, oracle))
    file = f"conformance/reports/oracles-{oracle}.json"
    session.run("python", "-m", "isostep_conformance.oracles", oracle, "--json", file, *session.posargs)
    if oracle == "catalogue":  # second gradients and schedules, which are no rules and have no row in the table
        session.run("pytest", *sorted(map(str, Path("packages/torch/tests").glob("test_*_oracles.py"))))


@nox.session
def census(session):
    """Which rule every optimizer of the collections follows, by its steps; the report and its page."""
    install(session, ["core", "torch", "conformance"], groups=["test", "libraries"])
    session.install("--no-deps", *nox.project.dependency_groups(GROUPS, "catalogue"))
    to = ["--json", "conformance/reports/census.json", "--page", "docs/census.md"]
    session.run("python", "-W", "ignore", "-m", "isostep_conformance.identify.census", *to, *session.posargs)


@nox.session
def clients(session):
    """Loops, states and checkpoints of other libraries, with our optimizers in them."""
    install(session, groups=["test", "libraries", "clients"])
    tests = ["packages/torch/tests/test_clients.py", "packages/jax/tests/test_ecosystem.py"]
    session.run("pytest", *SPREAD, *(session.posargs or tests))


@nox.session
def bench(session):
    """Step time and bytes per second of every path; results keyed by device and versions."""
    install(session)
    session.run("python", "benchmarks/run.py", *session.posargs)


@nox.session
def docs(session):
    """The site: written pages, and those generated from the registry; a broken link fails."""
    install(session, groups=["docs"])
    session.run("python", "docs/build.py", *session.posargs)
    session.run("mkdocs", "build", "--strict", "-f", "docs/mkdocs.yml")


@nox.session
def lint(session):
    """Style and likely mistakes; `nox -s lint -- --fix` mends what can be mended."""
    install(session, (), groups=["lint"])
    session.run("ruff", "check", *session.posargs)


@nox.session
def typecheck(session):
    """The one type checker, over every package's sources."""
    install(session, groups=["typecheck"])
    session.run("mypy", *session.posargs)


@nox.session(venv_params=[])
def carry(session):
    """Wheels in dist/ for a machine with a GPU on which nothing else can be installed; there, `.ci/gpu`."""
    shutil.rmtree("dist", ignore_errors=True)
    to = ["--no-deps", "--wheel-dir", "dist"]
    session.run("python", "-m", "pip", "wheel", *to, *(f"./{folder}" for folder in FOLDERS.values()))
    pinned = Path("packages/constraints.txt").read_text().splitlines()
    pure = [line for line in pinned if line.partition("==")[0] in CARRIED]
    session.run("python", "-m", "pip", "wheel", *to, *pure)


@nox.session
def gpu(session):
    """On a machine with a GPU (which must be there): the tests that need one, then the matrix."""
    install(session, groups=["test"], extras=EXTRAS | {"cupy": "[cuda13]"})  # as torch's wheels
    session.run("python", "-c", "import cupy; print(cupy.cuda.Device(0).compute_capability)")
    session.run("pytest", "-m", "gpu", "packages", "conformance")
    session.run("isostep-conformance", "--full", "--json", "conformance/reports/gpu.json", *session.posargs)
    session.run("python", "benchmarks/gpu.py")
