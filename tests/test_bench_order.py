import json
from statistics import mean, pstdev

import numpy as np
import pytest
from click.testing import CliRunner

from drtf.bench.order import bench_order, simulate_eyepacs
from drtf.errors import DrtfError
from drtf.tools.bench import bench as bench_command
from naming import raises_naming


def test_smaller_windows_shuffle_less():
    classes, shard_numbers = simulate_eyepacs()
    whole, middle, one = bench_order(
        classes, shard_numbers, windows=(0, 8, 1), batch_size=256
    )
    assert whole.neighbor_distance == pytest.approx(1 / 3, abs=0.01)
    assert whole.neighbor_distance > middle.neighbor_distance > one.neighbor_distance
    assert max(one.shards_per_batch) == 2  # where one window ends and the next begins
    assert min(whole.shards_per_batch) > 50
    for result in (whole, middle, one):
        assert mean(result.positive_percent) == pytest.approx(50, abs=0.1)
    assert pstdev(whole.positive_percent) < 0.1 < pstdev(one.positive_percent)


def test_an_epoch_smaller_than_a_batch_is_refused():
    with raises_naming(DrtfError, "4", "256"):
        bench_order(np.array([0, 1] * 2), np.arange(4), windows=(0,), batch_size=256)


def test_the_order_of_a_dataset_is_measured(shards, tmp_path):
    out = tmp_path / "order.json"
    command = ["order", "--shards", shards, "--batch-size", 4, "--json", out]
    result = CliRunner().invoke(bench_command, [str(x) for x in command])
    assert result.exit_code == 0, result.output
    rows = json.loads(out.read_text())
    assert [row["window_shards"] for row in rows] == [0, 32, 16, 8, 4, 2, 1]
