"""The native test programs, built and run: deaths at every instruction, races."""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.native.building import NATIVE, program
from tests.native.sanitized import sanitized_core

Tmp = pytest.TempPathFactory

# Functions stay functions, so that an instruction can be told by name; else the code is as shipped.
STEPPED = (
    "-O2", "-fno-inline-small-functions", "-fno-inline-functions",
    "-fno-inline-functions-called-once", "-fno-partial-inlining", "-fno-ipa-icf",
)  # fmt: skip
PLAIN = ("-O2",)
THREAD = ("-O1", "-g1", "-fsanitize=thread")
ADDRESS = ("-O1", "-g1", "-fsanitize=address,undefined")
COUNTED = ("-O1", "-DSHOAL_COUNT")
RACES = int(os.environ.get("SHOAL_RACES", "1"))
"""How many times as long the races are run."""
# Operations of Memory in which no process is killed, and why.
DAEMON = "the daemon's own: its death ends the session"
NOT_KILLED = {
    **dict.fromkeys(
        (
            "adopt", "audit", "back", "cancel", "close_process", "family",
            "collapse", "count_extents", "create", "tell_given_up", "end_dependents",
            "end_children", "end_job", "fail", "fail_queued", "finish_alloc", "finish_freeing",
            "finish_op", "finish_task_op", "free_queue", "handles", "kill_queue", "list_events",
            "list_objects", "list_tasks", "new_queue", "open_process", "populate", "refill",
            "release", "release_pins", "repair", "requeue", "ring_all", "settle", "each_queue",
            "all_extents", "answer_room", "block_aside", "drop_aside", "extents_to_have",
            "list_spillable", "lose", "restore", "shortage", "spill", "tell_restored",
            "trim_lineage", "rebuild", "set_lost", "take_over", "drop_stub", "give_to",
            "ready_extent", "put_numbers", "hollow_out", "sweep_hollow", "cool",
            "give_back", "queues_of_recipes",
            "new_proxy", "seal_proxy", "hold_table", "write_image", "write_whole",
            "write_elsewhere", "arrive", "take_table",
        ),
        DAEMON,
    ),
    **dict.fromkeys(("attach", "share", "let_go", "reset_hints"), "private to the process"),
    **dict.fromkeys(
        ("header", "slot", "proc", "queue", "at", "is_live", "ring_daemon", "running_of",
         "may_begin"),
        "inline: counted where they are used",
    ),
    **dict.fromkeys(
        ("sight", "names_task", "process_sight", "list_holds", "events_lost"),
        "a question of explanations: nothing is written",
    ),
    **dict.fromkeys(
        (
            "stages",
            "is_running",
            "may_spill",
            "is_looked_at",
            "data_in",
            "spilled",
            "is_lost",
            "needed",
            "first_of",
            "numbers_of",
            "items_away",
            "item_facts",
            "is_ready",
            "is_given_up",
            "given_up_record",
            "event_of",
            "is_open_proxy",
            "foreign_id",
            "image_size",
            "image_table",
            "is_image",
            "is_elsewhere",
            "queued",
        ),
        "a question: nothing is written",
    ),
    **dict.fromkeys(("note", "note_failed"), "events, which nobody repairs: see `event`"),
    "drop_stale": "one swap per entry, as in `take`; `submit` does it on a ring that is full",
    "give_node": "private to the process: a word that says whose a node of its own chunk is",
    "block_bytes": "a question, asked by tests only",
    "fork_mark": "a number, from an index",
    "ancestry": "a question, which changes nothing",
    "lookers": "a question, which changes nothing",
}  # fmt: skip


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: Tmp) -> Path:
    """A folder with the programs that single-step their children."""
    for name in ("step", "pair"):
        built = program(tmp_path_factory, name, STEPPED)
    return built.parent


def operations_of_channels() -> set[str]:
    """What `channel.cpp` defines, but questions."""
    text = (NATIVE / "channel.cpp").read_text()
    return set(re.findall(r"(?:Channel|SharedBlock)::(\w+)\(", text)) - {"parts_size", "is_one"}


def operations() -> set[str]:
    """The public functions that `memory.hpp` declares."""
    text = (NATIVE / "memory.hpp").read_text()
    public = text.split("class Memory {")[1].split(" private:")[0]
    public = re.sub(r"//.*", "", public)
    names = re.findall(r"^  (?:static )?[\w:<>&* ]+?[ *&](\w+)\(", public, re.MULTILINE)
    return set(names) - {"Memory", "Memory*"}


