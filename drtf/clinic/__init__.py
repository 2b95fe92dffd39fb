"""What a clinic's systems take and give: DICOM results of scoring."""

__all__ = [
    "dicom_results",
    "dicom_series",
    "heatmap_captures",
    "mercure",
    "patient_pages",
    "patient_texts",
    "structured_reports",
]
