"""The formats of other runtimes, by the name that users give."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from drtf.export.graph import Graph

# From uint8 RGB [B, H, W, 3] to each output [B] by its name.
Predict = Callable[["np.ndarray"], dict[str, "np.ndarray"]]


@dataclass(frozen=True)
class Loaded:
    """An exported network that is ready to run.

    Attributes:
        predict: Runs it.
        runtime: What runs it, with its version.
    """

    predict: Predict
    runtime: str


@dataclass(frozen=True)
class Format:
    """A format that a network is exported to.

    `writer` and `loader` name a module of this package and a function in it, which are
    imported when they are used: each needs its own packages.

    Attributes:
        description: What it is for, in a few words.
        writer: Function that writes a graph to a path. It also takes photographs to
            quantize on, uint8 [N, H, W, 3], of which there are none for other formats.
        loader: Function that loads what was written, and takes the graph too.
        is_quantized: Whether scores change so much that it needs its own threshold.
        suffix: What the name of the output must end with; empty if any name will do.
    """

    description: str
    writer: str
    loader: str
    is_quantized: bool = False
    suffix: str = ""

    def write(self, graph: "Graph", path: Path, samples: "np.ndarray") -> None:
        """Write a graph.

        Raises:
            DrtfError: If a package is missing, or does not work.
        """
        _find_function(self.writer)(graph, path, samples)

    def load(self, path: Path, graph: "Graph") -> Loaded:
        """Load an exported network."""
        loaded: Loaded = _find_function(self.loader)(path, graph)
        return loaded


FORMATS: Mapping[str, Format] = {
    "savedmodel": Format(
        "a folder for TensorFlow and TensorFlow Serving",
        "saved_model.write_saved_model",
        "saved_model.load_saved_model",
    ),
    "onnx": Format(
        "a file for ONNX Runtime: servers, desktops, phones, browsers",
        "onnx.write_onnx",
        "onnx.load_onnx",
    ),
    "coreml": Format(
        "a package for Apple's devices",
        "coreml.write_coreml",
        "coreml.load_twin",
        suffix=".mlpackage",
    ),
    "tflite": Format(
        "a file for phones, run here by TensorFlow",
        "litert.write_tflite",
        "litert.load_tflite",
    ),
    "litert": Format(
        "the same file, run here by LiteRT if it is installed",
        "litert.write_tflite",
        "litert.load_litert",
    ),
    "tflite-float16": Format(
        "the same with weights of half precision",
        "litert.write_float16",
        "litert.load_litert",
    ),
    "tflite-int8": Format(
        "the same with 8-bit integers in its second half",
        "litert.write_int8",
        "litert.load_litert",
        is_quantized=True,
    ),
}


def _find_function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(".")
    found: Callable[..., Any] = getattr(
        importlib.import_module(f"drtf.export.{module}"), function
    )
    return found
