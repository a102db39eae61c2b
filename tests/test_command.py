"""How commands end: exit status, and what they say of errors."""

import errno

import pytest

from sb3_ldm.command import add_note, run_command


def raising(error: BaseException):
    def main(arguments: list[str]) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("n_envs=0:\n  use at least 1."), "error: n_envs=0: use at least 1. (--debug shows where)"),
        (AssertionError("The trained_agent must be a .zip"), "error: The trained_agent must be a .zip (--debug shows where)"),
        (
            OSError(errno.ENOSPC, "No space left", "a"),
            f"error: [Errno {errno.ENOSPC}] No space left: 'a' (--debug shows where)",
        ),
        (MemoryError(), "error: MemoryError (--debug shows where)"),
    ],
)
def test_an_error_of_the_user_is_one_line(error, line, capsys):
    assert run_command(raising(error), []) == 1
    assert capsys.readouterr().err == line + "\n"
    assert run_command(raising(error), ["--debug"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and type(error).__name__ in said.splitlines()[-1 - str(error).count("\n")]


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError(), ZeroDivisionError("x"), ConnectionError("simulator")])
def test_a_bug_keeps_its_traceback_and_ends_with_what_was_saved(error, capsys):
    add_note(error, "Saved to a.zip")
    assert run_command(raising(error), []) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("Traceback") and type(error).__name__ in said[-2] and said[-1] == "Saved to a.zip"


def test_an_error_that_ended_work_tells_where_it_was_unless_a_disk_is_full(capsys):
    for error, first in ((ValueError("nan"), "Traceback"), (OSError(errno.ENOSPC, "No space left"), "error: ")):
        add_note(error, "Saved to a.zip")
        assert run_command(raising(error), []) == 1
        said = capsys.readouterr().err.splitlines()
        assert said[0].startswith(first) and said[-1] == "Saved to a.zip"


def test_the_exit_status_is_the_command_s_own(capsys):
    given: list[str] = []
    assert run_command(given.extend, ["--env", "a", "--debug", "b"]) == 0
    assert given == ["--env", "a", "b"]
    assert run_command(lambda arguments: 3, []) == 3
    assert run_command(raising(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "interrupted\n"
