"""ONNX: the format of ONNX Runtime, and of many other programs."""

import tempfile
from pathlib import Path

import numpy as np

from drtf.export.formats import Loaded
from drtf.export.graph import IMAGE, Graph
from drtf.export.packages import import_package, quiet

EXTRA = "onnx"
OPSET = 17  # ONNX Runtime 1.12 of 2022 and onnxruntime-web run it


def write_onnx(graph: Graph, path: Path, samples: np.ndarray) -> None:
    """Write a file with the input `image` and the outputs of the graph."""
    import_package("onnx", extra=EXTRA)
    tf2onnx = import_package("tf2onnx", extra=EXTRA)
    serve = graph.compile()
    with quiet():
        model, _ = tf2onnx.convert.from_function(
            serve, input_signature=serve.input_signature, opset=OPSET
        )
    path.write_bytes(model.SerializeToString())


def load_onnx(path: Path, graph: Graph) -> Loaded:
    """Load a file with ONNX Runtime, on the CPU."""
    runtime = import_package("onnxruntime", extra=EXTRA)
    session = runtime.InferenceSession(
        path.read_bytes(), providers=["CPUExecutionProvider"]
    )

    def predict(images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = session.run(list(graph.names), {IMAGE: images})
        return dict(zip(graph.names, outputs, strict=True))

    return Loaded(predict, f"ONNX Runtime {runtime.__version__}")


def load_graph_as_onnx(graph: Graph) -> Loaded:
    """Write the graph to a temporary file and load it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        write_onnx(graph, path, np.empty(0))
        return load_onnx(path, graph)
