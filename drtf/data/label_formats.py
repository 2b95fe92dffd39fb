"""The published label files that are recognized by their header.

To add a format, add an entry to LABEL_FORMATS. The help of `drtf build-shards` and the
error messages list the entries.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class LabelFormat:
    """The columns of a label file.

    Attributes:
        name: Name of the published dataset.
        image: Column with the photograph's name.
        grade: Column with the grade, 0-4.
        patient: Column with the patient; empty if the file has none.
    """

    name: str
    image: str
    grade: str
    patient: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns that a file of this format has."""
        return tuple(filter(None, (self.image, self.grade, self.patient)))

    def __str__(self) -> str:
        """Return the name with the columns, such as `EyePACS (image,level)`."""
        return f"{self.name} ({','.join(self.columns)})"


# If a file has the columns of several formats, the one with the most columns is used.
LABEL_FORMATS = (
    LabelFormat("EyePACS", "image", "level"),
    LabelFormat("APTOS", "id_code", "diagnosis"),
    LabelFormat("IDRiD", "Image name", "Retinopathy grade"),
)
