"""The rules of DESIGN.md that a reader can't see at a glance: who imports whom, what importing costs, one fast-math set, no machine's paths."""

import ast
import importlib.util
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# --- who may import whom ----------------------------------------------------------------------------------------------------------------
# A unit is a folder or a module right under fastmnist/ ("kernels" is the folder beside it). A chain: each may import what stands below it.
CHAIN = [
    {"__main__"},
    {"cli"},
    {"commands"},
    {"console"},
    {"recipes"},
    {"evaluation", "profiling", "system_info"},
    {"estimators"},
    {"training"},
    {"kernel_call", "matrix_product"},
    {"backends"},
    {"kernels"},
]
# Leaves: they import nothing of the package but what is named, and everything in the chain above "kernels" may import them.
LEAVES = {
    "network": set(),
    "datasets": {"data"},
    "images": {"datasets"},
    "threads": set(),
    "memory": {"threads"},
    "version": set(),
    "files": set(),
    "extras": set(),
    "warning": set(),
    "data": set(),
}
UNITS = set(LEAVES).union(*CHAIN)


def allowed(unit: str) -> set[str]:
    """Units that `unit` may import, besides itself."""
    if unit in LEAVES:
        return LEAVES[unit]
    if unit == "kernels":
        return set()
    level = next(i for i, units in enumerate(CHAIN) if unit in units)
    return set(LEAVES).union(*CHAIN[level + 1 :])


# Third parties that only some files may import. Folders end in "/".
HOMES = {
    "sklearn": ("fastmnist/estimators/", "fastmnist/recipes/"),
    "cupy": ("fastmnist/backends/gpu_device.py", "fastmnist/backends/__init__.py"),
    "pooch": ("fastmnist/datasets/downloads.py",),
    "torch": (),
    "jax": (),
    "tensorflow": (),
    "keras": (),
    "sklearnex": (),
}
PEERS = ("torch", "jax", "tensorflow", "keras", "sklearnex")


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    """Dotted name under which a file is imported: files of kernels/ are fastmnist.kernels."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "kernels":
        parts.insert(0, "fastmnist")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(absolute dotted name, line) of every import in a file, inside functions too, and of `import_module("...")`."""
    module = module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:  # `from fastmnist import backends` imports the module fastmnist.backends
                yield f"{base}.{alias.name}", node.lineno
        elif isinstance(node, ast.Call) and re.fullmatch(
            r"(importlib\.)?import_module|__import__", ast.unparse(node.func)
        ):
            yield str(getattr(node.args[0], "value", "")), node.lineno  # a computed name can't be judged


def unit_of(module: str) -> str:
    return module.split(".")[1]


def report(problems: list[str]) -> None:
    assert not problems, "see DESIGN.md, 'Who may import whom':\n" + "\n".join(problems)


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT).as_posix()}:{line}"


def test_every_unit_has_its_place():
    found = {unit_of(module_name(path)) for path in sources("fastmnist", "kernels") if module_name(path) != "fastmnist"}
    assert found <= UNITS, f"say in CHAIN or LEAVES (and in DESIGN.md) who may import {sorted(found - UNITS)}"


def test_imports_go_down():
    problems = []
    for path in sources("fastmnist", "kernels"):
        module = module_name(path)
        if module == "fastmnist":
            continue  # the public names, by design from everywhere
        unit = unit_of(module)
        for name, line in imports(path):
            if name.split(".")[0] != "fastmnist":
                continue
            target = name.split(".")[1] if "." in name else "the whole package"
            if unit in ("cli", "commands", "__main__") and target not in UNITS:
                continue  # the commands may use the public names
            if target != unit and target not in allowed(unit):
                problems.append(f"{where(path, line)}: {unit} must not import {target} ({name})")
    report(problems)


