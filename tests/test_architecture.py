"""The house rules a reader relies on, checked on the syntax trees of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("engine", "builder", "studio", "training")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
OURS = [path for path in MODULES if path.relative_to(ROOT).parts[0] != "training"]

# What each package may import beyond the standard library and itself.
ALLOWED = {
    "engine": {"numpy"},
    "builder": {"engine", "ml_dtypes", "numpy", "onnx", "onnxruntime", "psutil", "safetensors"},
    "studio": {"builder", "engine", "gradio", "moviepy", "numpy", "PIL", "platformdirs"},
    "training": {
        *("builder", "engine", "numpy", "PIL", "tokenizers"),
        *(
            "diffusers",
            "ml_dtypes",
            "moviepy",
            "onnx",
            "onnxruntime",
            "onnxscript",
            "safetensors",
            "torch",
            "transformers",
            "webdataset",
        ),
    },
}
# ... and what one module alone may.
ALONE = {
    **dict.fromkeys(
        [f"engine/session/{part}.py" for part in ("optimised", "placement", "qnn", "runtime")],
        {"onnxruntime"},
    ),
    "engine/sentencepieces.py": {"tokenizers"},
    "builder/layout.py": {"tokenizers"},
    "builder/tokenizers.py": {"tokenizers"},
    "engine/text.py": {"tokenizers"},
    "engine/vae.py": {"PIL"},
    "studio/health/doctor.py": {"psutil"},
    "studio/system/power.py": {"psutil", "wakepy"},
    "training/export/pack.py": {"psutil"},
    "studio/model/build.py": {"psutil"},
    "studio/model/download.py": {"huggingface_hub"},
    "studio/page/server.py": {"starlette", "uvicorn"},
    "studio/farm/network.py": {"psutil"},
    "studio/farm/link.py": {"dask", "distributed"},
    "studio/farm/certificates.py": {"cryptography"},
    "studio/language/catalogue.py": {"babel"},
    "studio/batch/encodings.py": {"chardet"},
    "training/data/draw.py": {"resvg_py"},
    "training/recipes/shards.py": {"av"},
}
# tokenizers raises nothing narrower than Exception; the launcher reports whatever ends it, and the
# page's server whatever Gradio raises.
BROAD = {"builder/tokenizers.py", "engine/text.py", "studio/launcher.py", "studio/page/server.py"}
MODULES_OF_HELP = 135  # at most, Python's own 30 or so included
HEAVY = {"cryptography", "dask", "distributed"}
HEAVY |= {"gradio", "moviepy", "numpy", "onnxruntime", "PIL", "tokenizers", "torch"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> Iterator[str]:
    """Top-level names of everything a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} imports relatively"
            yield str(node.module).split(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    allowed = {package} | ALLOWED[package] | ALONE.get(name(path), set()) | sys.stdlib_module_names
    assert set(imported(path)) <= allowed


# Rooms from the ground up: a module imports from its own room and from those on lower floors.
FLOORS = {
    "engine": (
        {"errors", "events", "measures", "noise"},
        {"config", "sentencepieces"},
        {"pack", "scheduler", "latents", "tokens", "first_frame_steps"},
        {"modes", "session", "text"},
        {"sampler", "transformer", "vae", "canary", "recall", "plan"},
        {"first_frame", "upscaler", "safety"},
        {"graph_cache"},
        {"pipeline"},
    ),
    "studio": (
        {"system"},
        {"language", "media"},
        {"jobs", "model"},
        {"library", "export"},
        {"batch", "farm"},
        {"health"},
        {"page"},
        {"cli"},
        {"launcher"},
    ),
    "builder": (
        {"errors"},
        {"chips", "published", "storage", "tokenizers", "weights"},
        {"layout", "quantise"},
        {"contexts", "plans"},
        {"templates"},
        {"portable"},
        {"build"},
    ),
    "training": (
        {"checkpoint"},
        {"models"},
        {"data"},
        {"recipes"},
        {"distil"},
        {"evaluation"},
        {"evaluate", "export", "random_checkpoint"},
        {"templates"},
    ),
}


def ours(path: Path, package: str) -> Iterator[str]:
    """Dotted names of the modules and rooms of `package` that a module imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(package + "."))
        elif isinstance(node, ast.ImportFrom) and node.module == package:
            yield from (f"{package}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith(package + "."):
            yield str(node.module)


@pytest.mark.parametrize("package", FLOORS)
def test_rooms_import_downwards_only(package: str) -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS[package]) for room in rooms}
    wrong = []
    for path in (ROOT / package).rglob("*.py"):
        room = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for module in ours(path, package):
            other = module.split(".")[1]
            known = other in floor and room in floor
            if other == "__version__" or other == room:
                continue
            if not known or floor[other] >= floor[room]:
                wrong.append(f"{name(path)} imports {module}")
    assert not wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_circle(package: str) -> None:
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / package).rglob("*.py")
    }
    graph = {}
    for module, path in files.items():
        imports = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                imports |= inner & files.keys() or {node.module} & files.keys()
        graph[module] = imports - {module, package}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_says_what_it_is_for(package: str) -> None:
    for path in (ROOT / package).rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), name(path)


# Lines of a file, and of a function without those of functions inside it.
FILE_LIMITS = {"studio": 400, "engine": 500, "builder": 500, "training": 500}
FUNCTION_LIMIT = 60


def own_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function; functions inside it are measured by themselves."""
    lines = set(range(function.lineno, (function.end_lineno or 0) + 1))
    for node in ast.walk(function):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node is not function:
            lines -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(lines)


@pytest.mark.parametrize("package", PACKAGES)
def test_files_and_functions_stay_short(package: str) -> None:
    long = []
    for path in (ROOT / package).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > FILE_LIMITS[package]:
            long.append(f"{name(path)} has {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if own_lines(node) > FUNCTION_LIMIT:
                    long.append(f"{name(path)}: {node.name} has {own_lines(node)} lines")
    assert not long


# Names that say where a value came from, not what it holds; uses in a thousand lines, at most.
VAGUE = {"told", "found", "given", "heard", "news", "words", "asked", "said"}
VAGUE_LIMITS = {"engine": 1, "builder": 1, "studio": 1, "training": 1}


@pytest.mark.parametrize("package", PACKAGES)
def test_few_names_are_vague(package: str) -> None:
    lines = vague = 0
    for path in (ROOT / package).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        lines += len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            names = [getattr(node, key, None) for key in ("id", "arg", "attr", "name")]
            vague += bool(VAGUE & {str(one).lstrip("_") for one in names if one})
    assert 1000 * vague / lines <= VAGUE_LIMITS[package]


def is_broad(handler: ast.ExceptHandler) -> bool:
    """Whether it catches everything and does not raise it again."""
    caught = handler.type
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    everything = any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException"))
        for kind in names
    )
    last = handler.body[-1]
    return everything and not (isinstance(last, ast.Raise) and last.exc is None)


@pytest.mark.parametrize("path", OURS, ids=name)
def test_no_error_is_swallowed(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    assert name(path) in BROAD or not any(is_broad(handler) for handler in handlers)


@pytest.mark.parametrize("path", OURS, ids=name)
def test_what_is_public_is_explained(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [tree, *definitions(tree)]
    missing = [
        getattr(node, "name", "the module") for node in public if not ast.get_docstring(node)
    ]
    assert not missing


def definitions(tree: ast.Module) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    """Public functions and classes, and the public methods of these."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (
                    method
                    for method in node.body
                    if isinstance(method, ast.FunctionDef) and not method.name.startswith("_")
                )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        *([name, "--help"] for name in ("render", "batch", "queue", "farm")),
        ["queue", "x"],
    ],
)
def test_a_start_loads_nothing_it_does_not_use(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from studio.cli.main import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit:\n"
        "    pass\n"
        f"print(len(sys.modules), *sorted({HEAVY} & set(sys.modules)), file=sys.stderr)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    count, *loaded = run.stderr.splitlines()[-1].split()
    assert not loaded
    if arguments == ["--help"]:
        assert int(count) <= MODULES_OF_HELP


def test_the_page_loads_no_farm() -> None:
    script = (
        "import sys, studio.page.server\n"
        "print(sorted({'dask', 'distributed', 'tornado'} & set(sys.modules)))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True
    )
    assert run.stdout.strip() == "[]"


def test_rendering_loads_no_page() -> None:
    script = (
        "import sys, engine.pipeline, studio.jobs.render, studio.media.video\n"
        "print(sorted({'gradio', 'moviepy', 'pandas', 'torch'} & set(sys.modules)))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True
    )
    assert run.stdout.strip() == "[]"
