import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from drawing import draw_scores
from drtf.config import EvaluateConfig
from drtf.evaluation.group_metrics import grouped_result
from drtf.evaluation.group_results import (
    ALL,
    GROUP_COLUMNS,
    GROUPS_FILE,
    describe_groups,
    group_rows,
    parse_grouped_result,
    save_groups,
)
from drtf.evaluation.predictions import prediction_metrics
from drtf.labels.grouping import Groups
from naming import assert_names


@pytest.fixture(scope="module")
def config():
    return EvaluateConfig(num_resamples=100, min_group_patients=15)


@pytest.fixture(scope="module")
def predictions():
    """Two eyes of each of 200 patients; `site` is the group.

    One group has only healthy photographs, and one has only 14 patients.
    """
    labels, scores, patients = draw_scores()
    site = np.where(patients % 2 == 0, "better", "worse").astype(object)
    site[(labels == 0) & (patients % 4 == 0)] = "healthy"
    site[-28:] = "=small"
    scores = np.where(site == "worse", 1 - scores, scores)
    return pd.DataFrame(
        {
            "patient": patients.astype(str),
            "grade": 2 * labels,
            "label": labels,
            "score": scores,
            "probability": scores,
            "predicted_label": (scores >= 0.5).astype(int),
            "site": site,
        }
    )


@pytest.fixture(scope="module")
def result(predictions, config):
    return grouped_result(
        predictions,
        Groups("site", predictions["site"].to_numpy(object)),
        config,
        metrics=prediction_metrics(predictions, config),
    )


def test_worst_group_is_the_first_and_the_smallest_is_the_last(result):
    found = [group.name for group in result.groups]
    assert found == ["worse", "better", "healthy", "=small"]
    first, second, third, last = result.groups
    assert first.metrics["roc_auc"].value < second.metrics["roc_auc"].value
    assert np.isnan(third.metrics["roc_auc"].value)
    assert 0 < third.metrics["specificity"].value < 1
    assert (last.metrics, last.differences) == ({}, {})
    assert (last.num_photographs, last.num_patients) == (28, 14)


def test_groups_have_the_metrics_of_their_photographs(result, predictions, config):
    for group in result.groups[:3]:
        own = predictions[predictions["site"] == group.name]
        expected = prediction_metrics(own, config)
        # Undefined metrics are not equal to themselves.
        assert repr(group.metrics) == repr(expected)
        assert group.num_photographs == len(own)
        assert group.num_positive == own["label"].sum()
        rest = predictions[predictions["site"] != group.name]
        difference = (
            expected["sensitivity"].value
            - prediction_metrics(rest, config)["sensitivity"].value
        )
        found = group.differences["sensitivity"].value
        assert found == pytest.approx(difference, nan_ok=True)
    assert result.groups[0].differences["roc_auc"].ci_high < 0


def test_differences_are_left_out_when_the_rest_is_too_small(predictions, config):
    part = predictions[predictions["site"].isin(["better", "=small"])]
    groups = Groups("site", part["site"].to_numpy(object))
    found = grouped_result(part, groups, config, metrics={})
    assert found.groups[0].metrics
    assert found.groups[0].differences == {}


def test_rows_have_each_group_and_then_all_photographs(result, config):
    rows = group_rows(result)
    assert [row[0] for row in rows] == ["worse", "better", "healthy", "=small", ALL]
    assert {len(row) for row in rows} == {len(GROUP_COLUMNS)}
    assert rows[2][4] == "undefined"  # there is one class
    assert rows[3] == ("=small", "28", "14", rows[3][3], "", "", "", "")
    assert rows[4][1] == "400"
    # Differences of all groups but the smallest are shown.
    assert_names(describe_groups([result], config), 15, 3, "0.2")


def test_groups_are_equal_when_saved_and_parsed(result):
    contents = json.loads(json.dumps(dataclasses.asdict(result)))
    assert repr(parse_grouped_result(contents)) == repr(result)


def test_table_has_a_row_for_each_metric_of_each_group(result, tmp_path):
    save_groups(tmp_path, [result])
    table = pd.read_csv(tmp_path / GROUPS_FILE)
    assert set(table["by"]) == {"site"}
    assert table["group"].drop_duplicates().tolist() == [
        *["worse", "better", "healthy"],
        "'=small",  # which a spreadsheet does not run as a formula
        ALL,
    ]
    worse = table[table["group"] == "worse"].set_index("metric")
    estimate = result.groups[0].metrics["specificity"]
    assert worse.loc["specificity", "value"] == pytest.approx(estimate.value)
    difference = result.groups[0].differences["specificity"]
    assert worse.loc["specificity", "difference_ci_low"] == pytest.approx(
        difference.ci_low
    )
    small = table[table["group"] == "'=small"]
    assert small["photographs"].tolist() == [28]
    assert small["metric"].isna().all()
