"""Export: a run's network in the formats of other runtimes, compared with Keras."""

__all__ = [
    "comparison",
    "coreml",
    "description",
    "export",
    "formats",
    "graph",
    "litert",
    "onnx",
    "packages",
    "saved_model",
]
