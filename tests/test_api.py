"""The public API: what `import drtf` offers, used as in a notebook."""

import shutil
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

import drtf
import drtf.api
from drtf.errors import DrtfError
from naming import assert_names, raises_naming


def test_all_names_are_those_of_the_api():
    assert drtf.__all__ == drtf.api.__all__
    for name in drtf.__all__:
        assert getattr(drtf, name) is getattr(drtf.api, name)
        assert name in dir(drtf)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError):
        drtf.no_such_name  # noqa: B018


def test_importing_drtf_does_not_load_tensorflow():
    code = "import drtf, sys; print('tensorflow' in sys.modules, 'cv2' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"


def test_a_step_requires_images_or_a_dataset(run_folder, shards, tmp_path):
    for given in ({}, {"images": tmp_path, "shards": shards}):
        with raises_naming(DrtfError, "images", "shards"):
            drtf.explain(run_folder, tmp_path / "out", **given)
        with raises_naming(DrtfError, "images", "shards"):
            drtf.fit_gate(run_folder, **given)


def test_score_returns_a_report_that_loads_its_table(run_folder, photographs, tmp_path):
    for name in ("scores.csv", "scores.parquet"):
        report = drtf.score(run_folder, photographs / "images", str(tmp_path / name))
        table = report.load_table()
        assert isinstance(table, pd.DataFrame)
        assert len(table) == report.summary.num_scored + report.summary.num_failed
        assert str(tmp_path / name) in report._repr_html_()
        assert_names(repr(report), tmp_path / name, report.summary.num_scored)
        assert len(repr(report)) < len(str(tmp_path)) + 100
    run = drtf.load_run(run_folder)
    assert_names(repr(run), run_folder, "32 px")


CELLS = (
    """
import drtf
config = drtf.load_config("", {settings})
drtf.build_shards("{photographs}/images", "{photographs}/labels.csv", "shards",
                  config=config)
""",
    """
dataset = drtf.open_dataset("shards")
dataset
""",
    """
run = drtf.train(dataset, "run", config=config)
run
""",
    'drtf.evaluate(run, dataset, "evaluation", config=config)',
    'drtf.score(run, "{photographs}/images", "scores.csv")',
    'drtf.explain(run, "heatmaps", shards=dataset)',
)
SETTINGS = [
    "images.size=32",
    "build.num_workers=1",
    "model.name=eyenet",
    "model.weights=none",
    "train.epochs=2",
    "train.batch_size=8",
    "evaluate.num_resamples=200",
    "score.num_workers=1",
]


def test_a_notebook_shows_progress_and_results(photographs, tmp_path):
    sources = [
        cell.replace("{settings}", repr(SETTINGS)).replace(
            "{photographs}", str(photographs)
        )
        for cell in CELLS
    ]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": tmp_path}}
    ).execute()
    progress, results = [], []
    for cell in notebook.cells:
        pages = [
            output.data["text/html"]
            for output in cell.outputs
            if "text/html" in output.get("data", {})
        ]
        progress.append(sum("<progress" in page for page in pages))
        results.append([page for page in pages if "<progress" not in page])
    del progress[1]  # opening a dataset takes no time
    assert all(progress)
    build, opened, run, evaluation, scores, maps = results
    assert "grade 4" in build[0]
    assert opened == build
    assert "eyenet" in run[0]
    assert "<img" in run[0]  # the learning curves
    assert "ROC AUC" in evaluation[0]
    assert "scores.csv" in scores[0]
    assert maps[0].count("<img") >= 3


def test_build_shards_takes_class_folders_without_labels(photographs, tmp_path):
    for folder, name in (("No_DR", "0_left"), ("Moderate", "1_left")):
        (tmp_path / "images" / folder).mkdir(parents=True)
        shutil.copy(
            photographs / "images" / f"{name}.png", tmp_path / "images" / folder
        )
    settings = ["split.val_size=0", "split.test_size=0", "build.num_workers=1"]
    config = drtf.load_config("demo", settings)
    out = tmp_path / "dataset"
    report = drtf.build_shards(tmp_path / "images", None, out, config=config)
    counts = report.manifest.num_records["train"]
    assert counts == {"0": 1, "1": 0, "2": 1, "3": 0, "4": 0}
