"""SavedModel: the format of TensorFlow."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from drtf.export.formats import Loaded
from drtf.export.graph import Graph


def write_saved_model(graph: Graph, path: Path, samples: np.ndarray) -> None:
    """Write a folder whose signature `serving_default` is the graph."""
    module = tf.Module()
    # The folder holds only variables of layers that the module reaches.
    module.network, module.serve = graph.network, graph.compile()
    tf.saved_model.save(module, str(path), signatures=module.serve)


def load_saved_model(path: Path, graph: Graph) -> Loaded:
    """Load a folder."""
    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]

    def predict(images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = serve(image=tf.constant(images))
        return {name: outputs[name].numpy() for name in graph.names}

    return Loaded(predict, f"TensorFlow {tf.__version__}")
