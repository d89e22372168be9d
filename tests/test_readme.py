"""The README is kept true where a test can keep it so."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bc_tasks.cli import app
from bc_tasks.config_table import config_table
from bc_tasks.environment import CHECKOUT
from bc_tasks.errors import BcError
from bc_tasks.gates import RULES
from bc_tasks.mammogram import QuarantineReason

README = (CHECKOUT / "README.md").read_text()


def test_the_configuration_table_is_that_of_the_models() -> None:
    assert config_table() in README, "paste the output of `bc config --table` into README.md"


@pytest.mark.parametrize("reason", QuarantineReason)
def test_every_quarantine_reason_is_explained(reason: QuarantineReason) -> None:
    assert f"`{reason}`" in README


@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_every_gate_rule_is_explained(rule: str) -> None:
    assert f"`{rule}`" in README


def test_every_exit_code_is_explained() -> None:
    explained = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert explained == {error.exit_code for error in _with_descendants(BcError)}


def _with_descendants(error: type[BcError]) -> set[type[BcError]]:
    return {error}.union(*(_with_descendants(child) for child in error.__subclasses__()))


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:bc_tasks|include|tests|benchmarks|dags)/[\w./-]+)`", README)))
)
def test_every_path_that_is_named_is_there(path: str) -> None:
    assert (CHECKOUT / path).exists() or "<" in path


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`bc ([\w-]+)", README))))
def test_every_command_that_is_named_is_there(command: str) -> None:
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def test_no_configuration_file_has_a_mistake() -> None:
    for path in Path(CHECKOUT / "include" / "config").glob("*.toml"):
        result = CliRunner().invoke(app, ["config", str(path)])
        assert result.exit_code == 0, result.output
