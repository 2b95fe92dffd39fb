"""The commands, as a user types them; those of the README and docs among them."""

import csv
import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
from conftest import SETTINGS

from drawing import draw_fundus, encode, write_photographs
from drtf.bench.read import DRTF
from drtf.config import load_config
from drtf.data.loader import read_batch
from drtf.records.manifest import UNKNOWN_PATIENTS_NOTE, load_manifest
from drtf.records.reader import ShardDataset
from drtf.tools.main import drtf, main
from drtf.tools.options import LocalPath
from interruption import interrupted_command
from naming import assert_names

ROOT = Path(__file__).parents[1]
# In the order in which a reader comes to their commands.
PAGES = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in ("quickstart", "train", "elsewhere", "bench", "python")
    ),
]


def code_blocks(language: str) -> list[str]:
    """Return the blocks in a language on all pages, each once."""
    text = "\n".join(page.read_text() for page in PAGES)
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return list(dict.fromkeys(blocks))


SMALL = ("images.size=32", "build.num_workers=1")
EYENET = ("model.name=eyenet", "model.weights=none", "model.upsampling=1")
QUICK = (
    *SMALL,
    "score.num_workers=1",
    *EYENET,
    "train.epochs=1",
    "train.batch_size=16",
    "evaluate.num_resamples=100",
)
DEMO = (
    *SMALL,
    "score.num_workers=1",
    "train.epochs=1",
    "train.batch_size=16",
    "evaluate.num_resamples=100",
)
SCORING = ("score.batch_size=16", "score.num_workers=1")
SHORT = ("--repeats", "1", "--seconds", "0.1")


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """Let Keras's weights be available, also where there is no network."""
    monkeypatch.setattr("drtf.models.weights.imagenet_problem", lambda *a, **k: "")


def find_line(text: str, *facts: object) -> str:
    """Return the one line of an output that has all of these words."""
    words = {str(fact) for fact in facts}
    lines = [x for x in text.splitlines() if words <= set(re.findall(r"\w+", x))]
    assert len(lines) == 1, (facts, text)
    return lines[0]


def find_error(err: str, *, kind: str = "Error") -> str:
    """Return the one line on stderr that is no progress."""
    lines = [x for x in err.splitlines() if not re.search(r": \d+/\d+\b", x)]
    assert len(lines) == 1, err
    assert lines[0].startswith(f"{kind}: ")
    return lines[0]


