"""Tasks: the classes that a network learns, from grades to predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

# Grades of the International Clinical Diabetic Retinopathy scale: Wilkinson et al.,
# Ophthalmology 110(9), 2003.
NUM_GRADES = 5
GRADES = range(NUM_GRADES)

TaskName = Literal["binary", "referable", "grades"]


def classes_at(expected: np.ndarray, cut_points: Sequence[float]) -> np.ndarray:
    """Return the class of each expected class, by cut points.

    Args:
        expected: float [...], from `Task.expected_classes`.
        cut_points: The expected class from which class 1 is predicted, class 2 and so
            on, in ascending order.

    Returns:
        int64 [...], the number of cut points that are not above the value.
    """
    return np.searchsorted(np.asarray(cut_points), expected, side="right")


@dataclass(frozen=True)
class Task:
    """The labels that a network learns from the grades, and the meaning of its output.

    A network for two classes has a single output, the probability of disease. A network
    for the grades has one output for each grade.

    Attributes:
        name: The value of `train.task`.
        positive_from: The lowest grade that counts as positive, 1-4.
        class_names: Names of the classes that the network predicts, from class 0.
        label_names: Names of the binary labels: negative, positive.
        num_logits: Number of outputs of the network.
        predicts_grades: Whether the classes are the grades, which have an order.
        default_monitor: The validation metric that `train.monitor="auto"` stands for.
    """

    name: TaskName
    positive_from: int
    class_names: tuple[str, ...]
    label_names: tuple[str, str]
    num_logits: int = 1
    predicts_grades: bool = False
    default_monitor: str = "roc_auc"

    @property
    def num_classes(self) -> int:
        """Number of classes that the network predicts."""
        return len(self.class_names)

    @property
    def first_positive_class(self) -> int:
        """The lowest class that counts as positive."""
        return self.positive_from if self.predicts_grades else 1

    @property
    def disease_outputs(self) -> slice:
        """The outputs of the network whose sum is the probability of disease."""
        return slice(self.positive_from if self.predicts_grades else 0, None)

    def classes(self, grades: np.ndarray) -> np.ndarray:
        """Return the class of each grade.

        Args:
            grades: int [...] in 0-4.

        Returns:
            int8 [...], from 0 to `num_classes` - 1.
        """
        if self.predicts_grades:
            return grades.astype(np.int8)
        return (grades >= self.positive_from).astype(np.int8)

    def labels(self, grades: np.ndarray) -> np.ndarray:
        """Return the binary label of each grade.

        Args:
            grades: int [...] in 0-4.

        Returns:
            int64 [...], 1 where the grade is positive.
        """
        return (grades >= self.positive_from).astype(np.int64)

    def disease_scores(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the score for disease of each output of a network.

        Args:
            probabilities: float [..., C] in [0, 1], with C = `num_logits`.

        Returns:
            float [...] in [0, 1].
        """
        return probabilities[..., self.disease_outputs].sum(axis=-1)

    def expected_classes(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the mean of the classes, weighted by their probabilities.

        Args:
            probabilities: float [..., C] in [0, 1], with C = `num_logits`.

        Returns:
            float [...] from 0 to `num_classes` - 1. With two classes it is the
            probability of disease.
        """
        classes = np.arange(self.num_classes, dtype=probabilities.dtype)
        return probabilities @ classes[-self.num_logits :]

    @property
    def neutral_cut_points(self) -> tuple[float, ...]:
        """The cut points that round an expected class to the nearest class."""
        return tuple(number + 0.5 for number in range(self.num_classes - 1))


TASKS: Mapping[TaskName, Task] = {
    task.name: task
    for task in (
        Task(
            name="binary",
            positive_from=1,
            class_names=("healthy", "diseased"),
            label_names=("healthy", "diseased"),
        ),
        Task(
            name="referable",
            positive_from=2,
            class_names=("not referable", "referable"),
            label_names=("not referable", "referable"),
        ),
        Task(
            name="grades",
            positive_from=2,
            class_names=tuple(f"grade {grade}" for grade in GRADES),
            label_names=("not referable", "referable"),
            num_logits=NUM_GRADES,
            predicts_grades=True,
            default_monitor="kappa",
        ),
    )
}
