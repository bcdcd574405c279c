"""The directories of a job: its working directory, its modules, what is left out."""

import os
import pathlib
import tempfile

import ray
from telling import caught, tell


def story_files_of_the_working_dir():
    """Its files are the working directory of every worker."""

    @ray.remote
    def look():
        with open("data.txt") as file:
            return file.read()

    return ray.get(look.remote(), timeout=50)


def story_modules_of_the_working_dir():
    """They can be imported, also by actors."""

    @ray.remote
    class Looking:
        def look(self):
            import module_of_story

            return module_of_story.VALUE

    return ray.get(Looking.remote().look.remote(), timeout=50)


def story_what_is_excluded():
    @ray.remote
    def look():
        return sorted(name for name in os.listdir(".") if name.endswith((".py", ".txt")))

    return ray.get(look.remote(), timeout=50)


def story_py_modules():
    @ray.remote
    def look():
        import package_of_story

        return package_of_story.VALUE

    return ray.get(look.remote(), timeout=50)


def story_writing_into_the_working_dir():
    """It is a copy: what a task writes there the driver's directory does not have."""

    @ray.remote
    def write():
        with open("written.txt", "w") as file:
            file.write("x")
        return os.getcwd() == DIRECTORY

    return ray.get(write.remote(), timeout=50), os.path.exists(f"{DIRECTORY}/written.txt")


def story_too_late():
    """The environment of a job is settled by init."""
    return caught(lambda: ray.init(runtime_env={"working_dir": "."}), RuntimeError)


DIRECTORY = ""

if __name__ == "__main__":
    path = pathlib.Path(tempfile.mkdtemp())
    DIRECTORY = str(path)
    (path / "module_of_story.py").write_text("VALUE = 41\n")
    (path / "left_out.py").write_text("")
    (path / "data.txt").write_text("data")
    package = pathlib.Path(tempfile.mkdtemp()) / "package_of_story"
    package.mkdir()
    (package / "__init__.py").write_text("VALUE = 42\n")
    tell(
        globals(),
        runtime_env={
            "working_dir": DIRECTORY,
            "excludes": ["left_out.py"],
            "py_modules": [str(package)],
        },
    )