@pytest.mark.timeout(500)
def test_killed_at_every_instruction(stepped: Path) -> None:
    def run(part: int) -> str:
        command = [stepped / "step", os.environ.get("SHOAL_STRIDE", "1"), f"{part}/2"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=450, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with ThreadPoolExecutor(2) as pool:
        output = "".join(pool.map(run, range(2)))
    print(output)
    rows = re.findall(r"killed at +(\d+), violations (\d+)", output)
    assert len(rows) >= 30
    assert all(int(violations) == 0 for _, violations in rows)
    assert sum(int(instructions) for instructions, _ in rows) > 150_000
    covered = set(re.findall(r"^operation (\w+)", output, re.MULTILINE))
    assert operations_of_channels() <= covered
    declared = operations()
    assert len(declared) > 60
    assert declared - covered - set(NOT_KILLED) == set(), "operations that nobody is killed in"
    assert set(NOT_KILLED) <= declared, "exceptions that are not needed any more"


@pytest.mark.timeout(300)
def test_killed_beside_one_that_is_stopped(stepped: Path) -> None:
    samples = os.environ.get("SHOAL_PAIRS", "2")
    command = [stepped / "pair", samples, os.environ.get("SHOAL_SEED", "1")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{12 * int(samples)} pairs of instructions" in done.stdout


def raced(program: Path, tasks: int) -> subprocess.CompletedProcess[str]:
    command = [program, str(tasks)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def check_raced(program: Path, tasks: int) -> None:
    done = raced(program, tasks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING: ThreadSanitizer" not in done.stderr
    assert done.stdout.count("errors 0; left: slots 0 specs 0 bytes 0 leaked 0 wrong 0") == 7


@pytest.mark.timeout(400)
def test_races_in_one_mapping(tmp_path_factory: Tmp) -> None:
    check_raced(program(tmp_path_factory, "race", PLAIN), 5000 * RACES)
    # Memory that is given away while somebody looks must be seen.
    broken = program(tmp_path_factory, "race", PLAIN, broken=("spill", "SHOAL_BREAK_SPILL"))
    done = raced(broken, 3000)
    assert re.search(r"^spills: .* errors [1-9]", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.timeout(400)
def test_races_in_one_mapping_seen_by_the_thread_sanitizer(tmp_path_factory: Tmp) -> None:
    check_raced(program(tmp_path_factory, "race", THREAD), 1000 * RACES)
    # A value that is sealed without an order must be seen.
    broken = program(tmp_path_factory, "race", THREAD, broken=("task", "SHOAL_BREAK_SEAL"))
    done = raced(broken, 400)
    assert "WARNING: ThreadSanitizer: data race" in done.stderr, done.stdout + done.stderr


@pytest.mark.timeout(1200)  # the first caller of a run pays for the build
def test_races_in_one_mapping_seen_by_the_address_sanitizer(tmp_path_factory: Tmp) -> None:
    core = [sanitized_core(tmp_path_factory)]
    check_raced(program(tmp_path_factory, "race", ADDRESS, core=core), 2000 * RACES)


STOPPED = re.compile(r"^(\w+): (\d+) pushes woke .*?, (\d+) tasks were left$", re.MULTILINE)


@pytest.mark.timeout(400)
def test_a_stopped_worker_holds_nothing_up(tmp_path_factory: Tmp) -> None:
    """Whoever waits wakes another worker, and without that the tasks would stay."""
    for broken in (None, ("wait", "SHOAL_BREAK_DOUBT")):
        built = program(tmp_path_factory, "stopped", PLAIN, broken=broken)
        done = subprocess.run([built, "50"], capture_output=True, text=True, timeout=100)
        found = STOPPED.findall(done.stdout)
        rows = {name: (int(silent), int(left)) for name, silent, left in found}
        print(done.stdout)
        assert set(rows) == {"promised", "chosen", "choosing"}
        if broken:
            assert done.returncode == 1 and all(left >= 3 for _, left in rows.values())
        else:
            assert done.returncode == 0
            assert all(silent >= 25 and left == 0 for silent, left in rows.values())


@pytest.mark.timeout(1200)  # the first caller of a run pays for the build
def test_rounds_find_the_way_that_is_best(tmp_path_factory: Tmp) -> None:
    """Where the participants of a graph wait: learned, kept, left and found again."""
    core = [sanitized_core(tmp_path_factory)]
    built = program(tmp_path_factory, "rounds", ADDRESS, core=core)
    done = subprocess.run([built], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 5


def test_shared_words_per_task(tmp_path_factory: Tmp) -> None:
    """What a task changes in common with others may not grow: it is the serial part of a node."""
    scale = program(tmp_path_factory, "scale", COUNTED)

    def calls_per_task(*arguments: str) -> float:
        done = subprocess.run([scale, *arguments], capture_output=True, text=True, timeout=60)
        found = re.search(r"system calls per task ([\d.]+)", done.stdout)
        assert done.returncode == 0 and found is not None, done.stdout + done.stderr
        print(arguments, found[0])
        return float(found[1])

    def per_task(*arguments: str) -> tuple[float, float, float]:
        done = subprocess.run([scale, *arguments], capture_output=True, text=True, timeout=60)
        print(done.stdout)
        line = r"task ([\d.]+) changes, ([\d.]+) of shared.*?([\d.]+) stores"
        found = re.search(line, done.stdout)
        assert done.returncode == 0 and found is not None, done.stdout + done.stderr
        changes, shared, stores = map(float, found.groups())
        return changes, shared, stores

    # Alone, and on one queue each: 15 changes, none of which anybody else sees.
    assert per_task("1", "1000", "1") == (15.0, 0.0, 0.0)
    # In the long run the hint that says how much was freed in an extent is not counted up any more.
    assert per_task("1", "20000", "1")[0] <= 14.2
    # Two of the sixteen may take their first block from the same extent: 0.12 of its hint.
    changes, shared, stores = per_task("16", "300", "16")
    assert changes <= 15.1 and shared <= 0.5 and stores <= 0.1
    # All on one queue, forced apart at one change in ten: every word of a task moves at most once
    # more than without others, except the cells, head and tail of the ring, which are tried again.
    changes, _, stores = per_task("16", "300", "1")
    assert changes <= 18 and stores <= 25
    # No system call where nobody sleeps. Where both sides sleep for each task, a wake-up and a
    # sleep of each: four, and one more for looks around and for wake-ups that came to nothing.
    assert calls_per_task("16", "300", "1") == 0
    assert calls_per_task("2", "500", "1", "0", "1") <= 5
    assert calls_per_task("8", "200", "1", "0", "1") <= 5