def test_kernels_import_relatively_and_stay_inside():
    problems = []
    for path in sources("kernels"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            problems += [
                f"{where(path, node.lineno)}: import {name} must be relative"
                for name in names
                if name.split(".")[0] in ("fastmnist", "kernels")
            ]
        for name, line in imports(path):
            if name.startswith("fastmnist") and not name.startswith("fastmnist.kernels"):
                problems.append(f"{where(path, line)}: {name} lies above kernels/")
    report(problems)


@pytest.mark.parametrize(("side", "other"), [("cpu", "gpu"), ("gpu", "cpu")])
def test_cpu_and_gpu_kernels_never_meet(side, other):
    report(
        [
            f"{where(path, line)}: {name}"
            for path in sources(f"kernels/{side}")
            for name, line in imports(path)
            if name.startswith(f"fastmnist.kernels.{other}")
        ]
    )


def test_nobody_imports_a_top_level_kernels():
    report(
        [
            f"{where(path, line)}: say fastmnist.kernels"
            for path in sources("fastmnist", "kernels", "tests", "examples", "bench")
            for name, line in imports(path)
            if name.split(".")[0] == "kernels"
        ]
    )


def test_third_parties_stay_where_they_belong():
    problems = []
    for path in sources("fastmnist", "kernels"):
        relative = path.relative_to(ROOT).as_posix()
        for name, line in imports(path):
            homes = HOMES.get(name.split(".")[0])
            if homes is not None and not any(relative == h or (h[-1] == "/" and relative.startswith(h)) for h in homes):
                problems.append(f"{where(path, line)}: {name} is allowed in {homes or 'bench/'} only")
    problems += [
        f"{where(path, line)}: {name} is allowed in bench/ only"
        for path in sources("tests", "examples")
        for name, line in imports(path)
        if name.split(".")[0] in PEERS
    ]
    report(problems)


# --- what importing costs -----------------------------------------------------------------------------------------------------------


def fresh_process(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_loads_nothing_heavy():
    heavy = ("numba", "llvmlite", "sklearn", "cupy", "scipy", "click", "rich", "PIL", "pandas", "pooch", "joblib")
    loaded = fresh_process("import sys, fastmnist; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert "fastmnist" in loaded
    assert sorted(set(loaded) & set(heavy)) == []


def test_import_costs_little_over_numpy():
    # CPU time of this process alone, so that neighbours on the machine do not count; the median, so that one hiccup does not.
    code = "import time, numpy; start = time.process_time(); import fastmnist; print(time.process_time() - start)"
    seconds = [float(fresh_process(code)) for _ in range(5)]
    assert statistics.median(seconds) <= 0.05, seconds


# --- one fast-math set ----------------------------------------------------------------------------------------------------------------

FAST_IR = re.compile(r"\b(?:nnan|ninf)\b|\bf(?:add|sub|mul|div|rem|neg|cmp) fast\b|\bcall fast\b")


def fast_math_uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Flags given otherwise than through FASTMATH: keywords and table entries `fastmath`, and flags inside LLVM IR."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings may name the flags
    for node in ast.walk(tree):
        pairs = []
        if isinstance(node, ast.keyword) and node.arg == "fastmath":
            pairs.append(node.value)
        if isinstance(node, ast.Dict):
            pairs += [v for k, v in zip(node.keys, node.values, strict=True) if getattr(k, "value", None) == "fastmath"]
        for value in pairs:
            names = {n.id for n in ast.walk(value) if isinstance(n, ast.Name)} - {"set", "frozenset"}
            literals = [n for n in ast.walk(value) if isinstance(n, ast.Constant)]
            if names != {"FASTMATH"} or literals:
                yield value.lineno, f"fastmath={ast.unparse(value)}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            for flag in FAST_IR.findall(node.value):
                yield node.lineno, flag


def test_there_is_one_fast_math_set():
    definitions, problems = [], []
    for path in sources("kernels"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        problems += [f"{where(path, line)}: {use}" for line, use in fast_math_uses(tree)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and "FASTMATH" in [ast.unparse(t) for t in node.targets]:
                definitions.append(where(path, node.lineno))
    for path in sorted((ROOT / "kernels").rglob("*.cu*")):
        problems += [f"{path.name}: use_fast_math"] * ("use_fast_math" in path.read_text(encoding="utf-8"))
    assert not problems, "every fast-math flag comes from FASTMATH:\n" + "\n".join(problems)
    assert len(definitions) == 1, definitions


@pytest.mark.parametrize(
    "code",
    [
        "njit(fastmath=True)",
        "njit(fastmath={'nnan'})",
        "options = {'fastmath': {'contract', 'reassoc'}}",
        "njit(fastmath=FASTMATH | {'arcp'})",
        "ir = '%x = fadd fast float %a, %b'",
        "ir = f'%x = fmul nnan {kind} %a, %b'",
    ],
)
def test_a_second_fast_math_set_is_found(code):
    assert list(fast_math_uses(ast.parse(code)))


# --- no machine's paths -----------------------------------------------------------------------------------------------------------------

MACHINE_PATH = re.compile(r"(?<![\w.~}$)*-])/(?:home|root|work|Users|mnt|opt)/\w|\b[A-Z]:\\\\?Users")
TEXT = {".py", ".md", ".toml", ".yaml", ".in", ".cu", ".cuh", ".h", ".c", ".json", ".csv", ".txt", ".cfg"}


def project_texts() -> list[Path]:
    folders = ("fastmnist", "kernels", "tests", "examples", "bench", ".ci")
    files = [*ROOT.glob("*"), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    named = {"Makefile", "run", "LICENSE", "SHA256SUMS", ".gitignore"}
    return [path for path in files if path.is_file() and (path.suffix in TEXT or path.name in named)]


def test_files_name_no_machine_s_paths():
    problems = [
        f"{where(path, number)}: {line.strip()[:100]}"
        for path in project_texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not problems, "\n".join(problems)


def test_a_machine_s_path_is_found():
    assert MACHINE_PATH.search("open('" + "/" + "home/someone/mnist.npz')")
    assert not MACHINE_PATH.search("~/.cache/fastmnist, bench/work/x")