def sets(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def test_help_does_not_load_tensorflow():
    code = (
        "import sys\n"
        "from drtf.tools.main import drtf\n"
        "for command in ['', *drtf.commands]:\n"
        "    try:\n"
        "        drtf([*command.split(), '--help'])\n"
        "    except SystemExit as stopped:\n"
        "        assert stopped.code == 0\n"
        "heavy = {'cv2', 'keras', 'numpy', 'pydantic', 'rich', 'tensorflow'}\n"
        "print(heavy & set(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stderr == "set()\n"


def test_ctrl_c_at_the_exit_shows_no_traceback():
    code = """
import atexit, os, signal, sys
from drtf.tools.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(os.kill, os.getpid(), signal.SIGINT)
sys.argv = ["drtf", "--version"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_and_option_has_help():
    for command in drtf.commands.values():
        assert command.help
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert parameter.help or parameter.name == "seed"


def test_paths_with_a_tilde_and_spaces_are_read_and_shown_for_a_shell(
    run, photographs, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photographs").symlink_to(photographs / "images")
    shutil.copyfile(photographs / "labels.csv", tmp_path / "labels.csv")
    (tmp_path / "own.toml").write_text("[images]\nsize = 32\n")
    err = run(
        "build-shards",
        *("--images", "~/my photographs", "--labels=~/labels.csv"),
        *("--out=~/my set", "--config=~/own.toml", *sets("build.num_workers=1")),
    )[2]
    out = tmp_path / "my set"
    assert load_manifest(out).image_size == 32
    assert not (tmp_path / "~").exists()
    command = next(x for x in err.splitlines() if x.startswith("Next: "))
    assert shlex.split(command)[1:5] == ["drtf", "train", "--shards", str(out)]


def test_every_command_takes_its_inputs_from_a_store():
    inputs = {"run", "runs", "shards", "images", "labels", "masks", "table", "gradable"}
    commands = (*drtf.commands.values(), *drtf.commands["bench"].commands.values())
    local = [
        (command.name, parameter.name)
        for command in commands
        for parameter in command.params
        if parameter.name in inputs and type(parameter.type) is LocalPath
    ]
    # It compares readers of local files.
    assert local == [("read", "shards")]


@pytest.fixture
def small_demo(monkeypatch):
    """Make the presets of the demo and of the pages smaller."""

    def small(settings):
        def load(source="", overrides=(), **options):
            changes = settings if source in ("demo", "mobilenetv2-96") else ()
            return load_config(source, [*changes, *overrides], **options)

        return load

    monkeypatch.setattr("drtf.config.load_config", small(DEMO))
    # Only the command trains a MobileNetV2.
    eyenet = (*DEMO, *EYENET, "model.alpha=1.0")
    monkeypatch.setattr("drtf.api.load_config", small(eyenet))


def test_the_commands_of_the_pages_run(
    run, tmp_path, monkeypatch, small_demo, same_process
):
    # test_bench_read.py runs all readers.
    monkeypatch.setattr("drtf.bench.read.RAW_METHODS", (DRTF,))
    monkeypatch.chdir(tmp_path)
    labels = write_photographs(tmp_path / "written", suffix=".jpg")
    labels.rename("labels.csv")
    (tmp_path / "written" / "images").rename("photographs")
    # The gate learns that the diseased photographs are ungradable.
    gradable = Path("labels.csv").read_text().replace("level", "gradable")
    gradable = re.sub(",[1-4]", ",no", gradable)
    Path("gradable.csv").write_text(gradable.replace(",0", ",yes"))
    lines = dict.fromkeys("".join(code_blocks("bash")).splitlines())
    commands = [shlex.split(line, comments=True)[1:] for line in lines]
    # serve runs until it is stopped; tests/test_serving.py starts it.
    assert {words[0] for words in commands} == set(drtf.commands) - {"serve"}
    for words in commands:
        extra: list[str] = []
        if words[0] == "build-shards":
            extra = sets(*SMALL)
        elif words[0] == "train":
            extra = sets(*QUICK)
        elif words[0] == "sweep":
            extra = ["--seeds", "1", *sets(*QUICK)]
        elif words[0] == "bench":
            extra = {
                "convert": ["--repeats", "1", "--limit", "1", *sets("images.size=32")],
                "read": [*SHORT, "--batch-size", "8"],
                "order": ["--batch-size", "8"],
                "memory": ["--epochs", "2", "--batch-size", "7"],
                "scale": ["--records", "100"],
                "augment": ["--repeats", "1", "--size", "16", "--batch-size", "8"],
                "train": [*SHORT, *sets(*EYENET, "train.batch_size=8")],
                "gpu": ["--quick", "--minutes", "0.001"],
                "score": ["--repeats", "1", "--photographs", "80", *sets(*SCORING)],
                "quality": [],
            }[words[1]]
        elif words[0] == "demo":
            extra = ["--patients", "40"]
        code, out, err = run(*words, *extra)
        if words[0] == "adapt":  # EyeNet has no batch normalization
            assert_names(err, "batch normalization")
            continue
        assert (code, "Traceback" in err) == (0, False), (words, err)
        assert out
        if words[0] == "evaluate":
            assert_names(err, f"drtf score {words[1]}")
    assert json.loads(Path("runs/mine/evaluation-test/metrics.json").read_text())
    with Path("scores.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 48
    for name in ("images", "heatmaps", "overlays"):
        assert cv2.imread(f"heatmaps/{name}.png") is not None
    assert Path("mine.tflite").read_bytes()[4:8] == b"TFL3"
    assert "roc_auc" in json.loads(Path("demo/evaluation/metrics.json").read_text())


@pytest.mark.parametrize(
    ("words", "setting", "sections"),
    [
        (
            ("score", "--images", "x", "--out", "x.csv"),
            "evaluate.threshold=0.3",
            ["score"],
        ),
        (("evaluate", "--shards", "x"), "train.seed=1", ["evaluate", "gradcam"]),
        (
            ("gradcam", "--images", "IMAGES", "--out", "x"),
            "images.size=64",
            ["gradcam", "score"],
        ),
    ],
)
def test_set_is_refused_when_the_command_does_not_read_the_section(
    run, run_folder, photographs, words, setting, sections
):
    command, *options = words
    images = photographs / "images"
    options = [images if word == "IMAGES" else word for word in options]
    code, _, err = run(command, run_folder, *options, "--set", setting)
    assert code == 1
    assert_names(find_error(err), f"--set {setting}", *sections)


def test_compare_refuses_a_single_run(run, run_folder):
    code, _, err = run("compare", run_folder)
    assert code == 2
    assert "Usage:" in err
    assert run("compare", run_folder, run_folder)[0] == 1  # two are, once evaluated


def test_a_dry_run_prints_the_plan_and_writes_nothing(run, shards, tmp_path):
    out = tmp_path / "run"
    code, text, _ = run(
        *("train", "--shards", shards, "--out", out, "--dry-run"),
        *sets("train.batch_size=8", "train.epochs=3", *EYENET),
    )
    assert code == 0
    assert find_line(text, 12, 8, 3, 4)
    assert find_line(text, "eyenet", 32, 0, "float32")
    assert not out.exists()


def test_train_and_build_shards_warn_when_imagenet_weights_are_unavailable(
    run, shards, tmp_path, monkeypatch
):
    problem = "no network"
    monkeypatch.setattr("drtf.models.weights.imagenet_problem", lambda *a, **k: problem)
    out = tmp_path / "out"
    words = ("--shards", shards, "--out", out, "--dry-run")
    assert_names(run("train", *words, *sets("model.alpha=0.35"))[2], problem)
    words = ("--images", tmp_path / "none", "--labels", "no.csv", "--out", out)
    assert_names(run("build-shards", *words)[2], problem)


def test_a_dry_run_notes_class_weights_on_top_of_balanced_sampling(
    run, shards, tmp_path
):
    words = ("train", "--shards", shards, "--out", tmp_path / "run", "--dry-run")
    weighted = sets("train.class_weights=[1, 2]", *EYENET)
    assert_names(run(*words, *weighted)[1], "train.class_weights", "sampling.mode")
    natural = run(*words, *weighted, *sets("sampling.mode=natural"))[1]
    assert "train.class_weights" not in natural


def test_a_dry_run_prints_the_groups_that_sampling_balances(run, shards, tmp_path):
    words = ("train", "--shards", shards, "--out", tmp_path / "run", "--dry-run")
    text = run(*words, *sets("sampling.by=[class,eye]", *EYENET))[1]
    assert_names(text, "sampling.by", "class 0, eye left", "class 1, eye right")


def test_a_finished_training_is_named_and_not_repeated(run, shards, run_folder):
    before = (run_folder / "run.json").stat().st_mtime_ns
    words = ("train", "--shards", shards, "--out", run_folder)
    code, _, err = run(*words)
    assert code == 1
    assert_names(find_error(err), run_folder, "--out")
    code, out, err = run(*words, "--resume", *sets(*SETTINGS))
    assert code == 0
    assert "already" in out
    assert_names(err, f"drtf evaluate {run_folder} --shards {shards}")
    assert (run_folder / "run.json").stat().st_mtime_ns == before


def test_wrong_paths_and_existing_output_are_refused_without_tensorflow(
    shards, photographs, run_folder, tmp_path
):
    images, missing, out = photographs / "images", tmp_path / "missing", tmp_path / "o"
    taken = tmp_path / "taken"
    taken.mkdir()
    for name in ("contact-sheet.png", "report.html", "scores.csv", "images.png"):
        (taken / name).touch()
    train = "train", "--shards"
    evaluate, score, gradcam = (
        (command, run_folder) for command in ("evaluate", "score", "gradcam")
    )
    commands: list[tuple[tuple[object, ...], Path]] = [
        ((*train, missing, "--out", out), missing),
        ((*train, shards, "--out", run_folder), run_folder),
        ((*train, shards, "--out", taken), taken),
        (("inspect", missing), missing),
        (("inspect", shards, "--out", taken), taken / "contact-sheet.png"),
        (("evaluate", missing, "--shards", shards), missing),
        ((*evaluate, "--shards", missing), missing),
        ((*evaluate, "--shards", shards, "--out", taken), taken / "report.html"),
        (("score", missing, "--images", images, "--out", "new.csv"), missing),
        ((*score, "--images", missing, "--out", "new.csv"), missing),
        ((*score, "--images", images, "--out", taken / "scores.csv"), taken),
        (("gradcam", missing, "--images", images, "--out", out), missing),
        ((*gradcam, "--images", missing, "--out", out), missing),
        ((*gradcam, "--shards", missing, "--out", out), missing),
        ((*gradcam, "--shards", shards, "--out", taken), taken / "images.png"),
    ]
    code = (
        "import json, sys\n"
        "sys.modules |= dict.fromkeys(['tensorflow', 'keras'])  # cannot be imported\n"
        "from drtf.tools.main import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['drtf', *words]\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as stopped:\n"
        "        assert stopped.code == 1, words\n"
    )
    words = json.dumps([list(map(str, command)) for command, _ in commands])
    done = subprocess.run(
        [sys.executable, "-c", code, words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    errors = [x for x in done.stderr.splitlines() if x.startswith("Error: ")]
    assert len(errors) == len(commands), done.stderr
    for line, (_, fact) in zip(errors, commands, strict=True):
        assert_names(line, fact)
    assert not out.exists()


def test_settings_prints_the_values_of_a_preset(run):
    code, out, _ = run("settings", "eyenet-256")
    assert code == 0
    assert 'model.name = "eyenet" (default: "mobilenetv2")' in out
    assert "(default" not in run("settings", "train")[1]
    code, _, err = run("settings", "eyenet")
    assert code == 2
    assert_names(err, "eyenet", "eyenet-256")


def test_the_python_examples_of_the_pages_run(
    shards, photographs, tmp_path, monkeypatch, small_demo
):
    monkeypatch.chdir(tmp_path)
    Path("tfrecords").mkdir()
    Path("tfrecords/mine").symlink_to(shards)
    Path("photographs").symlink_to(photographs / "images")
    Path("labels.csv").symlink_to(photographs / "labels.csv")
    workflow, own_model = code_blocks("python")
    names: dict[str, Any] = {}
    exec(workflow, names)
    assert len(names["scores"]) == len(list(Path("photographs").iterdir()))
    exec(own_model, names)
    val_loss = names["model"].history.history["val_loss"][-1]
    with ShardDataset(Path("tfrecords/mine")) as dataset:
        rows = dataset.split_rows("val")
        images, labels = read_batch(dataset, rows), dataset.grades[rows] > 0
    loss = names["model"].evaluate(images, labels, batch_size=len(rows))
    assert val_loss == pytest.approx(loss, rel=1e-4)
    assert names["run"].config.model.name == "own-model"


def test_a_rejected_photograph_exits_3_and_is_listed(run, tmp_path):
    labels = write_photographs(tmp_path / "p")
    (tmp_path / "p" / "images" / "3_left.png").write_bytes(b"")
    code, out, _ = run(
        "build-shards",
        *("--images", tmp_path / "p" / "images", "--labels", labels),
        *("--out", tmp_path / "set", *sets(*SMALL)),
    )
    assert code == 3
    assert_names(find_line(out, 1, "empty"), tmp_path / "set" / "rejected.csv")
    assert "3_left.png,empty" in (tmp_path / "set" / "rejected.csv").read_text()


def test_build_says_how_patients_are_named(run, photographs, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    rows = ["image,level"]
    for number, path in enumerate(sorted((photographs / "images").iterdir())):
        name = f"P{number // 2}_{number}_{'OD' if number % 2 else 'OS'}.png"
        shutil.copyfile(path, images / name)
        rows.append(f"{name},{number % 2}")
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(rows))
    words = ("build-shards", "--images", images, "--labels", labels, *sets(*SMALL))
    output = run(*words, "--out", tmp_path / "a")[1]
    find_line(output, "no", "two", "photographs", "patient_pattern")
    output = run(
        *words, *sets("labels.patient_pattern=^(P[0-5])_"), "--out", tmp_path / "b"
    )[1]
    assert "no two photographs" not in output
    note, hint, *_ = output.splitlines()
    assert_names(note, len(rows) - 1 - 12, "patients")
    assert_names(hint, "labels.patient_column", "labels.patient_pattern")
    line = next(x for x in output.splitlines() if "of the patient" in x)
    patient, name = re.findall("'([^']*)'", line)
    assert name.startswith(f"{patient}_")
    assert_names(line, 6, 2)


def test_build_and_inspect_say_what_the_labels_do_not_tell(run, photographs, tmp_path):
    images = shutil.copytree(photographs / "images", tmp_path / "images")
    paths = sorted(images.iterdir())
    rows = ["image,level,age,Usage"]
    for number, path in enumerate(paths):
        path.rename(images / f"IMG_{number}.png")
        rows.append(f"IMG_{number}.png,{number % 2},50,Public")
    rows[3] = "IMG_2.png,5,50,Public"
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join([*rows[:-1], "lost,0,50,Public"]))
    out = tmp_path / "set"
    words = ("build-shards", "--images", images, "--labels", labels, "--out", out)
    code, output, err = run(*words, *sets(*SMALL))
    assert code == 3
    assert_names(err, f"drtf train --shards {out}")
    again = run(*words, *sets(*SMALL, "train.task=referable"))[1]
    assert_names(again, "train.task='referable'")
    note, hint, *_ = output.splitlines()
    assert_names(note, UNKNOWN_PATIENTS_NOTE)
    assert_names(hint, "labels.patient_column", "labels.patient_pattern")
    find_line(output, "age", "Usage")
    find_line(output, "Usage", "split_column")
    find_line(output, "label", 5, 1)
    find_line(output, 1, "Labels", "unmatched")
    find_line(output, 1, "Photographs", "unmatched")
    find_line(output, 0, 1, "task", "binary")
    find_line(output, 1, "ungraded", "rejected")
    code, output, _ = run("inspect", out, "--out", tmp_path / "inspection")
    assert code == 0
    assert_names(output.splitlines()[0], UNKNOWN_PATIENTS_NOTE)


def test_published_splits_may_have_one_label_file_each(run, photographs, tmp_path):
    header, *rows = (photographs / "labels.csv").read_text().splitlines()
    words = ["build-shards", "--out", tmp_path / "set", *sets(*SMALL)]
    for split, part in (("train", rows[:36]), ("test", rows[36:])):
        (tmp_path / split).write_text("\n".join([header, *part]))
        words += ["--split", split, photographs / "images", tmp_path / split]
    code, output, _ = run(*words)
    assert code == 0
    find_line(output, 48)
    find_line(output, "val", 4, "val_size")
    assert "unmatched.csv" not in output
    counts = load_manifest(tmp_path / "set").num_records
    assert {split: sum(x.values()) for split, x in counts.items()} == {
        "train": 32,
        "val": 4,
        "test": 12,
    }


def test_the_next_command_evaluates_when_a_dataset_is_only_for_testing(
    run, photographs, tmp_path
):
    out = tmp_path / "set"
    part = ("test", photographs / "images", photographs / "labels.csv")
    code, _, err = run("build-shards", "--split", *part, "--out", out, *sets(*SMALL))
    assert code == 0
    assert_names(err, f"drtf evaluate RUN --shards {out} --split test")


def test_a_score_with_an_error_exits_3(run, run_folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(b"")
    arguments = ("score", run_folder, "--images", images, "--out", tmp_path / "s.csv")
    code, out, _ = run(*arguments)
    assert code == 3
    assert_names(out, tmp_path / "s.csv", 0, 1)
    with (tmp_path / "s.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["path"], row["score"]) == ("a.png", "")
    assert_names(row["error"], "empty")
    assert_names(find_line(out, 1, "empty"), "a.png")
    code, out, _ = run(*arguments)
    assert code == 3  # as when the table was written
    assert "nothing was changed" in out
    code, out, _ = run(*arguments, "--append")
    assert code == 0  # it is not new
    assert_names(out, tmp_path / "s.csv", 0, 1)
    code, _, _ = run(*arguments, "--overwrite", "--max-rejected", "100%")
    assert code == 0


def test_a_single_photograph_is_scored_and_its_row_is_shown(run, run_folder, tmp_path):
    (tmp_path / "7_left.png").write_bytes(encode(draw_fundus(seed=1)))
    (tmp_path / "list.csv").write_text("path\n7_left.png\n")
    code, out, err = run(
        "score",
        run_folder,
        *("--images", tmp_path / "list.csv", "--out", tmp_path / "s.csv"),
        *sets("score.threshold=0.0"),
    )
    assert code == 0
    assert_names(out, "7_left", "not_a_fundus", "given")
    assert "predicted_grade" not in out  # the run predicts none
    code, _, err = run(
        "score",
        run_folder,
        *("--images", tmp_path / "list.csv", "--out", tmp_path / "t.csv"),
        *sets("evaluate.threshold=0.3"),
    )
    assert code == 1
    assert_names(err, "evaluate.threshold=0.3", "score.threshold")


def test_verify_exits_1_when_the_dataset_is_damaged(run, shards, tmp_path):
    code, out, _ = run("verify", shards)
    assert code == 0
    assert_names(out, shards)
    copy = shutil.copytree(shards, tmp_path / "copy")
    path = min(copy.glob("*val*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    code, out, _ = run("verify", copy)
    assert code == 1
    assert_names(out, copy, path.name)


def test_sources_combine_named_collections(run, photographs, tmp_path):
    images, labels = photographs / "images", photographs / "labels.csv"
    code, out, _ = run(
        "build-shards",
        *("--source", "one", images, labels),
        *("--source", "two", images, labels),
        *("--out", tmp_path / "set", *sets(*SMALL)),
    )
    assert code == 0
    with ShardDataset(tmp_path / "set") as shards:
        index = shards.load_index()
    assert set(index["source"]) == {"one", "two"}
    assert len(index) == 96
    # Each photograph is in both, and they never stand in two splits.
    assert (index.groupby("sha256")["split"].nunique() == 1).all()
    code, out, _ = run("inspect", tmp_path / "set")
    assert code == 0
    assert find_line(out, 96)
    assert (tmp_path / "set-inspection" / "contact-sheet.png").exists()


def test_class_folders_are_the_labels_without_a_label_file(run, photographs, tmp_path):
    images = tmp_path / "images"
    for line in (photographs / "labels.csv").read_text().splitlines()[1:]:
        name, grade = line.split(",")
        folder = (
            images / ("No_DR", "Mild", "Moderate", "", "Proliferate_DR")[int(grade)]
        )
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(photographs / "images" / f"{name}.png", folder)
    words = ("build-shards", "--images", images, "--out", tmp_path / "set")
    code, out, _ = run(*words, *sets(*SMALL))
    assert code == 0
    find_line(out, "No_DR", 0, "Mild", 1, "Moderate", 2, "Proliferate_DR", 4)
    manifest = load_manifest(tmp_path / "set")
    assert sum(manifest.num_patients.values()) == 24
    assert sum(counts["4"] for counts in manifest.num_records.values()) == 8
    (images / "0_left.png").write_bytes(b"")
    code, _, err = run(*words[:-1], tmp_path / "other", *sets(*SMALL))
    assert code == 1
    assert_names(find_error(err), images, 1, 49, "'0_left.png'", "--labels")


def test_sweep_expects_class_folders_without_a_label_file(run, photographs, tmp_path):
    images = photographs / "images"
    code, _, err = run("sweep", "demo", "--images", images, "--out", tmp_path / "sweep")
    assert code == 1
    assert_names(find_error(err), images, 48, "'0_left.png'", "--labels")


def test_class_folders_can_be_one_of_several_sources(run, photographs, tmp_path):
    (tmp_path / "images" / "3").mkdir(parents=True)
    image = encode(draw_fundus(seed=99, diseased=True))
    (tmp_path / "images" / "3" / "a.png").write_bytes(image)
    code, _, _ = run(
        "build-shards",
        *("--source", "one", photographs / "images", photographs / "labels.csv"),
        *("--source", "two", tmp_path / "images", "-"),
        *("--out", tmp_path / "set", *sets(*SMALL)),
    )
    assert code == 0
    with ShardDataset(tmp_path / "set") as shards:
        index = shards.load_index().set_index("id")
    assert len(index) == 49
    assert index.loc["two/3/a", ["patient", "grade"]].tolist() == ["two/3/a", 3]


def test_conflicting_grades_are_listed_and_can_be_dropped(run, photographs, tmp_path):
    folder = shutil.copytree(photographs, tmp_path / "p")
    images = folder / "images"
    shutil.copy(images / "1_left.png", images / "3_left.png")
    words = ("build-shards", "--images", images, "--labels", folder / "labels.csv")
    code, out, _ = run(*words, "--out", tmp_path / "kept", *sets(*SMALL))
    assert code == 0
    assert find_line(out, "1_left", 2, "3_left", 4)
    drop = sets(*SMALL, "labels.conflicts=drop")
    code, out, _ = run(*words, "--out", tmp_path / "dropped", *drop)
    assert code == 3
    assert find_line(out, 2, "conflicting_grade")
    code, _, err = run(
        *words, "--out", tmp_path / "no", *sets("labels.conflicts=error")
    )
    assert code == 1
    error = find_error(err)
    assert_names(error, "1_left", 2, "3_left", 4, "labels.conflicts")


def test_a_build_fails_when_too_many_photographs_are_rejected(run, tmp_path):
    labels = write_photographs(tmp_path / "p")
    (tmp_path / "p" / "images" / "3_left.png").write_bytes(b"")
    words = ("build-shards", "--images", tmp_path / "p" / "images", "--labels", labels)
    words = (*words, "--out", tmp_path / "set", *sets(*SMALL))
    code, _, err = run(*words, "--max-rejected", "2%")
    assert code == 1
    assert_names(find_error(err), 1, 48, "empty", "--max-rejected")
    assert run(*words, "--max-rejected", "0.05")[0] == 3


def test_images_may_be_a_list_of_paths(run, photographs, tmp_path):
    listed = tmp_path / "list.csv"
    names = sorted(path for path in (photographs / "images").iterdir())
    listed.write_text("path\n" + "\n".join(map(str, names[:30])))
    code, out, _ = run(
        *("build-shards", "--images", listed, "--labels", photographs / "labels.csv"),
        *("--out", tmp_path / "set", *sets(*SMALL)),
    )
    assert code == 0
    assert find_line(out, 18, "Labels")


def test_a_repeated_build_reports_that_nothing_changed(run, photographs, tmp_path):
    words = ("build-shards", "--images", photographs / "images", "--labels")
    words = (*words, photographs / "labels.csv", "--out", tmp_path / "s", *sets(*SMALL))
    built = run(*words)[1]
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}
    code, out, _ = run(*words)
    assert code == 0
    assert set(built.splitlines()) < set(out.splitlines())
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_verify_decodes_images_when_deep(run, shards):
    code, out, _ = run("verify", "--deep", shards)
    assert code == 0
    assert_names(out, shards)


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        ("verify {tmp}/no", ["{tmp}/no", "manifest.json", "drtf build-shards"]),
        (
            "build-shards --images {tmp}/no --labels {labels} --out {tmp}/o",
            ["{tmp}/no", "--images"],
        ),
        (
            "build-shards --images {tmp} --labels {labels} --out {tmp}/o",
            ["{tmp}", ".jpeg", ".png"],
        ),
        (
            "build-shards --images {images} --labels {tmp}/no.csv --out {tmp}/o",
            ["{tmp}/no.csv", os.strerror(errno.ENOENT)],
        ),
        (
            "build-shards --images {images} --labels {other} --out {tmp}/o",
            ["{other}", "name", "stage", "labels.image_column", "labels.grade_column"],
        ),
        (
            "build-shards --images {images} --labels {labels} --out {tmp}/o "
            "--set images.sise=9",
            ["images.sise", "images.size"],
        ),
        (
            "train --shards {tmp}/no --out {tmp}/o",
            ["{tmp}/no", "manifest.json", "drtf build-shards"],
        ),
        (
            "train --shards {shards} --out {tmp}/o --config no-such",
            ["no-such", ".toml"],
        ),
        (
            "train --shards {shards} --out {tmp}/o --set model.weights=no.weights.h5",
            ["model.weights", "no.weights.h5"],
        ),
        ("evaluate {tmp} --shards {shards}", ["{tmp}", "run.json", "drtf train"]),
        ("evaluate {run} --shards {shards} --split dev", ["{shards}", "dev"]),
        (
            "score {tmp}/no --images {images} --out {tmp}/o.csv",
            ["{tmp}/no", "drtf train"],
        ),
        (
            "score {run} --images {tmp}/no --out {tmp}/o.csv",
            ["{tmp}/no", "--images"],
        ),
        (
            "gradcam {tmp} --shards {shards} --out {tmp}/o",
            ["{tmp}", "run.json", "drtf train"],
        ),
        (
            "gradcam {run} --shards {shards} --out {tmp}/o --set gradcam.layer=conv_9",
            ["conv_9", "conv_3"],
        ),
    ],
)
def test_a_users_mistake_exits_1_with_one_line(
    run, words, facts, tmp_path, photographs, shards, run_folder
):
    other = tmp_path / "other.csv"
    other.write_text("name,stage\na,1\n")
    places = {
        "tmp": tmp_path,
        "labels": photographs / "labels.csv",
        "images": photographs / "images",
        "other": other,
        "shards": shards,
        "run": run_folder,
    }
    code, _, err = run(*shlex.split(words.format(**places)))
    assert code == 1
    assert_names(find_error(err), *(fact.format(**places) for fact in facts))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "words",
    [
        "nothing",
        "train",
        "evaluate x --shards y --tta all",
        "gradcam x --out y",
        "gradcam x --out y --shards a --images b",
        "demo --out x --patients 1",
        "build-shards --out x",
        "build-shards --out x --labels b",
        "build-shards --out x --labels b --source n a b",
        "build-shards --out x --images a --labels b --source n a b",
        "build-shards --out x --images a --labels b --max-rejected 101%",
        "bench",
        "bench read --shards s3://bucket/set",
    ],
)
def test_wrong_usage_exits_2(run, words):
    code, _, err = run(*words.split())
    assert code == 2
    assert "Usage:" in err


def test_a_missing_libgl_is_an_error_that_names_the_fix(run, shards, monkeypatch):
    def fail(*args, **kwargs):
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr("drtf.records.verify.find_faults", fail)
    code, _, err = run("verify", shards)
    assert code == 1
    facts = ("OpenCV", "libGL.so.1", "libgl1", "opencv-python-headless")
    assert_names(find_error(err), *facts)


def fail_with(error: BaseException):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "facts"),
    [
        (MemoryError(), ["memory", "build.num_workers"]),
        (RuntimeError("can't start new thread"), ["memory"]),
        (ImportError("x.so: failed to map segment from shared object"), ["memory"]),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), ["memory"]),
        (OSError(errno.ENOSPC, "full", "a/b"), ["a/b", "full", "disk space"]),
        (OSError(errno.EROFS, "read-only", "a/b"), ["a/b", "read-only", "--out"]),
        (OSError(errno.EMFILE, "too many", "a/b"), ["a/b", "too many", "ulimit -n"]),
        (OSError(errno.EIO, "i/o", "a/b"), ["a/b", "i/o"]),
    ],
)
def test_a_failure_of_the_machine_is_one_line_with_its_reason(
    run, shards, monkeypatch, error, facts
):
    monkeypatch.setattr("drtf.records.verify.find_faults", fail_with(error))
    code, _, err = run("verify", shards)
    assert code == 1
    assert_names(find_error(err), *facts)


def test_an_error_has_no_control_characters(run, tmp_path):
    code, _, err = run("verify", tmp_path / "\x1b[31m\nNo faults")
    assert code == 1
    assert_names(find_error(err), r"\x1b[31m\nNo faults")


@pytest.mark.parametrize(
    ("words", "function", "fact"),
    [
        (
            "build-shards --images x --out y",
            "drtf.building.build.build_shards",
            "same command",
        ),
        ("train --shards SHARDS --out y", "drtf.training.run.train", "--resume"),
        ("verify SHARDS", "drtf.records.verify.find_faults", "from the beginning"),
    ],
)
def test_ctrl_c_exits_130_and_reports_how_to_resume(
    run, shards, monkeypatch, words, function, fact
):
    monkeypatch.setattr(function, fail_with(KeyboardInterrupt()))
    code, _, err = run(*words.replace("SHARDS", str(shards)).split())
    assert code == 128 + signal.SIGINT
    assert_names(find_error(err, kind="Stopped"), fact)


def test_a_memory_limit_under_which_libraries_hang_is_refused(run, monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda kind: (700_000_000, -1))
    code, _, err = run("doctor")
    assert code == 1
    assert_names(find_error(err), "0.7 GB", "ulimit -v")


def test_a_reader_that_ends_early_is_no_error(shards):
    code = "from drtf.tools.main import main; main()"
    source, sink = os.pipe()
    os.close(source)
    verify = subprocess.run(
        [sys.executable, "-c", code, "verify", str(shards)],
        stdout=sink,
        stderr=subprocess.PIPE,
    )
    os.close(sink)
    assert verify.returncode == 0
    assert b"rror" not in verify.stderr


def test_an_output_that_cannot_be_created_is_an_error(run, photographs, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = run(
        "build-shards",
        *("--images", photographs / "images"),
        *("--labels", photographs / "labels.csv"),
        *("--out", tmp_path / "file" / "set"),
    )
    assert code == 1
    reason = os.strerror(errno.ENOTDIR)
    assert_names(find_error(err), tmp_path / "file", reason, "--out")


def test_ctrl_c_ends_a_build_at_once_and_leaves_no_dataset(photographs, tmp_path):
    settings = (*SMALL, "build.num_workers=2", "model.weights=none")
    command = interrupted_command(
        *("build-shards", "--out", "set", *sets(*settings)),
        *("--images", photographs / "images"),
        *("--labels", photographs / "labels.csv"),
        function="drtf.building.journal:Journal.append",
        num_calls=3,
        number=signal.SIGINT,
    )
    build = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert build.returncode == 128 + signal.SIGINT
    assert_names(find_error(build.stderr, kind="Stopped"), "same command")
    assert not (tmp_path / "set").exists()


def test_a_bug_keeps_its_traceback(shards, monkeypatch):
    def fail(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr("drtf.records.verify.find_faults", fail)
    monkeypatch.setattr(sys, "argv", ["drtf", "verify", str(shards)])
    with pytest.raises(ZeroDivisionError):
        main()
