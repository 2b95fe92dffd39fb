"""Nothing below imports anything above, and commands print through one function."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    "drtf",
    "drtf.records",
    "drtf.images",
    "drtf.synthetic",
    "drtf.photographs",
    "drtf.labels",
    "drtf.building",
    "drtf.data",
    "drtf.models",
    "drtf.training",
    "drtf.scoring",
    "drtf.heatmaps",
    "drtf.evaluation",
    "drtf.adaptation",
    "drtf.clinic",
    "drtf.export",
    "drtf.serving",
    "drtf.beam",
    "drtf.api",
    "drtf.bench",
    "tools",
)


def find_imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return names


def layer_of(module: str) -> int:
    if module.split(".")[0] not in ("drtf", "tools"):
        return -1
    parents = [layer for layer in LAYERS if f"{module}.".startswith(f"{layer}.")]
    return LAYERS.index(max(parents, key=len))


SOURCES = sorted([*ROOT.glob("drtf/**/*.py"), *ROOT.glob("tools/*.py")])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_imports_upward(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    # The package itself offers the public API.
    module = "drtf.api" if module == "drtf.__init__" else module
    own = layer_of(module.removesuffix(".__init__"))
    above = {name for name in find_imports(path) if layer_of(name) > own}
    assert not above


def test_images_do_not_import_records():
    for path in ROOT.glob("drtf/images/*.py"):
        assert not {n for n in find_imports(path) if n.startswith("drtf.records")}


USING_A_RUN = [
    "scoring",
    "heatmaps",
    "evaluation",
    "adaptation",
    "clinic",
    "export",
    "serving",
]


@pytest.mark.parametrize("folder", USING_A_RUN)
def test_using_a_run_does_not_import_training(folder):
    for path in ROOT.glob(f"drtf/{folder}/*.py"):
        assert not {n for n in find_imports(path) if n.startswith("drtf.training")}


LOWER = ["records", "images", "synthetic", "photographs", "labels", "building"]


@pytest.mark.parametrize("folder", LOWER)
def test_the_lower_layers_do_not_import_tensorflow(folder):
    for path in ROOT.glob(f"drtf/{folder}/*.py"):
        imported = {name.split(".")[0] for name in find_imports(path)}
        assert not imported & {"tensorflow", "keras"}


def test_commands_print_lines_in_which_names_are_escaped():
    own = {"settings.py"}  # prints no names, and several lines at once
    for path in ROOT.glob("tools/*.py"):
        assert path.name in own or "click.echo(" not in path.read_text(), path
