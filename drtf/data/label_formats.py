"""The label files and the class folders that are recognized by their names.

To add one, add an entry to LABEL_FORMATS or FOLDER_FORMATS. The help of `drtf
build-shards` and the error messages list the entries.
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


@dataclass(frozen=True)
class FolderFormat:
    """The names of folders that each hold the photographs of one grade.

    Attributes:
        name: Name of the published dataset.
        folders: Name of the folder of each grade, 0-4.
    """

    name: str
    folders: tuple[str, str, str, str, str]

    def __str__(self) -> str:
        """Return the name with the folders, such as `grades (0, 1, 2, 3, 4)`."""
        return f"{self.name} ({', '.join(self.folders)})"


# If a file has the columns of several formats, the one with the most columns is used.
LABEL_FORMATS = (
    LabelFormat("EyePACS", "image", "level"),
    LabelFormat("APTOS", "id_code", "diagnosis"),
    LabelFormat("IDRiD", "Image name", "Retinopathy grade"),
)

# A name has the same grade in all of these.
FOLDER_FORMATS = (
    FolderFormat("grades", ("0", "1", "2", "3", "4")),
    FolderFormat(
        "Diabetic Retinopathy 224x224",
        ("No_DR", "Mild", "Moderate", "Severe", "Proliferate_DR"),
    ),
)
