"""Photographs: finds them, and makes each ready for a network."""

__all__ = [
    "archives",
    "contents",
    "dicom_headers",
    "frames",
    "listing",
    "patient_columns",
    "prepare",
    "pseudonyms",
    "references",
]
