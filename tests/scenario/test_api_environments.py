"""Runtime environments through the public API, with real workers, uv and files.

No test needs a network: packages are wheels made here and installed from a directory, remote
archives come through fsspec from this disk.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors
from shoal.runtime_env import RuntimeEnv
from tests.torture.processes import eventually


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))


def wheel(directory: Path, name: str, code: str, version: str = "1.0", needs: str = "") -> Path:
    """A wheel of one module, as small as they get."""
    path = directory / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    needed = f"Requires-Dist: {needs}\n" if needs else ""
    files = {
        f"{name}.py": code,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": f"[console_scripts]\n{name}-says = {name}:main\n",
    }
    files[f"{about}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{about}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
    return path


def offline(directory: Path, *requirements: str) -> list[str]:
    return ["--no-index", f"--find-links {directory}", *requirements]


@shoal.remote
def variable(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


@shoal.remote
def worker() -> int:
    return os.getpid()


@shoal.remote
def module_value(name: str) -> tuple[Any, str]:
    module = importlib.import_module(name)
    return module.VALUE, os.path.dirname(str(module.__file__))


@shoal.remote
def read(path: str) -> str:
    return Path(path).read_text()


# ---- variables, inheritance
def test_variables_of_job_task_and_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD", "before")
    shoal.init(num_cpus=2, runtime_env={"env_vars": {"A": "job", "B": "job", "C": "${OLD}:x"}})
    assert shoal.get(variable.remote("A", "B", "C")) == ["job", "job", "before:x"]
    inner = variable.options(runtime_env={"env_vars": {"B": "task"}})
    assert shoal.get(inner.remote("A", "B")) == ["job", "task"]

    @shoal.remote(runtime_env={"env_vars": {"B": "actor"}})
    class Actor:
        def look(self) -> list[str | None]:
            return [os.environ.get(name) for name in ("A", "B")]

        def below(self) -> Any:
            return shoal.get(variable.remote("A", "B"))

    actor = Actor.remote()
    assert shoal.get(actor.look.remote()) == shoal.get(actor.below.remote()) == ["job", "actor"]
    assert "A" not in os.environ


def test_children_inherit_and_add() -> None:
    shoal.init(num_cpus=2)

    @shoal.remote
    def parent() -> list[Any]:
        child = variable.options(runtime_env={"env_vars": {"B": "child"}})
        return [
            shoal.get(variable.remote("A", "B")),
            shoal.get(child.remote("A", "B")),
            dict(shoal.get_runtime_context().runtime_env),
        ]

    found = shoal.get(parent.options(runtime_env={"env_vars": {"A": "parent"}}).remote())
    assert found == [["parent", None], ["parent", "child"], {"env_vars": {"A": "parent"}}]
    assert shoal.get(parent.remote()) == [[None, None], [None, "child"], {}]


def test_equal_to_the_jobs_is_no_work_and_no_new_worker() -> None:
    shoal.init(num_cpus=1, runtime_env={"env_vars": {"A": "1"}})
    own = shoal.get(worker.remote())
    same = worker.options(runtime_env=RuntimeEnv(env_vars={"A": "1"}))
    other = worker.options(runtime_env={"env_vars": {"A": "2"}})
    assert shoal.get(same.remote()) == own
    assert shoal.get(other.remote()) != own
    assert shoal.get(worker.remote()) == own, "it has kept its own"


def test_values_of_variables_are_in_no_table_and_no_log() -> None:
    secret = "very-secret-value"
    context = shoal.init(num_cpus=1, runtime_env={"env_vars": {"TOKEN": secret}})

    @shoal.remote
    class Actor:
        def look(self) -> str:
            return os.environ["TOKEN"]

    actor = Actor.options(runtime_env={"env_vars": {"OTHER": secret}}).remote()
    assert shoal.get(actor.look.remote()) == secret
    environments = shoal.state.runtime_environments(state="ready")
    assert len(environments) == 2 and '"TOKEN":"***"' in environments[0].given
    for table in (shoal.state.jobs(), shoal.state.actors(), environments):
        assert secret not in repr(table)
    for log in Path(context["session_dir"], "logs").iterdir():
        assert secret not in log.read_text()


# ---- files
def test_working_dir_is_a_copy_in_which_tasks_begin(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "data.txt").write_text("hello")
    (work / "own_module.py").write_text("VALUE = 5\n")
    (work / ".gitignore").write_text("*.log\n")
    (work / "x.log").write_text("left out")
    shoal.init(num_cpus=1, runtime_env={"working_dir": str(work), "excludes": ["nothing"]})
    assert shoal.get(read.remote("data.txt")) == "hello"
    assert shoal.get(module_value.remote("own_module"))[0] == 5
    with pytest.raises(FileNotFoundError):
        shoal.get(read.remote("x.log"))
    (work / "data.txt").write_text("changed")
    assert shoal.get(read.remote("data.txt")) == "hello", "as it was when the job began"
    again = read.options(runtime_env={"working_dir": str(work)})
    assert shoal.get(again.remote("data.txt")) == "changed"


def test_what_tasks_write_into_a_working_dir_stays_in_the_session(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "data.txt").write_text("hello")

    @shoal.remote
    def write() -> str:
        Path("data.txt").write_text("spoilt")
        return os.getcwd()

    place = shoal.get(write.options(runtime_env={"working_dir": str(work)}).remote())
    shoal.shutdown()
    assert not os.path.exists(place) and (work / "data.txt").read_text() == "hello"
    again = read.options(runtime_env={"working_dir": str(work)})
    assert shoal.get(again.remote("data.txt")) == "hello"


def test_modules_as_directory_file_archive_and_module(tmp_path: Path) -> None:
    (tmp_path / "package_a").mkdir()
    (tmp_path / "package_a/__init__.py").write_text("VALUE = 'directory'\n")
    (tmp_path / "module_b.py").write_text("VALUE = 'file'\n")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("module_c.py", "VALUE = 'archive'\n")
    made = wheel(tmp_path, "module_d", "VALUE = 'wheel'\n")
    paths = [tmp_path / "package_a", tmp_path / "module_b.py", tmp_path / "c.zip", made]
    shoal.init(num_cpus=2, runtime_env={"py_modules": [str(path) for path in paths]})
    names = ["package_a", "module_b", "module_c", "module_d"]
    found = shoal.get([module_value.remote(name) for name in names])
    assert [value for value, _ in found] == ["directory", "file", "archive", "wheel"]


def test_remote_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "work.zip", "w") as archive:
        archive.writestr("top/data.txt", "from far away")
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as archive:
        archive.writestr("far_package/__init__.py", "VALUE = 'far'\n")
    # A protocol that is not ours to know: fsspec gets it.
    uris = [f"local://{tmp_path}/{name}.zip" for name in ("work", "package")]
    shoal.init(num_cpus=1, runtime_env={"working_dir": uris[0], "py_modules": [uris[1]]})
    assert shoal.get(read.remote("data.txt")) == "from far away"
    assert shoal.get(module_value.remote("far_package"))[0] == "far"
    kept = list((tmp_path / "cache/downloads").glob("*.size"))
    assert len(kept) == 2


def test_a_remote_archive_that_is_refused_or_gone(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../evil", "x")
    shoal.init(num_cpus=1)
    for name, said in (("evil", "leads out of the archive"), ("gone", "cannot be fetched")):
        task = read.options(runtime_env={"working_dir": f"local://{tmp_path}/{name}.zip"})
        with pytest.raises(errors.RuntimeEnvSetupError, match=said) as caught:
            shoal.get(task.remote("x"))
        assert caught.value.step == "working_dir"
    assert not list(tmp_path.rglob("evil"))


def test_a_directory_that_is_not_there_is_an_error_of_init(tmp_path: Path) -> None:
    with pytest.raises(errors.OptionError, match="there is no"):
        shoal.init(num_cpus=1, runtime_env={"working_dir": str(tmp_path / "nowhere")})
    assert not shoal.is_initialized()
    shoal.init(num_cpus=1)
    with pytest.raises(errors.OptionError, match="there is no"):
        read.options(runtime_env={"py_modules": [str(tmp_path / "nowhere")]}).remote("x")


# ---- packages
def test_packages_are_installed_once_for_all_sessions(tmp_path: Path) -> None:
    wheel(tmp_path, "needed", "VALUE = 1\n")
    code = "import needed\nVALUE = needed.VALUE + 1\ndef main():\n    print('said', VALUE)\n"
    wheel(tmp_path, "wanted", code, needs="needed")
    environment = {"uv": offline(tmp_path, "wanted==1.0")}

    @shoal.remote(runtime_env=environment)
    def use() -> list[Any]:
        found = importlib.import_module("wanted")
        called = subprocess.run(["wanted-says"], capture_output=True, text=True, check=True)
        program = [sys.executable, "-c", "import wanted; print(wanted.VALUE)"]
        below = subprocess.run(program, capture_output=True, text=True, check=True)
        return [found.VALUE, found.__file__, called.stdout, below.stdout]

    shoal.init(num_cpus=2)
    value, file, said, below = shoal.get(use.remote())
    assert (value, said, below) == (2, "said 2\n", "2\n")
    with pytest.raises(ModuleNotFoundError):
        shoal.get(module_value.remote("wanted"))
    made_at = os.stat(file).st_ctime_ns
    shoal.shutdown()
    context = shoal.init(num_cpus=2)
    assert shoal.get(use.remote())[1] == file and os.stat(file).st_ctime_ns == made_at
    logs = Path(context["session_dir"], "logs")
    assert not (logs / "environments.log").exists(), "nothing was to be made: no child was begun"


def test_a_requirements_file_and_pips_name(tmp_path: Path) -> None:
    wheel(tmp_path, "wanted", "VALUE = 7\n")
    listed = tmp_path / "requirements.txt"
    listed.write_text("\n".join(offline(tmp_path, "# why", "wanted")))
    task = module_value.options(runtime_env={"pip": str(listed)})
    assert shoal.get(task.remote("wanted"))[0] == 7
    packages = {"packages": [str(tmp_path / "wanted-1.0-py3-none-any.whl")], "pip_check": False}
    task = module_value.options(runtime_env={"pip": packages})
    assert shoal.get(task.remote("wanted"))[0] == 7


def test_many_at_once_and_two_sessions_make_it_once(tmp_path: Path) -> None:
    wheel(tmp_path, "wanted", "VALUE = 3\n")
    program = f"""
