"""New series of DICOM results: what they say about their origin, and their UIDs."""

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drtf import __version__
from drtf.errors import PhotographError
from drtf.images.dicom_files import damaged_file
from drtf.models.run import Run
from drtf.photographs.dicom_headers import load_header
from drtf.photographs.references import PhotographRef
from drtf.scoring.score_table import Row
from drtf.tasks import Task

if TYPE_CHECKING:
    from pydicom import Dataset

# The UUIDs of this project's UIDs are derived from it.
NAMESPACE = uuid.UUID("5f0f6b36-5a0c-4d0a-9d0c-4b6f2f6f2c11")
# Where neither the photograph nor its study has a date.
NO_DATE = "19700101"
MIDNIGHT = "000000"
# A result is about the file, series and study that these name.
REQUIRED_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
)
UTF8 = "ISO_IR 192"
# They must be present, but may be empty.
EMPTY_TAGS = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)


@dataclass(frozen=True)
class Algorithm:
    """The algorithm that computed a result.

    Attributes:
        name: Its name: that of the run's folder.
        task: What the run predicts.
        model: The model's hash.
        settings: The hash of all other settings, as in the table of scores.
        threshold: The score from which a photograph is positive.
        num_views: Number of views whose scores are averaged.
    """

    name: str
    task: Task
    model: str
    settings: str
    threshold: str
    num_views: str

    @property
    def identity(self) -> str:
        """Everything that can change a result."""
        return f"{__version__} {self.model} {self.settings}"

    @property
    def parameters(self) -> list[str]:
        """Its parameters, as a structured report lists them."""
        return [
            f"model={self.model}",
            f"settings={self.settings}",
            f"threshold={self.threshold}",
            f"views={self.num_views}",
        ]


def algorithm_of(run: Run, row: Row) -> Algorithm:
    """Return the algorithm that computed the rows of a table.

    Args:
        run: The run.
        row: Any row of the table.
    """
    return Algorithm(
        name=run.folder.resolve().name,
        task=run.task,
        model=row["model"],
        settings=row["settings"],
        threshold=row["threshold"],
        num_views=row["num_views"],
    )


def derive_uid(*parts: str) -> str:
    """Return a DICOM UID that depends only on some texts (DICOM PS3.5, B.2).

    A result that is computed again has the same UID, so that an archive replaces the
    first one instead of keeping both.
    """
    text = "\0".join(f"{len(part)}:{part}" for part in parts)
    return f"2.25.{uuid.uuid5(NAMESPACE, text).int}"


def load_source(photograph: PhotographRef) -> "Dataset":
    """Load the tags of a DICOM file that its results refer to.

    Raises:
        PhotographError: With reason `unsupported`, if a tag that results require is
            missing, or as `load_header`.
    """
    source = load_header(photograph)
    with damaged_file("not_an_image"):
        for name in REQUIRED_TAGS:
            if not source.get(name):
                raise PhotographError(
                    "unsupported",
                    f"a DICOM file without the tag {name}, which results must refer to",
                )
        for name in EMPTY_TAGS:
            if not _is_valid(source, name):
                setattr(source, name, "")
        # Results are in UTF-8, whatever the characters of the photograph's file.
        source.decode()
        source.SpecificCharacterSet = UTF8
    return source


def _is_valid(source: "Dataset", name: str) -> bool:
    """Return whether a tag is present and, if it is a date or a time, can be read."""
    from pydicom.valuerep import DA, TM

    if name not in source:
        return False
    parse = {"DA": DA, "TM": TM}.get(source[name].VR, str)
    try:
        parse(source[name].value or "")
    except ValueError:
        return False
    return True


def describe_series(
    result: "Dataset", source: "Dataset", algorithm: Algorithm, description: str
) -> "Dataset":
    """Add the attributes of its series to a result, and return it.

    Its dates are those of the photograph, so that equal results have equal bytes.

    Args:
        result: The dataset of the result, which is changed.
        source: The tags of the photograph's file.
        algorithm: What computed the result.
        description: The description of the series.
    """
    date = _first(source, "ContentDate", "AcquisitionDate", "StudyDate") or NO_DATE
    time = _first(source, "ContentTime", "AcquisitionTime", "StudyTime") or MIDNIGHT
    for name in ("ContentDate", "SeriesDate", "InstanceCreationDate"):
        setattr(result, name, date)
    for name in ("ContentTime", "SeriesTime", "InstanceCreationTime"):
        setattr(result, name, time)
    result.SeriesDescription = description
    result.ManufacturerModelName = algorithm.name[:64]
    result.SoftwareVersions = __version__
    result.DeviceSerialNumber = algorithm.model
    # Of the library, and of now.
    for item in result.get("ContributingEquipmentSequence") or ():
        item.pop("ContributionDateTime", None)
    return result


def _first(dataset: "Dataset", *names: str) -> str:
    """Return the first date or time that can be read, or an empty text."""
    valid = (str(dataset[name].value) for name in names if _is_valid(dataset, name))
    return next(filter(None, valid), "")
