"""The published label files that are recognized by their columns.

To add one, add an entry to LABEL_FORMATS. The help of `drtf build-shards` and the error
messages list the entries.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from drtf.photographs.patient_columns import fold_name


@dataclass(frozen=True)
class LabelFormat:
    """The columns of a label file.

    Attributes:
        name: Name of the published dataset.
        image: Column with the photograph's name.
        grades: Column with the grade, or one for each eye.
        patient: Column with the patient; empty if the file has none of an unusual name.
        markers: Other columns, by which a file of this format is recognized.
        values: The grade that each value means, if the values are not grades.
        note: What a user must know about the grades.
    """

    name: str
    image: str
    grades: tuple[str, ...]
    patient: str = ""
    markers: tuple[str, ...] = ()
    values: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns that a file of this format has."""
        named = (self.image, *self.grades, self.patient, *self.markers)
        return tuple(filter(None, named))

    def __str__(self) -> str:
        """Return the name with the columns, such as `EyePACS (image,level)`."""
        return f"{self.name} ({','.join(self.columns)})"


# If a file has the columns of several formats, the one with the most columns is used.
LABEL_FORMATS = (
    LabelFormat("EyePACS", "image", ("level",)),
    LabelFormat("EyeQ", "image", ("DR_grade",)),
    LabelFormat("APTOS", "id_code", ("diagnosis",)),
    LabelFormat("IDRiD", "Image name", ("Retinopathy grade",)),
    LabelFormat(
        "Messidor",
        "Image name",
        ("Retinopathy grade",),
        markers=("Ophthalmologic department",),
        note="Messidor's grades 0-3 follow another scale than ICDR",
    ),
    LabelFormat("Messidor-2", "image_id", ("adjudicated_dr_grade",)),
    LabelFormat("BRSET", "image_id", ("DR_ICDR",)),
    LabelFormat("mBRSET", "file", ("final_icdr",)),
    LabelFormat("DeepDRiD", "image_id", ("left_eye_DR_Level", "right_eye_DR_Level")),
    LabelFormat("DeepDRiD ultra-widefield", "image_path", ("DR_level",)),
    LabelFormat(
        "ODIR",
        "filename",
        ("labels",),
        patient="ID",
        markers=("Left-Fundus", "Right-Fundus"),
        values={f"['{letter}']": int(letter == "D") for letter in "NDGCAHMO"},
        note="eyes that ODIR labels D (diabetes) count as grade 1, others as grade 0",
    ),
    LabelFormat("RFMiD", "ID", ("DR",), markers=("Disease_Risk",)),
)
IMAGE_COLUMNS = tuple(dict.fromkeys(fold_name(known.image) for known in LABEL_FORMATS))

# The usual names of a column with the published split, folded.
SPLIT_COLUMNS = {"split", "usage", "subset", "partition", "dataset", "set", "fold"}
