"""What a user reads who does not know a command, or has mistyped it; and that what it says can be typed."""

import re
import shlex

import click
import pytest
from outcomes import error_of

from aaexport.cli.command import Command, options_by_name
from aaexport.cli.main import COMMANDS, aaexport
from aaexport.cli.quantities import BYTES, MEBIBYTES, MILLISECONDS, SECONDS, SHARE
from aaexport.errors import ArgumentError, ParityError, broken_rule, parameter


def command(name):
    with click.Context(aaexport) as context:
        return aaexport.get_command(context, name)


every_command = pytest.mark.parametrize("name", COMMANDS)


@every_command
def test_every_option_has_a_help_and_shows_what_can_be_typed(name):
    with click.Context(command(name)) as context:
        for option in command(name).params:
            if isinstance(option, click.Option):
                form, text = option.get_help_record(context)
                assert text, option.name
                assert not re.search(r"TEXT|FLOAT|INTEGER|RANGE|<=|>=", f"{form} {text}"), form


@every_command
def test_every_option_is_in_one_section(name):
    sections = command(name).sections
    listed = [option for names in sections.values() for option in names]
    assert len(listed) == len(set(listed))
    assert set(listed) <= {option.name for option in command(name).params}


@pytest.mark.parametrize("name", ["serve-bench", "convert", "verify", "train"])
def test_long_helps_have_headings_and_two_examples(name, cli):
    text = cli(name, "--help").out
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert headings == [*command(name).sections, "Options", "Examples"]
    assert text.count("$ aaexport ") >= 2


@every_command
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_help_fits_the_terminal(name, columns, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    too_long = [line for line in cli(name, "--help").out.splitlines() if len(line) > columns]
    assert not [line for line in too_long if len(line.split()) > 2], too_long


@every_command
def test_examples_can_be_typed(name):
    for line, meaning in command(name).examples:
        program, *words = shlex.split(line)
        assert (program, meaning[-1]) == ("aaexport", ".")
        words = [word for word in words if word != "-v"]
        assert words[0] == name
        command(name).make_context(name, words[1:]).close()


def test_the_helps_tell_every_exit_code(cli):
    text = " ".join(cli("--help").out.split())
    assert "Exit codes: 0 success, 1 error, 2 usage, 3 parity failed, 4 measurement invalid" in text
    assert text.endswith("5 device not active, 6 service not answering, 7 service not kept right, 130 interrupted.")


def test_an_unknown_command_or_option_has_a_suggestion(cli):
    assert "Did you mean 'convert'?" in error_of(cli("convrt", "x"), 2)
    assert "--opset" in error_of(cli("convert", "x", "--optset", "20"), 2)


# Options, not parameters


def test_an_error_names_the_parameter_in_python_and_the_option_on_the_command_line():
    error = ArgumentError(broken_rule("latency_bound", f"go with {parameter('rate')}", 5.0, "leave it out"))
    assert str(error) == "latency_bound must go with rate, got 5.0; leave it out"
    options = options_by_name(command("serve-bench"))
    assert error.worded(options) == "--p99 must go with --rate, got 5.0; leave it out"


def test_only_the_subject_and_what_is_marked_are_options():
    error = ArgumentError("out/rate must name a rate, got 'device must be cpu'")
    assert error.worded(options_by_name(command("serve-bench"))) == str(error)


def test_a_report_travels_with_its_error():
    error = ParityError(f"parity failed: {parameter('atol')}", "report")
    assert (str(error), error.report, error.worded({"atol": "--atol"})) == (
        "parity failed: atol", "report", "parity failed: --atol"
    )  # fmt: skip


def test_another_error_is_not_dressed_up(cli, monkeypatch):
    def fails(_):
        raise RuntimeError("x")

    monkeypatch.setattr("aaexport.pipeline.look.inspect.inspect", fails)
    assert "unexpected RuntimeError: x" in error_of(cli("inspect", "x"), 1)


@every_command
def test_every_option_has_its_name(name):
    found = options_by_name(command(name))
    assert all(option.startswith("--") for option in found.values())
    assert {option.name for option in command(name).params if isinstance(option, click.Option)} <= set(found)
    assert isinstance(command(name), Command)


# Quantities


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (MILLISECONDS, "20MS", 20), (MILLISECONDS, "0.02 S", 20), (MILLISECONDS, "250µS", 0.25),
        (MILLISECONDS, "250 μs", 0.25), (MILLISECONDS, "1e1", 10), (SECONDS, "2Min", 120), (SECONDS, "500 ms", 0.5),
        (SECONDS, "1h", 3600), (SECONDS, "-1", -1), (SHARE, "5 %", 0.05), (SHARE, "0.05", 0.05),
        (BYTES, "2gib", 2**31), (BYTES, "1 Gb", 1e9), (BYTES, "1024", 1024), (MEBIBYTES, "64", 64),
        (MEBIBYTES, "1GIB", 1024),
    ],
)  # fmt: skip
def test_a_quantity_has_its_unit_in_any_case(kind, text, value):
    assert kind.convert(text, None, None) == pytest.approx(value)


@pytest.mark.parametrize("text", ["20x", "ms", "", "1 2", "nan", "5%"])
def test_what_is_no_time_is_refused_with_the_units(text, cli):
    error = error_of(cli("serve-bench", "x", "--p99", text), 2)
    assert f"--p99 must be like 20ms, got {text!r}; units are us, µs, ms, s, min, h" in error
