"""Draw synthetic fundus photographs with lesions of a chosen grade.

They replace patients' photographs in demonstrations, benchmarks and tests. A model
can learn from them, but they support no conclusion about real eyes. Lesions are
coarser than real ones so that they survive a reduction to 96 px.
"""

from drtf.synthetic.dataset import (
    PlannedPhotograph,
    is_synthetic,
    plan_photographs,
    write_photographs,
)
from drtf.synthetic.patient import Eye
from drtf.synthetic.photograph import Photograph, draw_photograph

__all__ = [
    "Eye",
    "Photograph",
    "PlannedPhotograph",
    "draw_photograph",
    "is_synthetic",
    "plan_photographs",
    "write_photographs",
]
