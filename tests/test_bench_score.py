import os
from unittest import mock

import pytest

from drtf.bench.score import bench_score
from drtf.errors import DrtfError
from naming import raises_naming


def possible_values_of_apart() -> list[bool]:
    return [False, True] if len(os.sched_getaffinity(0)) > 1 else [False]


@pytest.mark.parametrize("apart", possible_values_of_apart())
def test_scoring_and_its_halves_are_measured(run_folder, photographs, config, apart):
    cores = os.sched_getaffinity(0)
    score = config.score.model_copy(update={"batch_size": 8})
    bench = bench_score(
        run_folder,
        photographs / "images",
        config=score,
        num_photographs=100,
        num_repeats=2,
        apart=apart,
    )
    assert os.sched_getaffinity(0) == cores
    assert (bench.num_photographs, bench.views) == (100, "none")
    for rates in (bench.preparing, bench.predicting, bench.scoring):
        assert len(rates) == 2
        assert min(rates) > 0


def test_fewer_than_four_batches_are_refused(run_folder, photographs, config):
    with raises_naming(DrtfError, 100, 64, "score.batch_size"):
        bench_score(
            run_folder,
            photographs / "images",
            config=config.score,
            num_photographs=100,
            num_repeats=1,
        )


def test_each_half_has_its_own_cores_when_apart(run_folder, photographs, config):
    score = config.score.model_copy(update={"batch_size": 8, "num_workers": 1})
    cores = {3, 5, 7, 9}
    with (
        mock.patch("os.sched_getaffinity", return_value=cores),
        mock.patch("os.sched_setaffinity") as set_affinity,
    ):
        bench_score(
            run_folder,
            photographs / "images",
            config=score,
            num_photographs=32,
            num_repeats=1,
            apart=True,
        )
    chosen = [call.args[1] for call in set_affinity.call_args_list]
    assert chosen == [[7, 9], cores, [3, 5], cores]


def test_apart_is_refused_when_there_is_one_core(run_folder, photographs, config):
    with (
        mock.patch("os.sched_getaffinity", return_value={0}),
        raises_naming(DrtfError, "--apart"),
    ):
        bench_score(
            run_folder,
            photographs / "images",
            config=config.score,
            num_photographs=1024,
            num_repeats=1,
            apart=True,
        )
