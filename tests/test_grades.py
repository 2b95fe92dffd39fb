import pytest

from drtf.config import LabelsConfig
from drtf.errors import LabelError
from drtf.labels.grades import grade_scale, parse_grade
from naming import raises_naming

DEFAULT = LabelsConfig()


@pytest.mark.parametrize(
    ("grade", "texts"),
    [
        (
            0,
            "0|0.0|0.|No_DR|no dr|NODR|none|Normal|healthy|0 - No DR|No apparent DR",
        ),
        (1, "1|1.0|1,0|Mild|mild NPDR|MILD_DR|1_Mild|Mild nonproliferative DR|경증"),
        (2, "2|Moderate|moderate-npdr|Grade 2|2 moderate|Moderate_NonProliferative"),
        (3, "3|severe|Severe NPDR|class_3|level 3|Severe diabetic retinopathy"),
        (4, "4|PDR|Proliferate_DR|Proliferative|proliferative DR|4-PDR|증식성"),
    ],
)
def test_grade_is_parsed_from_a_number_or_a_word(grade, texts):
    assert {text: parse_grade(text) for text in texts.split("|")} == dict.fromkeys(
        texts.split("|"), grade
    )


@pytest.mark.parametrize(
    "text",
    [
        "5",
        "-1",
        "1.5",
        "10",
        "0.4",
        "2?",
        ">2",
        "1 Moderate",
        "mild?",
        "no PDR",
        "mild/moderate",
        "nonproliferative",
        "DR",
        "x",
        "",
        "two",
        "R1",
        "very severe",
    ],
)
def test_text_without_a_certain_grade_has_none(text):
    assert parse_grade(text) is None


@pytest.mark.parametrize("text", ["", "NaN", "N/A", "-1", "-1.0", "Ungradable", "?"])
def test_value_is_ungraded_when_it_means_no_grade(text):
    scale = grade_scale(["0", "1", text], DEFAULT)
    assert (scale.ungraded, scale.unknown) == ({text}, set())


def test_five_is_ungraded_only_in_a_column_with_zeros():
    assert grade_scale(["0", "4", "5"], DEFAULT).ungraded == {"5"}
    assert grade_scale(["1", "4", "5"], DEFAULT).unknown == {"5"}


def test_none_is_unknown_among_numbers():
    assert grade_scale(["None", "1", "2.0"], DEFAULT).unknown == {"None"}
    assert grade_scale(["None", "Mild"], DEFAULT).grades == {"None": 0, "Mild": 1}


def test_values_of_the_config_come_first():
    config = LabelsConfig(grade_values=[1, 2, 3, 4, 5], ungraded=["9", "bad Quality"])
    scale = grade_scale(["1", "5.0", "9.0", "BAD QUALITY", "", "0"], config)
    assert scale.grades == {"1": 0, "5.0": 4}
    assert scale.ungraded == {"9.0", "BAD QUALITY", ""}
    assert scale.unknown == {"0"}


def test_several_values_may_stand_for_one_grade():
    config = LabelsConfig(grade_values=["R0M0|R0M1", "R1M0 | R1M1"])
    grades = grade_scale(["R0M0", "r0m1", "R1M1"], config).grades
    assert grades == {"R0M0": 0, "r0m1": 0, "R1M1": 1}


@pytest.mark.parametrize("values", [["R0", "R1|R0"], ["no DR", "No_DR"], ["1", "1.0"]])
def test_a_value_of_two_grades_is_an_error(values):
    with raises_naming(LabelError, "labels.grade_values", "grade 0", "grade 1"):
        grade_scale(["x"], LabelsConfig(grade_values=values))


def test_two_values_may_stand_for_healthy_and_diseased():
    config = LabelsConfig(grade_values=["No_DR", "DR"])
    assert grade_scale(["DR", "No DR"], config).grades == {"DR": 1, "No DR": 0}
