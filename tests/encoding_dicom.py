"""DICOM files as cameras write them, encoded for the tests."""

import io

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

OPHTHALMIC_8BIT = "1.2.840.10008.5.1.4.1.1.77.1.5.1"


def encode_dicom(
    pixels: np.ndarray | bytes, syntax=ExplicitVRLittleEndian, **tags: object
) -> bytes:
    """Encode a DICOM file.

    Args:
        pixels: uint8 RGB [H, W, 3] or [frames, H, W, 3]; or the bytes of the pixels in
            the transfer syntax, with their size in the tags.
        syntax: The transfer syntax, as a UID.
        **tags: Tags, which replace those of an RGB photograph.
    """
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID = OPHTHALMIC_8BIT
    data.SOPInstanceUID = generate_uid(entropy_srcs=[str(tags), str(len(pixels))])
    if isinstance(pixels, np.ndarray):
        data.Rows, data.Columns = pixels.shape[-3:-1]
        if pixels.ndim == 4:
            data.NumberOfFrames = len(pixels)
        pixels = pixels.tobytes()
    data.SamplesPerPixel = 3
    data.PlanarConfiguration = 0
    data.PhotometricInterpretation = "RGB"
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelRepresentation = 0
    for name, value in tags.items():
        setattr(data, name, value)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.PixelData = pixels + bytes(len(pixels) % 2)
    if syntax.is_encapsulated:
        data["PixelData"].is_undefined_length = True
    return save_dicom(data)


def save_dicom(dataset: Dataset) -> bytes:
    """Return the bytes of a dataset's file."""
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def patient_tags(number: int, side: str = "L", **tags: object) -> dict[str, object]:
    """Return the tags of a patient's photograph, as a camera writes them."""
    return {
        "PatientID": f"{number:05d}",
        "PatientName": f"Kim^Min{number}",
        "PatientBirthDate": "19700131",
        "PatientSex": "O",
        "StudyInstanceUID": f"1.2.3.{number}",
        "SeriesInstanceUID": f"1.2.3.{number}.1",
        "StudyDate": "20240131",
        "StudyTime": "101112",
        "ImageLaterality": side,
        "Manufacturer": "Camera Works",
        "ManufacturerModelName": "F-1",
        "Modality": "OP",
    } | tags
