"""The entry point: help is quick, mistakes are told apart from failures."""

from __future__ import annotations

import subprocess
import sys

import pytest

import vpl_plugin
from vpl_plugin.cli.main import COMMANDS, main


def test_help_names_every_command_and_imports_no_torch() -> None:
    code = (
        "import sys; from vpl_plugin.cli.main import main\n"
        "try: main(['--help'])\n"
        "finally: print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stdout.strip().endswith("False")
    assert all(name in result.stdout for name in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == vpl_plugin.__version__


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["cams"], ["demo", "--nonsense"]])
def test_wrong_usage_exits_with_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
