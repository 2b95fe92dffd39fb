"""Heat maps: which regions of a photograph explain its score."""

__all__ = [
    "gradcam",
    "gradcam_folder",
    "heatmaps",
    "overlays",
]
