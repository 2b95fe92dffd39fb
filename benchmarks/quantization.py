"""Compare what a network with smaller weights predicts with what Keras predicts.

    python benchmarks/quantization.py RUN DATASET OUT.csv

RUN has a decision rule, and DATASET its validation split and a split test. The first
photographs of each split are used, which are a random sample.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf

from drtf.data.loader import read_batch
from drtf.export.export import matching_cut, representative_photographs
from drtf.export.formats import FORMATS
from drtf.export.graph import Graph, build_graph
from drtf.export.litert import build_converter, convert_to_int8, load_litert
from drtf.export.packages import quiet
from drtf.models.run import load_run
from drtf.records.reader import ShardDataset

NUM_PHOTOGRAPHS = 250
INTEGERS_16 = "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"


def convert_to_int16(graph: Graph, samples: np.ndarray) -> bytes:
    """Convert with activations of 16 bits and weights of 8 bits."""
    with quiet():
        converter = build_converter(graph)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([x[None]] for x in samples)
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet[INTEGERS_16],
            tf.lite.OpsSet.TFLITE_BUILTINS,
        ]
        converted: bytes = converter.convert()
        return converted


def convert_each(
    graph: Graph, balanced: np.ndarray, first: np.ndarray
) -> Iterator[tuple[str, bytes]]:
    """Yield the name of each way to convert, and the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network"
        FORMATS["tflite-float16"].write(graph, path, balanced)
        yield "float16 weights", path.read_bytes()
    yield (
        "int8, ranges of the first 250",
        convert_to_int8(graph, first, float_fraction=0),
    )
    for percent in (0, 25, 50, 75):
        name = f"int8, first {percent} % in float32"
        yield name, convert_to_int8(graph, balanced, float_fraction=percent / 100)
    yield "int16 activations, int8 weights", convert_to_int16(graph, balanced)


def score_each(predict: Callable, images: np.ndarray) -> np.ndarray:
    """Score one view of photographs, one at a time."""
    return np.concatenate([predict(image[None])["score"] for image in images])


def main() -> None:
    """Write the table."""
    run_folder, shards, out = map(Path, sys.argv[1:])
    run = load_run(run_folder)
    threshold = run.effective_threshold
    graph = build_graph(run, whole=False)
    serve = graph.compile()

    def predict(image: np.ndarray) -> dict[str, np.ndarray]:
        return {name: x.numpy() for name, x in serve(tf.constant(image)).items()}

    rows = []
    with ShardDataset(shards) as dataset, tempfile.TemporaryDirectory() as folder:
        validation = run.config.train.validation_split
        images = [
            read_batch(dataset, dataset.split_rows(split)[:NUM_PHOTOGRAPHS])
            for split in (validation, "test")
        ]
        keras = [score_each(predict, x) for x in images]
        balanced = representative_photographs(run, dataset)
        for number, (name, content) in enumerate(
            convert_each(graph, balanced, images[0])
        ):
            path = Path(folder) / f"{number}.tflite"
            path.write_bytes(content)
            loaded = load_litert(path, graph)
            scores = [score_each(loaded.predict, x) for x in images]
            own = matching_cut(threshold, keras[0], scores[0])
            differences = np.abs(scores[1] - keras[1])
            positive = keras[1] >= threshold
            row = {
                "variant": name,
                "MB": f"{len(content) / 1e6:.2f}",
                "mean difference": f"{differences.mean():.4f}",
                "largest difference": f"{differences.max():.3f}",
                "changed labels": int(((scores[1] >= threshold) != positive).sum()),
                "with its own threshold": int(((scores[1] >= own) != positive).sum()),
                "photographs": len(positive),
            }
            rows.append(row)
            print(row, flush=True)
    pd.DataFrame(rows).to_csv(out, index=False)


if __name__ == "__main__":
    main()
