"""`runtime_env`: variables and files of a program, more of them for one task, and a hook.

Nothing here needs a network; a list of packages is one more field: {"uv": ["polars"]}.
"""

import os
import tempfile
from pathlib import Path

import shoal


def hook() -> None:
    """Called in each worker before its first task."""
    os.environ["GREETING"] = f"hello from {os.environ['STAGE']}"


@shoal.remote
def greet(name: str) -> str:
    return f"{os.environ['GREETING']}, {name}: {Path('recipe.txt').read_text()}"


@shoal.remote
def cook() -> str:
    import kitchen  # a module of the working directory

    return str(kitchen.cook())


with tempfile.TemporaryDirectory() as folder:
    Path(folder, "recipe.txt").write_text("2 eggs")
    Path(folder, "kitchen.py").write_text("def cook():\n    return 'omelette'\n")
    environment = {
        "env_vars": {"STAGE": "test"},
        "working_dir": folder,
        "worker_process_setup_hook": hook,
    }
    shoal.init(num_cpus=2, runtime_env=environment)
    greeting = shoal.get(greet.remote("Ada"))
    other = greet.options(runtime_env={"env_vars": {"STAGE": "production"}})
    elsewhere = shoal.get(other.remote("Bob"))
    dish = shoal.get(cook.remote())

print(greeting, elsewhere, dish, sep="\n")
assert greeting == "hello from test, Ada: 2 eggs"
assert elsewhere == "hello from production, Bob: 2 eggs"
assert dish == "omelette"
