import nbformat
import pytest
from nbclient import NotebookClient

from drtf import progress as module
from drtf.progress import progress
from naming import assert_names


def test_progress_ends_with_one_plain_line_outside_a_terminal(capsys):
    with progress("Counting", 3) as advance:
        for number in range(3):
            advance(f"at {number}")
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert_names(line, "Counting", "3/3", "at 2")


def test_progress_prints_lines_during_long_steps(capsys, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.0)
    with progress("Counting", 3) as advance:
        for _ in range(3):
            advance("")
    lines = capsys.readouterr().err.splitlines()
    for line, count in zip(lines, ("1/3", "2/3", "3/3"), strict=True):
        assert_names(line, "Counting", count)


def test_progress_counts_units_that_an_earlier_call_completed(capsys):
    with progress("Counting", 5, done=3) as advance:
        advance("")
    assert_names(capsys.readouterr().err, "Counting", "4/5")


@pytest.mark.parametrize(("end", "rate"), [(1.0, "3,780/s"), (0.1, "")])
def test_the_rate_of_a_fast_step_is_a_plain_number(end, rate, capsys, monkeypatch):
    times = iter([0.0, 0.0, *[end] * 10])  # the start, the first unit, afterwards
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    with progress("Counting", 3781) as advance:
        advance()
        advance(num_done=3780)
    err = capsys.readouterr().err
    assert_names(err, "3781/3781", rate)
    assert ("/s" in err) == bool(rate)


def test_a_step_without_units_shows_nothing(capsys):
    with progress("Counting", 0):
        pass
    assert capsys.readouterr() == ("", "")


def test_progress_shows_a_bar_in_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress("Counting", 2) as advance:
        advance("note")
        advance("note")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2/2" in captured.err


CELL = """
from drtf.progress import progress
with progress("Counting <b>", 3) as advance:
    for number in range(3):
        advance("a & b")
"""


def test_progress_shows_one_bar_in_a_notebook(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    NotebookClient(notebook, resources={"metadata": {"path": tmp_path}}).execute()
    (output,) = notebook.cells[0].outputs
    assert output.output_type == "display_data"
    page = output.data["text/html"]
    assert '<progress max="3" value="3">' in page
    assert "Counting &lt;b&gt;: 3/3" in page
    assert "a &amp; b" in page
