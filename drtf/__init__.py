"""drtf: photographs of the retina as TFRecord shards, and training from them.

The public API is listed in `__all__`; see `drtf.api`. Each name is imported when it is
first used, so that `import drtf` does not load TensorFlow.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drtf.api import (
        Config,
        DrtfError,
        Run,
        ShardDataset,
        Source,
        StreamPosition,
        adapt,
        build_shards,
        eval_dataset,
        evaluate,
        explain,
        fit_gate,
        load_config,
        load_run,
        open_dataset,
        recalibrate,
        save_run,
        score,
        train,
        train_dataset,
    )

__version__ = "0.2.0"

__all__ = [
    "Config",
    "DrtfError",
    "Run",
    "ShardDataset",
    "Source",
    "StreamPosition",
    "adapt",
    "build_shards",
    "eval_dataset",
    "evaluate",
    "explain",
    "fit_gate",
    "load_config",
    "load_run",
    "open_dataset",
    "recalibrate",
    "save_run",
    "score",
    "train",
    "train_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'drtf' has no attribute {name!r}")
    if "keras" not in sys.modules:  # drtf's networks require this backend
        os.environ["KERAS_BACKEND"] = "tensorflow"
    return getattr(importlib.import_module("drtf.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
