"""LiteRT, formerly TensorFlow Lite: the format of Android, and of small devices."""

import csv
import io
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from drtf.export.formats import Loaded
from drtf.export.graph import IMAGE, Graph
from drtf.export.packages import import_package, quiet

PACKAGE, EXTRA = "ai_edge_litert", "litert"
# The first operations have few weights, but their rounding changes scores most:
# docs/results/export.md compares other fractions.
FLOAT_FRACTION = 0.5


def build_converter(graph: Graph) -> tf.lite.TFLiteConverter:
    """Build a converter, which has no options yet."""
    # Given the whole module, the converter aborts the process on TensorFlow 2.16 and
    # 2.17: github.com/tensorflow/tensorflow/issues/63987. Given only the function, it
    # freezes the variables first.
    numbered = graph.compile_numbered(
        tf.TensorSpec([None, None, None, 3], tf.uint8, IMAGE)
    )
    return tf.lite.TFLiteConverter.from_concrete_functions(
        [numbered.get_concrete_function()]
    )


def write_tflite(graph: Graph, path: Path, samples: np.ndarray) -> None:
    """Write a file whose outputs are numbered in the order of the graph."""
    with quiet():
        path.write_bytes(build_converter(graph).convert())


def write_float16(graph: Graph, path: Path, samples: np.ndarray) -> None:
    """Write a file with weights of half precision."""
    with quiet():
        converter = build_converter(graph)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
        path.write_bytes(converter.convert())


def write_int8(graph: Graph, path: Path, samples: np.ndarray) -> None:
    """Write a file that computes with 8-bit integers from its middle on."""
    path.write_bytes(convert_to_int8(graph, samples, float_fraction=FLOAT_FRACTION))


def convert_to_int8(
    graph: Graph, samples: np.ndarray, *, float_fraction: float
) -> bytes:
    """Convert a graph that computes with 8-bit integers from some place on.

    Args:
        graph: What is exported.
        samples: uint8 RGB [N, H, W, 3], to measure the ranges of activations on.
        float_fraction: The fraction of the operations, from the first one on, that
            compute with float32.
    """
    quantization = tf.lite.experimental
    with quiet():
        converter = build_converter(graph)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([x[None]] for x in samples)
        debugger = quantization.QuantizationDebugger(
            converter=converter,
            debug_dataset=lambda: [[samples[:1]]],
            debug_options=quantization.QuantizationDebugOptions(),
        )
        debugger.run()
        statistics = io.StringIO()
        debugger.layer_statistics_dump(statistics)
        statistics.seek(0)
        # In the order in which they run.
        operations = [row["tensor_name"] for row in csv.DictReader(statistics)]
        debugger.options = quantization.QuantizationDebugOptions(
            denylisted_nodes=operations[: round(len(operations) * float_fraction)]
        )
        converted: bytes = debugger.get_nondebug_quantized_model()
        return converted


def load_tflite(path: Path, graph: Graph) -> Loaded:
    """Load a file with TensorFlow's interpreter."""
    return _load(tf.lite.Interpreter, f"TensorFlow {tf.__version__}", path, graph)


def load_litert(path: Path, graph: Graph) -> Loaded:
    """Load a file with LiteRT's interpreter if it is installed, or TensorFlow's."""
    if find_spec(PACKAGE) is None:
        return load_tflite(path, graph)
    interpreter = import_package(f"{PACKAGE}.interpreter", extra=EXTRA).Interpreter
    return _load(interpreter, f"LiteRT {version(PACKAGE)}", path, graph)


def _load(kind: Any, runtime: str, path: Path, graph: Graph) -> Loaded:
    with quiet():
        interpreter = kind(str(path))
        interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    targets = [x["index"] for x in interpreter.get_output_details()]

    def predict(images: np.ndarray) -> dict[str, np.ndarray]:
        if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
            interpreter.resize_tensor_input(source["index"], images.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], images)
        interpreter.invoke()
        outputs = map(interpreter.get_tensor, targets)
        return dict(zip(graph.names, outputs, strict=True))

    return Loaded(predict, runtime)