import shoal
shoal.init(num_cpus=2)
@shoal.remote(runtime_env={{"uv": {offline(tmp_path, "wanted")!r}}})
def use():
    import wanted
    return wanted.VALUE
@shoal.remote(runtime_env={{"uv": {offline(tmp_path, "wanted")!r}, "env_vars": {{"A": "1"}}}})
def other():
    import wanted
    return wanted.VALUE
print(sum(shoal.get([use.remote() for _ in range(5)] + [other.remote() for _ in range(5)])))
"""
    programs = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [each.communicate(timeout=60)[0] for each in programs] == ["30\n", "30\n"]
    places = os.listdir(tmp_path / "cache/packages")
    assert sorted(name.partition(".")[2] for name in places) == ["", "lock", "size"]


def test_what_cannot_be_installed_says_the_tools_last_lines() -> None:
    shoal.init(num_cpus=1)
    environment = {"pip": ["--no-index", "no-such-package-anywhere==1.0"]}
    task = worker.options(runtime_env=environment)
    with pytest.raises(errors.RuntimeEnvSetupError, match="no-such-package-anywhere") as caught:
        shoal.get(task.remote())
    assert caught.value.step == "pip" and len(caught.value.output) > 1
    with pytest.raises(errors.RuntimeEnvSetupError, match="no-such-package-anywhere"):
        shoal.get(task.remote(), timeout=60)

    @shoal.remote(runtime_env=environment)
    class Actor:
        def look(self) -> int:
            return 1

    with pytest.raises(errors.RuntimeEnvSetupError, match="no-such-package-anywhere"):
        shoal.get(Actor.remote().look.remote())
    assert shoal.get(worker.remote()) > 0, "others go on"


def test_a_password_in_an_address_is_in_no_error_and_no_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")  # nobody listens there
    context = shoal.init(num_cpus=1)
    options = ["--index-url", "http://user:sesame@127.0.0.1:9/simple"]
    packages = {"packages": ["nothing"], "uv_pip_install_options": options}
    with pytest.raises(errors.RuntimeEnvSetupError) as caught:
        shoal.get(worker.options(runtime_env={"uv": packages}).remote())
    log = Path(context["session_dir"], "logs/environments.log").read_text()
    assert "sesame" not in str(caught.value) and "sesame" not in log and "://***@" in log


def slow_package(tmp_path: Path) -> dict[str, Any]:
    """Its build never ends."""
    source = tmp_path / "slow"
    source.mkdir()
    begun = tmp_path / "begun"
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "slow"\nversion = "1"\n'
    )
    (source / "backend.py").write_text(
        "import os, threading\n"
        f"open({str(begun)!r}, 'w').write(str(os.getpid()))\n"
        "threading.Event().wait()\n"
    )
    return {"uv": ["--no-index", str(source)]}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_what_takes_too_long_is_ended_with_all_it_has_begun(tmp_path: Path) -> None:
    environment = slow_package(tmp_path) | {"config": {"setup_timeout_seconds": 3}}
    shoal.init(num_cpus=1)
    task = worker.options(runtime_env=environment).remote()
    assert shoal.get(worker.remote()) > 0, "nobody waits for it but its own tasks"
    eventually((tmp_path / "begun").exists, 30, "what the maker does is not seen")
    with pytest.raises(errors.RuntimeEnvSetupError, match="not made within 3 s"):
        shoal.get(task, timeout=20)
    eventually(
        lambda: not is_alive(int((tmp_path / "begun").read_text())),
        30,
        "what the maker does is not seen",
    )


def test_a_maker_that_is_killed_begins_again(tmp_path: Path) -> None:
    shoal.init(num_cpus=1)
    environment = slow_package(tmp_path)
    task = worker.options(runtime_env=environment).remote()
    begun = tmp_path / "begun"
    for _ in range(2):
        eventually(
            lambda: begun.exists() and bool(begun.read_text()),
            20,
            "what the maker does is not seen",
        )
        begun.unlink()
        (maker,) = [
            int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if is_maker(path)
        ]
        os.kill(maker, signal.SIGKILL)
    eventually(
        lambda: begun.exists() and bool(begun.read_text()), 30, "what the maker does is not seen"
    )
    assert shoal.wait([task], timeout=0) == ([], [task])


def is_maker(cmdline: Path) -> bool:
    """Of this session: of all that make environments here, ours has its directory in its name."""
    try:
        said = cmdline.read_text()
    except OSError:  # it has ended meanwhile
        return False
    directory = shoal.get_runtime_context().gcs_address
    return "shoal._runtime.environments.build" in said and directory in said


def test_the_end_of_the_session_ends_what_is_being_made(tmp_path: Path) -> None:
    shoal.init(num_cpus=1)
    task = worker.options(runtime_env=slow_package(tmp_path)).remote()
    eventually(
        lambda: (tmp_path / "begun").exists() and bool((tmp_path / "begun").read_text()),
        30,
        "it came to be",
    )
    shoal.shutdown()
    del task
    eventually(
        lambda: not is_alive(int((tmp_path / "begun").read_text())),
        30,
        "what the maker does is not seen",
    )
    wheel(tmp_path, "wanted", "VALUE = 1\n")
    task = module_value.options(runtime_env={"uv": offline(tmp_path, "wanted")})
    assert shoal.get(task.remote("wanted"))[0] == 1


def test_an_environment_never_brings_its_own_shoal(tmp_path: Path) -> None:
    wheel(tmp_path, "shoal", "VALUE = 'another'\n")
    wheel(tmp_path, "wanted", "VALUE = 1\n")

    @shoal.remote(runtime_env={"uv": offline(tmp_path, "shoal", "wanted")})
    def look() -> tuple[str, int]:
        found = importlib.import_module("wanted")
        program = [sys.executable, "-c", "import shoal; print(shoal.__file__)"]
        below = subprocess.run(program, capture_output=True, text=True, check=True)
        return below.stdout.strip(), found.VALUE

    file, value = shoal.get(look.remote())
    assert file == shoal.__file__ and value == 1


def test_conda_where_it_is_not_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("CONDA_EXE", raising=False)
    task = worker.options(runtime_env={"conda": "some-environment"})
    with pytest.raises(errors.RuntimeEnvSetupError, match="needs conda, mamba or micromamba"):
        shoal.get(task.remote())


def test_conda_brings_its_own_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that is called as conda is, and makes a virtual environment."""
    tool = tmp_path / "bin/conda"
    tool.parent.mkdir()
    site = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    tool.write_text(
        '#!/bin/sh\nwhile [ $# -gt 1 ]; do case "$1" in --prefix) place="$2";; esac; shift; done\n'
        f'{sys.executable} -m venv --without-pip "$place"\n'
        f'echo "VALUE = 4" > "$place/{site}/wanted.py"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.delenv("CONDA_EXE", raising=False)

    @shoal.remote(runtime_env={"conda": {"dependencies": ["wanted"]}})
    def look() -> tuple[Any, ...]:
        return importlib.import_module("wanted").VALUE, sys.prefix, shoal.__file__

    value, prefix, file = shoal.get(look.remote())
    assert value == 4 and file == shoal.__file__
    assert prefix.startswith(str(tmp_path / "cache/conda"))


# ---- the hook
def test_the_hook_is_called_first_in_every_worker(tmp_path: Path) -> None:
    def hook() -> None:
        os.environ["HOOKED"] = os.environ["A"] + str(os.getpid())

    environment = {"worker_process_setup_hook": hook, "env_vars": {"A": "x"}}
    shoal.init(num_cpus=2, runtime_env=environment)
    pid, (hooked,) = shoal.get([worker.remote(), variable.remote("HOOKED")])
    assert hooked is not None and hooked.startswith("x") and pid > 0
    (tmp_path / "module_e.py").write_text("import os\ndef go(): os.environ['HOOKED'] = 'by name'\n")
    named = {"worker_process_setup_hook": "module_e.go", "py_modules": [tmp_path / "module_e.py"]}
    task = variable.options(runtime_env=named)
    assert shoal.get(task.remote("HOOKED")) == ["by name"]


def test_a_hook_that_raises_fails_tasks_and_actors() -> None:
    def hook() -> None:
        raise ValueError("not today")

    shoal.init(num_cpus=1)
    task = worker.options(runtime_env={"worker_process_setup_hook": hook})
    with pytest.raises(errors.RuntimeEnvSetupError, match="ValueError: not today") as caught:
        shoal.get(task.remote())
    assert caught.value.step == "worker_process_setup_hook"
    assert any("in hook" in line for line in caught.value.output)

    @shoal.remote(runtime_env={"worker_process_setup_hook": hook}, max_restarts=-1)
    class Actor:
        def look(self) -> int:
            return 1

    with pytest.raises(errors.RuntimeEnvSetupError, match="not today"):
        shoal.get(Actor.remote().look.remote())
    assert shoal.get(worker.remote()) > 0
