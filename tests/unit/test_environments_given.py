"""What a user writes: checked, merged with what is inherited, named by its content."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from shoal import errors
from shoal._proto.environments import Environment
from shoal._runtime.environments import given, resolving
from shoal._runtime.environments.runtime_env import of_environment
from shoal.runtime_env import RuntimeEnv, RuntimeEnvConfig

GOOD: dict[str, list[Any]] = {
    "env_vars": [{}, {"A": "1"}],
    "working_dir": ["/tmp", Path("/tmp"), "s3://bucket/a.zip"],
    "py_modules": [[], ["/tmp/m"], [json, Path("/x")]],
    "excludes": [[], ["*.log"]],
    "pip": [["a==1"], "requirements.txt", {"packages": ["a"], "pip_check": True}],
    "uv": [["a"], {"packages": "r.txt", "uv_version": "==0.4", "uv_pip_install_options": ["-v"]}],
    "conda": ["name", "file.yml", {"dependencies": ["pip"]}],
    "config": [{}, {"setup_timeout_seconds": -1, "eager_install": False}],
    "worker_process_setup_hook": [len, "module.name"],
}
BAD: dict[str, list[Any]] = {
    "env_vars": [["A=1"], {"A": 1}, {"": "x"}, {"A=B": "x"}, "A"],
    "working_dir": [5, "", ["x"]],
    "py_modules": ["/tmp/m", [5]],
    "excludes": ["*.log", [1]],
    "pip": [5, [1], {"package": ["a"]}, {"packages": 5}, {"packages": ["a"], "uv_check": True}],
    "uv": [{}, {"packages": ["a"], "uv_version": 4}],
    "conda": [5, {}, ""],
    "config": [5, {"setup_timeout_seconds": 0}, {"setup_timeout": 5}, {"eager_install": "no"}],
    "worker_process_setup_hook": [5, "name"],
}


@pytest.mark.parametrize("name", given.FIELDS)
def test_each_field(name: str) -> None:
    for value in GOOD[name]:
        assert given.check({name: value, "env_vars": None} | {name: value}) == {name: value}
    for value in BAD[name]:
        with pytest.raises(errors.OptionError, match=name) as caught:
            given.check({name: value})
        assert caught.value.option == "runtime_env" and name in caught.value.valid


def test_unknown_fields_and_those_of_elsewhere() -> None:
    with pytest.raises(errors.OptionError, match=r"Did you mean working_dir\?.*Valid: conda, "):
        given.check({"work_dir": "x"})
    with pytest.raises(errors.OptionError, match="containers are not there"):
        given.check({"image_uri": "x"})
    with pytest.raises(errors.OptionError, match="only one of pip, uv"):
        given.check({"pip": ["a"], "uv": ["b"]})
    with pytest.raises(errors.OptionError, match="must be a dict, not list"):
        given.check([])


def test_values_of_variables_are_in_no_message_and_no_view() -> None:
    with pytest.raises(errors.OptionError) as caught:
        given.check({"env_vars": {"A": "secret", "B": 5}})
    environment = RuntimeEnv(env_vars={"TOKEN": "secret"})
    made = resolving.resolve(environment, None, "/nowhere")
    for text in (str(caught.value), repr(environment), repr(made), made.given):
        assert "secret" not in text
    assert environment["env_vars"] == {"TOKEN": "secret"}
    assert of_environment(made) == {"env_vars": {"TOKEN": "secret"}}


def test_runtime_env_is_a_dict_that_checks() -> None:
    environment = RuntimeEnv(pip=["a"], conda=None)
    assert environment == {"pip": ["a"]} == environment.to_dict()
    environment.set("config", RuntimeEnvConfig(setup_timeout_seconds=5))
    assert environment["config"] == {"setup_timeout_seconds": 5, "eager_install": True}
    with pytest.raises(errors.OptionError, match="no field 'image'"):
        RuntimeEnv(image="x")
    with pytest.raises(errors.OptionError, match="env_vars"):
        environment["env_vars"] = 5
    with pytest.raises(errors.OptionError, match="config"):
        RuntimeEnvConfig(setup_timeout_seconds=-3)


# ---- resolving
def resolve(value: dict[str, Any], inherited: Environment | None = None, at: Any = "") -> Any:
    return resolving.resolve(value, inherited, str(at))


def test_nothing_is_the_environment_without_a_key() -> None:
    assert resolve({}).key == "" and resolve({"config": {"eager_install": False}}).key == ""
    assert resolve({"env_vars": {}}).key == "" and resolve({"pip": []}).key == ""


def test_the_key_is_of_what_makes_a_difference_to_a_worker() -> None:
    one = resolve({"env_vars": {"A": "1", "B": "2"}})
    assert one.key == resolve({"env_vars": {"B": "2", "A": "1"}}).key
    assert one.key == resolve({"env_vars": {"A": "1"}}, resolve({"env_vars": {"B": "2"}})).key
    assert one.key != resolve({"env_vars": {"A": "1", "B": "3"}}).key
    patient = resolve({"env_vars": {"A": "1", "B": "2"}, "config": {"setup_timeout_seconds": 9}})
    assert patient.key == one.key and patient.setup_timeout_s == 9.0


def test_merging() -> None:
    parent = resolve({"env_vars": {"A": "1", "B": "2"}, "pip": ["a"], "conda": None})
    child = resolve({"env_vars": {"B": "3"}, "excludes": []}, parent)
    assert child.env_vars == {"A": "1", "B": "3"} and child.packages == parent.packages
    assert json.loads(child.given)["pip"] == ["a"]
    other = resolve({"uv": ["b"]}, child)
    assert other.packages is not None and other.packages.requirements == ["b"]
    assert other.env_vars == child.env_vars and set(json.loads(other.given)) == {
        "env_vars", "uv", "excludes",
    }  # fmt: skip
    conda = resolve({"conda": "name"}, other)
    assert conda.packages is None and conda.conda is not None and conda.conda.name == "name"
    assert resolve({"pip": ["a"]}, conda).conda is None


def test_directories_are_copied_once_by_content(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/file").write_text("1")
    session = tmp_path / "session"
    one = resolve({"working_dir": str(tmp_path / "d")}, at=session)
    (tmp_path / "d/file").write_text("2")
    two = resolve({"working_dir": tmp_path / "d"}, at=session)
    (tmp_path / "d/file").write_text("1")
    again = resolve({"working_dir": f"file://{tmp_path}/d"}, at=session)
    assert one.working_dir == again.working_dir != two.working_dir and one.key != two.key
    assert not one.has_to_be_made()
    copies = session / "packages"
    assert (copies / one.working_dir.digest / "file").read_text() == "1"
    assert (copies / two.working_dir.digest / "file").read_text() == "2"


def test_modules_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__init__.py").write_text("")
    (tmp_path / "single.py").write_text("")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("inside.py", "")
    (tmp_path / "some-1-py3-none-any.whl").write_text("not looked at here")
    session = tmp_path / "session"
    kinds = ["package", "single.py", "z.zip", "some-1-py3-none-any.whl"]
    made = resolve({"py_modules": [str(tmp_path / kind) for kind in kinds] + [json]}, at=session)
    found = [session / "packages" / tree.digest for tree in made.py_modules]
    assert [sorted(os.listdir(path)) for path in found] == [
        ["package"], ["single.py"], ["inside.py"], ["some-1-py3-none-any.whl"], ["json"],
    ]  # fmt: skip
    assert [tree.wheel for tree in made.py_modules] == ["", "", "", kinds[3], ""]
    assert made.has_to_be_made()


@pytest.mark.parametrize(
    "value, said",
    [
        ({"working_dir": "/nowhere/at/all"}, "there is no /nowhere/at/all"),
        ({"py_modules": ["/nowhere.py"]}, "there is no /nowhere.py"),
        ({"working_dir": __file__}, "neither a directory nor an archive"),
        ({"working_dir": "s3://bucket/name"}, "does not name an archive"),
        ({"working_dir": "s3://bucket/a.whl"}, "belongs into py_modules"),
        ({"pip": "/nowhere.txt"}, "cannot be read"),
        ({"uv": ["./nowhere.whl"]}, "there is no"),
        ({"conda": "/nowhere.yml"}, "cannot be read"),
    ],
)
def test_what_is_not_there_or_makes_no_sense(value: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.OptionError, match=said):
        resolve(value)


def test_an_archive_that_is_refused_is_an_error_of_the_caller(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("../evil", "")
    with pytest.raises(errors.OptionError, match=r"working_dir.*leads out"):
        resolve({"working_dir": str(tmp_path / "z.zip")}, at=tmp_path / "session")
    assert not (tmp_path / "evil").exists()


def test_requirement_files_are_read_here(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("c\n")
    (tmp_path / "a.whl").write_text("x")
    (tmp_path / "r.txt").write_text("# comment\na==1  # why\n\n-r more.txt\n./a.whl\nb \\\n >=2\n")
    made = resolve({"pip": str(tmp_path / "r.txt")})
    assert made.packages.requirements == [
        "a==1", f"-r {tmp_path}/more.txt", f"{tmp_path}/a.whl", "b  >=2",
    ]  # fmt: skip
    digest = made.packages.digest
    (tmp_path / "more.txt").write_text("d\n")
    assert resolve({"pip": str(tmp_path / "r.txt")}).packages.digest != digest
    with_options = {"packages": ["a"], "uv_pip_install_options": ["--pre"]}
    assert resolve({"uv": with_options}).packages.options == ["--pre"]


def test_git_agrees_about_what_is_ignored(tmp_path: Path) -> None:
    """Not our table of cases but git itself, where it is installed."""
    lines = ["*.log", "!keep.log", "/only/", "a/**/z", "x[!0-9]", "**/deep", "tail/", r"\!odd"]
    paths = ["b.log", "d/keep.log", "only/f", "d/only/f", "a/z", "a/b/c/z", "x1", "xa", "deep/f",
             "q/deep", "tail", "d/tail/f", "!odd"]  # fmt: skip
    root = tmp_path / "repository"
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if not (root / path).exists():
            (root / path).write_text("")
    (root / ".gitignore").write_text("\n".join(lines))
    try:
        subprocess.run(["git", "init", "-q", str(root)], check=True, capture_output=True)
    except FileNotFoundError:
        return
    asked = ["git", "-C", str(root), "ls-files", "--others", "--exclude-standard"]
    said = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()
    made = resolve({"working_dir": str(root)}, at=tmp_path / "session")
    copy = tmp_path / "session/packages" / made.working_dir.digest
    taken = [str(p.relative_to(copy)) for p in copy.rglob("*") if p.is_file()]
    assert sorted(taken) == sorted(said)
