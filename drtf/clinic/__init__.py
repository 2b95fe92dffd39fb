"""For clinics: DICOM results, a page per patient, and the folders of mercure."""

__all__ = [
    "dicom_results",
    "dicom_series",
    "heatmap_captures",
    "mercure",
    "patient_pages",
    "patient_texts",
    "structured_reports",
]
