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


def write_tflite(graph: Graph, path: Path, samples: np.ndarray) -> None:
    """Write a file whose outputs are numbered in the order of the graph."""
    with quiet():
        path.write_bytes(_build_converter(graph).convert())


def write_float16(graph: Graph, path: Path, samples: np.ndarray) -> None:
    """Write a file with weights of half precision."""
    with quiet():
        converter = _build_converter(graph)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
        path.write_bytes(converter.convert())


def write_int8(graph: Graph, path: Path, samples: np.ndarray) -> None:
    """Write a file whose second half computes with 8-bit integers.

    The first half has few weights, but their rounding changes the scores most:
    docs/results/export.md compares what is left in float32.

    Args:
        graph: What is exported.
        path: The file.
        samples: uint8 RGB [N, H, W, 3], to measure the ranges of activations on.
    """
    quantization = tf.lite.experimental
    with quiet():
        converter = _build_converter(graph)
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
        nodes = [row["tensor_name"] for row in csv.DictReader(statistics)]
        debugger.options = quantization.QuantizationDebugOptions(
            denylisted_nodes=nodes[: len(nodes) // 2]
        )
        path.write_bytes(debugger.get_nondebug_quantized_model())


def load_tflite(path: Path, graph: Graph) -> Loaded:
    """Load a file with TensorFlow's interpreter."""
    return _load(tf.lite.Interpreter, f"TensorFlow {tf.__version__}", path, graph)


def load_litert(path: Path, graph: Graph) -> Loaded:
    """Load a file with LiteRT's interpreter if it is installed, or TensorFlow's."""
    if find_spec(PACKAGE) is None:
        return load_tflite(path, graph)
    interpreter = import_package(f"{PACKAGE}.interpreter", extra=EXTRA).Interpreter
    return _load(interpreter, f"LiteRT {version(PACKAGE)}", path, graph)


def _build_converter(graph: Graph) -> tf.lite.TFLiteConverter:
    # Given the whole module, the converter aborts the process on TensorFlow 2.16 and
    # 2.17: github.com/tensorflow/tensorflow/issues/63987. Given only the function, it
    # freezes the variables first.
    numbered = graph.compile_numbered(
        tf.TensorSpec([None, None, None, 3], tf.uint8, IMAGE)
    )
    return tf.lite.TFLiteConverter.from_concrete_functions(
        [numbered.get_concrete_function()]
    )


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
