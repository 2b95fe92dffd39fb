from drtf import progress as module
from drtf.progress import progress


def test_outside_a_terminal_the_end_is_one_plain_line(capsys):
    with progress("Counting", 3) as advance:
        for number in range(3):
            advance(f"at {number}")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Counting: 3/3, ")
    assert captured.err.endswith("/s, at 2\n")
    assert captured.err.count("\n") == 1


def test_long_steps_are_reported_on_the_way(capsys, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.0)
    with progress("Counting", 3) as advance:
        for _ in range(3):
            advance("")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "Counting: 1/3",
        "Counting: 2/3",
        "Counting: 3/3",
    ]


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress("Counting", 2) as advance:
        advance("note")
        advance("note")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2/2" in captured.err
