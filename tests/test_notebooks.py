"""The notebooks in examples, executed on a few synthetic photographs."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from drtf.synthetic import write_photographs

pytestmark = pytest.mark.notebook

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = "images.size=32 train.epochs=1 train.batch_size=8 gradcam.method=saliency"
# What a user would change in the cell with the tag `parameters`.
PYTHON = {"NUM_PATIENTS": 24, "SETTINGS": SMALL.split(), "EPOCHS": 1}
SHELL = {
    "IMAGES": "photographs/images",
    "LABELS": "photographs/labels.csv",
    "WORK": "work",
    "CONFIG": "demo",
    "SETTINGS": " ".join(f"--set {setting}" for setting in SMALL.split()),
}


@pytest.mark.parametrize(
    ("name", "parameters", "num_pictures"),
    [
        ("quickstart", PYTHON, 3),
        ("own_model", PYTHON, 1),
        ("kaggle", SHELL, 2),
        ("colab", SHELL, 2),
    ],
)
def test_the_notebook_runs(name, parameters, num_pictures, tmp_path, monkeypatch):
    # The notebook's `drtf` is that of this environment.
    folder = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    if parameters is SHELL:
        write_photographs(tmp_path / "photographs", num_patients=24, seed=0)
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", 4)
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
    for cell, names in zip(notebook.cells, tags, strict=True):
        if "install" in names:
            cell.source = ""
        elif "parameters" in names:
            lines = [f"{key} = {value!r}" for key, value in parameters.items()]
            cell.source = "\n".join(lines)
    resources = {"metadata": {"path": tmp_path}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = "".join(output.get("text", "") for output in outputs)
    assert "Error" not in texts
    pictures = [
        output
        for output in outputs
        if "image/png" in output.get("data", {})
        or "<img" in str(output.get("data", {}).get("text/html", ""))
    ]
    assert len(pictures) >= num_pictures
