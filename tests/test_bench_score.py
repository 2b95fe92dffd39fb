import pytest

from drtf.bench.score import bench_score
from drtf.errors import DrtfError


def test_scoring_is_measured_beside_its_halves(run_folder, photographs, config):
    score = config.score.model_copy(update={"batch_size": 8})
    config = config.model_copy(update={"score": score})
    found = bench_score(
        run_folder,
        photographs / "images",
        config=config,
        num_photographs=100,
        num_repeats=2,
    )
    assert (found.num_photographs, found.views) == (100, "none")
    for rates in (found.preparing, found.predicting, found.scoring):
        assert len(rates) == 2
        assert min(rates) > 0


def test_less_than_four_batches_are_refused(run_folder, photographs, config):
    with pytest.raises(DrtfError, match="less than four batches of 64"):
        bench_score(
            run_folder,
            photographs / "images",
            config=config,
            num_photographs=100,
            num_repeats=1,
        )
