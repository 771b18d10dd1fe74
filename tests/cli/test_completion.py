"""`acto completion` and `acto --version`: what a shell completes, and which code it is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from acto.cli import COMMANDS, completion, dispatch, main
from acto.cli.completion import DIRECTIONS, parsers
from acto.core.errors import MissingPackage
from acto.run_folder import git_commit


def test_every_command_has_its_parser() -> None:
    found = parsers()
    for command in COMMANDS:
        for word in DIRECTIONS.get(command, ("",)):
            name = f"{command} {word}".strip()
            assert found[name].description, name
    assert "--acto.tau" in found["train"].flags() and "--label-column" in found["audit"].flags()


def test_a_help_is_printed_again_after_that(capsys: pytest.CaptureFixture[str]) -> None:
    parsers()
    assert main(["apply", "--help"]) == 0
    assert "usage: acto apply" in capsys.readouterr().out


def test_an_unknown_shell_is_refused_with_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fishy"]) == 2
    assert "bash" in capsys.readouterr().err


def test_without_shtab_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert 'pip install "acto-lnl[completion]"' in capsys.readouterr().err


def test_bash_completes_commands_flags_and_second_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    if (bash := shutil.which("bash")) is None:
        pytest.skip("no bash is installed")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "acto"
    script.write_text(capsys.readouterr().out)

    def completed(*words: str) -> set[str]:
        line = " ".join(f"'{word}'" for word in words)
        code = (
            f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; "
            f"_shtab_acto acto '{words[-1]}' '{words[-2]}'; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        done = subprocess.run([bash, "--norc", "-c", code], capture_output=True, text=True, cwd=tmp_path)
        assert not done.stderr, done.stderr
        return set(done.stdout.split())

    assert completed("acto", "re") == {"review"}
    assert completed("acto", "train", "--acto.ta") == {"--acto.tau"}
    assert "--noise-rate" in completed("acto", "train", "--noise")
    assert completed("acto", "exchange", "i") == {"import"}
    (tmp_path / "photos").mkdir()
    assert "photos" in {name.rstrip("/") for name in completed("acto", "apply", "--run", "pho")}


def test_commands_that_a_light_installation_lacks_are_completed_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab")

    def light(tokens: list[str]) -> int:
        if tokens[0] in ("bench", "data"):
            raise MissingPackage("torch")
        return dispatch(tokens)

    monkeypatch.setattr(completion, "dispatch", light)
    assert main(["completion", "bash"]) == 0
    script, said = capsys.readouterr()
    assert (
        said.startswith("note: the flags of data, bench are not completed") and 'pip install "acto-lnl[train]"' in said
    )
    assert re.search(r"^_shtab_acto_subparsers=\(.*\bbench\b.*\bdata\b|\bdata\b.*\bbench\b", script, flags=re.M)
    assert "_shtab_acto_bench_option_strings=(--quick" not in script


def test_the_version_names_the_commit_of_a_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clone = tmp_path / "clone"
    here = clone / "src" / "acto" / "run_folder" / "git_commit.py"
    here.parent.mkdir(parents=True)
    (clone / ".git").mkdir()
    (clone / ".git" / "HEAD").write_text("0123456789abcdef0123456789abcdef01234567\n")
    monkeypatch.setattr(git_commit, "version", lambda name: {"acto-lnl": "7.8.9"}[name])
    monkeypatch.setattr(git_commit, "__file__", str(here))
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "acto 7.8.9 (commit 0123456789ab)\n"
    installed = tmp_path / "lib" / "site-packages" / "acto" / "run_folder" / "git_commit.py"
    (tmp_path / ".git").mkdir()  # a repository around the environment is not acto's
    shutil.copy(clone / ".git" / "HEAD", tmp_path / ".git" / "HEAD")
    monkeypatch.setattr(git_commit, "__file__", str(installed))
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "acto 7.8.9\n"
