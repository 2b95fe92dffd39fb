import subprocess
import sys
from typing import get_args

import numpy as np
import pytest

from drtf.config import load_config
from drtf.tasks import TASKS, TaskName, classes_at

GRADES = np.arange(5)


def test_tasks_are_named_by_their_keys():
    assert tuple(TASKS) == get_args(TaskName)
    assert all(task.name == name for name, task in TASKS.items())


@pytest.mark.parametrize(
    ("name", "classes", "labels"),
    [
        ("binary", [0, 1, 1, 1, 1], [0, 1, 1, 1, 1]),
        ("referable", [0, 0, 1, 1, 1], [0, 0, 1, 1, 1]),
        ("grades", [0, 1, 2, 3, 4], [0, 0, 1, 1, 1]),
    ],
)
def test_classes_and_labels_follow_the_task(name, classes, labels):
    task = TASKS[name]
    assert task.classes(GRADES).dtype == np.int8
    assert task.classes(GRADES).tolist() == classes
    assert task.labels(GRADES).dtype == np.int64
    assert task.labels(GRADES).tolist() == labels
    assert task.num_classes == max(classes) + 1
    positive = task.classes(GRADES) >= task.first_positive_class
    assert positive.astype(int).tolist() == labels


@pytest.mark.parametrize("name", ["binary", "referable"])
def test_a_single_output_is_the_score_for_disease(name):
    probabilities = np.array([[[0.2], [0.5]], [[0.7], [0.49]]])
    task = TASKS[name]
    assert task.num_logits == 1
    assert task.disease_scores(probabilities).tolist() == [[0.2, 0.5], [0.7, 0.49]]
    expected = task.expected_classes(probabilities)
    assert expected.tolist() == [[0.2, 0.5], [0.7, 0.49]]
    assert classes_at(expected, task.neutral_cut_points).tolist() == [[0, 1], [1, 0]]


def test_the_score_of_grades_is_that_of_referable_disease():
    probabilities = np.array([[0.4, 0.1, 0.3, 0.2, 0.0], [0.1, 0.1, 0.1, 0.1, 0.6]])
    task = TASKS["grades"]
    assert task.num_logits == 5
    assert task.disease_scores(probabilities) == pytest.approx([0.5, 0.8])


def test_cut_points_turn_the_expected_grade_into_a_grade():
    task = TASKS["grades"]
    probabilities = np.array(
        [[0.4, 0.1, 0.3, 0.2, 0.0], [0.1, 0.1, 0.1, 0.1, 0.6]], np.float32
    )
    expected = task.expected_classes(probabilities)
    assert expected.dtype == np.float32
    assert expected == pytest.approx([1.3, 3.0])
    assert task.neutral_cut_points == (0.5, 1.5, 2.5, 3.5)
    assert classes_at(expected, task.neutral_cut_points).tolist() == [1, 3]
    # A value at a cut point has reached it, and equal cut points leave out a grade.
    assert classes_at(np.array([0, 1, 2.9]), (1, 2, 2, 4)).tolist() == [0, 1, 3]


def test_tasks_are_loaded_without_tensorflow():
    code = "import sys, drtf.tasks; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", get_args(TaskName))
def test_the_config_takes_each_task(name):
    assert load_config("", [f"train.task={name}"]).train.task == name
