"""Ray's names: ``shoal run --as-ray`` and ``install()``, each in a process of its own.

What the names *do* is told by the user stories in `tests/parity`.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from shoal.compat.ray import modules, names

Done = subprocess.CompletedProcess

MISSING = {
    # what is written: a part of what the error says to do
    "import ray.tune": "libraries",
    "from ray import tune": "libraries",
    "from ray.util import nonsense": "docs/from-ray.md",
    "import ray.util.iter": "streaming generators",
    "from ray.util.spark import setup_ray_cluster": "Spark",
    "from ray.experimental import set_resource": "init(resources=...)",
    "from ray._private import nonsense": "it is private in Ray",
    "import ray; ray.nonsense": "docs/from-ray.md",
    "import ray; ray._private.worker.global_worker.nonsense": "docs/from-ray.md",
    "import ray; ray.client": "no client mode",
    "import ray; ray.init('ray://there:10001')": "needs its token",
}


def run(program: str, folder: pathlib.Path, *words: str, **variables: str) -> Done[str]:
    path = folder / "program.py"
    path.write_text(program)
    environment = {**os.environ, "SHOAL_DIR": str(folder / "sessions"), **variables}
    environment.pop("SHOAL_AS_RAY", None)
    command = [sys.executable, *words, str(path)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def as_ray(program: str, folder: pathlib.Path, **variables: str) -> str:
    done = run(program, folder, "-m", "shoal", "run", "--as-ray", **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_workers_have_the_layer_before_any_user_code(tmp_path: pathlib.Path) -> None:
    output = as_ray(
        "import ray\n"
        "from ray.exceptions import RayTaskError\n"
        "@ray.remote\n"
        "def version():\n"
        "    import importlib.metadata\n"
        "    return ray.__version__, importlib.metadata.version('ray'), ray.is_initialized()\n"
        "@ray.remote\n"
        "class Holder:\n"
        "    def caught(self):\n"
        "        return RayTaskError.__name__, ray._private.worker.global_worker.mode\n"
        "print(ray.get(version.remote()), ray.get(Holder.remote().caught.remote()))\n",
        tmp_path,
    )
    assert output.split("\n")[0] == "('2.60.0', '2.60.0', True) ('TaskError', 1)"


def test_install_in_the_program(tmp_path: pathlib.Path) -> None:
    done = run(
        "import shoal, shoal.compat.ray\n"
        "shoal.compat.ray.install()\n"
        "shoal.compat.ray.install()\n"
        "import ray, importlib.metadata\n"
        "assert ray.get is shoal.get and ray.remote is shoal.remote\n"
        "f = ray.remote(lambda: ray.__version__)\n"
        "print(ray.get(f.remote()), importlib.metadata.version('ray'))\n",
        tmp_path,
    )
    assert done.stdout == "2.60.0 2.60.0\n", done.stderr


def test_only_the_import_is_changed(tmp_path: pathlib.Path) -> None:
    """`import shoal as ray`: the rest of the program stays as it is."""
    done = run(
        "import shoal as ray\n"
        "@ray.remote\n"
        "def fail():\n"
        "    raise KeyError('x')\n"
        "try:\n"
        "    ray.get(fail.remote())\n"
        "except ray.exceptions.RayTaskError as error:\n"
        "    print(isinstance(error, KeyError), isinstance(error, ray.exceptions.RayError))\n"
        "group = ray.util.placement_group([{'CPU': 1}])\n"
        "print(group.wait(30))\n",
        tmp_path,
    )
    assert done.stdout == "True True\nTrue\n", done.stderr


def test_install_too_late_says_so(tmp_path: pathlib.Path) -> None:
    """Workers of a session that was begun without the layer would not have it."""
    late = run("import shoal, shoal.compat.ray as r\nshoal.init()\nr.install()\n", tmp_path)
    assert late.returncode == 1
    assert "before init()" in late.stderr
    (tmp_path / "ray.py").write_text("")
    other = run("import ray, shoal.compat.ray as r\nr.install()\n", tmp_path)
    assert other.returncode == 1
    assert "ray is imported already" in other.stderr


@pytest.mark.parametrize(("text", "hint"), MISSING.items(), ids=lambda value: value[:40])
def test_what_is_missing_says_what_to_do(text: str, hint: str, tmp_path: pathlib.Path) -> None:
    done = run(text, tmp_path, "-m", "shoal", "run", "--as-ray")
    assert done.returncode == 1
    assert hint in done.stderr.strip().splitlines()[-1]


def test_who_only_asks_is_told_no(tmp_path: pathlib.Path) -> None:
    output = as_ray(
        "import importlib.util as u, ray\n"
        "print(u.find_spec('ray') is not None, u.find_spec('ray.tune'), hasattr(ray, 'nonsense'))\n"
        "print(callable(ray.util.annotations.PublicAPI), 'get' in dir(ray))\n"
        "from ray import *\n"
        "print(get is ray.get)\n",
        tmp_path,
    )
    assert output == "True None False\nTrue True\nTrue\n"


def test_init_takes_every_argument_of_rays(tmp_path: pathlib.Path) -> None:
    """Those without a meaning here are named once; unknown ones are errors."""
    done = run(
        "import ray\n"
        "context = ray.init(num_cpus=1, dashboard_host='0.0.0.0', include_dashboard=True,\n"
        "                   logging_level='error', _temp_dir='there', configure_logging=False)\n"
        "print(context.address_info['node_id'] == context['node_id'], context.ray_version)\n"
        "context.disconnect()\n"
        "with ray.init(dashboard_host='0.0.0.0', job_config=ray.job_config.JobConfig(\n"
        "        ray_namespace='mine')):\n"
        "    print(ray.get_runtime_context().namespace)\n"
        "try:\n"
        "    ray.init(nonsense=1)\n"
        "except ValueError as error:\n"
        "    print('nonsense' in str(error))\n",
        tmp_path,
        "-m",
        "shoal",
        "run",
        "--as-ray",
    )
    assert done.stdout == "True 2.60.0\nmine\nTrue\n", done.stderr
    assert done.stderr.count("dashboard_host (there is no dashboard)") == 1
    assert "_temp_dir" in done.stderr
    assert "configure_logging" not in done.stderr


def test_ray_address(tmp_path: pathlib.Path) -> None:
    """RAY_ADDRESS counts under Ray's names only, and SHOAL_ADDRESS before it."""
    text = "import ray\ntry:\n    ray.init()\nexcept ConnectionError as e:\n    print(e)\n"
    assert "there is no session 'nowhere'" in as_ray(text, tmp_path, RAY_ADDRESS="nowhere")
    assert as_ray(text, tmp_path, RAY_ADDRESS="nowhere", SHOAL_ADDRESS="local") == ""
    plain = run("import shoal\nshoal.init()\n", tmp_path, RAY_ADDRESS="nowhere")
    assert plain.returncode == 0, plain.stderr


def test_children_of_the_program_have_the_names_too(tmp_path: pathlib.Path) -> None:
    output = as_ray(
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'import ray; print(ray.__version__)'])\n",
        tmp_path,
    )
    assert output == "2.60.0\n"


def test_every_row_of_the_table_has_a_home() -> None:
    """What is not there yet is listed as such."""
    missing = set()
    for module in names.MODULES:
        for name in names._homes[module]:
            try:
                modules._look_up(module, name)
            except AttributeError:
                missing.add((module, name))
    later = {(module, name) for module, text in names.LATER.items() for name in text.split()}
    assert missing == later


def test_every_hint_is_for_something_that_is_not_there() -> None:
    there = {f"{module}.{name}" for module in names.MODULES for name in names.public_names(module)}
    of_attributes = {"ray._private.worker.global_worker"}
    assert there & set(names.HINTS) == of_attributes
