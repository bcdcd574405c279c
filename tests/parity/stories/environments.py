"""Runtime environments: variables, working directories, modules."""

import os
import pathlib
import tempfile

import ray
from ray.runtime_env import RuntimeEnv
from telling import caught, tell


@ray.remote
def variable(name):
    return os.environ.get(name)


def story_variables_of_a_task():
    with_it = variable.options(runtime_env={"env_vars": {"STORY": "told"}})
    return ray.get([with_it.remote("STORY"), variable.remote("STORY")])


def story_variables_of_an_actor():
    @ray.remote
    class Asking:
        def get(self, name):
            return os.environ.get(name)

    asking = Asking.options(runtime_env={"env_vars": {"STORY": "acted"}}).remote()
    return ray.get(asking.get.remote("STORY"))


def story_variables_of_the_job():
    """Every worker has those of init."""
    return ray.get(variable.remote("OF_THE_JOB"))


def story_variables_are_merged():
    """Variables of a task are added to those of the job and win over them."""
    both = {"env_vars": {"STORY": "told", "TWICE": "task"}}
    asked = variable.options(runtime_env=both)
    return ray.get([asked.remote(name) for name in ("OF_THE_JOB", "STORY", "TWICE")])


def story_children_inherit():
    @ray.remote
    def parent():
        return ray.get(variable.remote("STORY"))

    return ray.get(parent.options(runtime_env={"env_vars": {"STORY": "inherited"}}).remote())


def story_variables_of_the_driver_do_not_travel():
    """A worker's environment is not the driver's later one."""
    os.environ["SET_LATER"] = "1"
    return ray.get(variable.remote("SET_LATER"))


def story_runtime_env_class():
    environment = RuntimeEnv(env_vars={"STORY": "class"})
    value = ray.get(variable.options(runtime_env=environment).remote("STORY"))
    return value, environment["env_vars"], isinstance(environment, dict)


def story_directory_of_one_task():
    """Ray refuses a local directory that is not the whole job's."""
    path = pathlib.Path(tempfile.mkdtemp())
    (path / "module_of_story.py").write_text("VALUE = 41\n")

    @ray.remote
    def look():
        import module_of_story

        return module_of_story.VALUE

    return ray.get(look.options(runtime_env={"working_dir": str(path)}).remote(), timeout=50)


def story_unknown_field():
    return caught(
        lambda: ray.get(variable.options(runtime_env={"env_var": {"A": "b"}}).remote("A")),
        Exception,
    )


def story_wrong_types():
    return (
        caught(lambda: variable.options(runtime_env={"env_vars": {"A": 1}}).remote("A"), TypeError),
        caught(lambda: variable.options(runtime_env={"env_vars": "A"}).remote("A"), TypeError),
        caught(lambda: variable.options(runtime_env={"working_dir": 3}).remote("A"), TypeError),
    )


def story_working_dir_that_is_not_there():
    return caught(
        lambda: variable.options(runtime_env={"working_dir": "/not/there"}).remote("A"), ValueError
    )


def story_setup_fails():
    """An environment that cannot be made fails its tasks."""
    bad = {"conda": "no-such-environment"}
    ref = variable.options(runtime_env=bad).remote("A")
    return caught(lambda: ray.get(ref, timeout=58), ray.exceptions.RuntimeEnvSetupError)


def story_in_the_context():
    @ray.remote
    def mine():
        return ray.get_runtime_context().runtime_env["env_vars"].get("STORY")

    given = {"env_vars": {"STORY": "seen"}}
    return ray.get(mine.options(runtime_env=given).remote())


def story_setup_hook():
    return ray.get(variable.remote("BY_THE_HOOK"))


def hook():
    os.environ["BY_THE_HOOK"] = "set"


if __name__ == "__main__":
    tell(
        globals(),
        runtime_env={
            "env_vars": {"OF_THE_JOB": "job", "TWICE": "job"},
            "worker_process_setup_hook": hook,
        },
    )
