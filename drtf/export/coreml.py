"""Core ML: the format of Apple's devices."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from drtf.export.formats import Loaded
from drtf.export.graph import IMAGE, Graph
from drtf.export.onnx import load_graph_as_onnx
from drtf.export.packages import import_package, quiet

EXTRA = "coreml"


def write_coreml(graph: Graph, path: Path, samples: np.ndarray) -> None:
    """Write a package that takes one RGB image of the network's size."""
    tools = import_package("coremltools", extra=EXTRA)
    shape = (1, graph.image_size, graph.image_size, 3)
    numbered = graph.compile_numbered(tf.TensorSpec(shape, tf.float32, IMAGE))
    image = tools.ImageType(IMAGE, shape, color_layout=tools.colorlayout.RGB)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        concrete = numbered.get_concrete_function()
        model = tools.convert(
            [concrete],
            source="tensorflow",
            inputs=[image],
            minimum_deployment_target=tools.target.iOS15,
            # Half precision, the default, changes scores by about 0.001.
            compute_precision=tools.precision.FLOAT32,
            skip_model_load=True,
        )
        # TensorFlow names outputs by their number.
        description = model.get_spec()
        for output, name in zip(concrete.outputs, graph.names, strict=True):
            tools.utils.rename_feature(description, output.op.name, name)
        named = tools.models.MLModel(
            description, weights_dir=model.weights_dir, skip_model_load=True
        )
        package = Path(folder) / "model.mlpackage"  # the suffix is required
        named.save(str(package))
        shutil.move(package, path)


def load_twin(path: Path, graph: Graph) -> Loaded:
    """Load the same graph as ONNX: Core ML runs only on Apple's devices."""
    twin = load_graph_as_onnx(graph)
    note = "not Core ML, which runs only on Apple's devices"
    return replace(twin, runtime=f"{twin.runtime} ({note})")
