"""Which files travel, what is said about the rest, and where what is made stands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shoal import errors
from shoal._runtime import session_dir
from shoal._runtime.environments import ignoring, packing, places
from shoal._runtime.environments.places import Place


@pytest.mark.parametrize(
    "lines, path, is_left_out",
    [
        (["*.log"], "a.log", True),
        (["*.log"], "d/e/a.log", True),
        (["*.log"], "a.logs", False),
        (["/a"], "a", True),
        (["/a"], "d/a", False),
        (["d/a"], "d/a", True),
        (["d/a"], "x/d/a", False),
        (["**/a"], "x/y/a", True),
        (["**/a"], "a", True),
        (["d/**"], "d/x/y", True),
        (["d/**"], "d", False),
        (["d/**/z"], "d/z", True),
        (["d/**/z"], "d/x/y/z", True),
        (["a?c"], "abc", True),
        (["a?c"], "a/c", False),
        (["a*c"], "a/c", False),
        (["[ab].txt"], "b.txt", True),
        (["[!ab].txt"], "b.txt", False),
        (["[!ab].txt"], "c.txt", True),
        (["*.log", "!keep.log"], "keep.log", False),
        (["!keep.log", "*.log"], "keep.log", True),
        (["# comment", "", "  "], "# comment", False),
        ([r"\#x"], "#x", True),
        ([r"\!x"], "!x", True),
        (["x "], "x", True),
        (["a+b(c)"], "a+b(c)", True),
        (["[unfinished"], "[unfinished", True),
        (["dir/"], "dir", False),
    ],
)
def test_rules_are_those_of_git(lines: list[str], path: str, is_left_out: bool) -> None:
    rules = ignoring.parse(lines)
    assert ignoring.is_left_out(rules, path, is_directory=False) == is_left_out


def test_rules_for_directories_and_of_inner_files() -> None:
    assert ignoring.is_left_out(ignoring.parse(["dir/"]), "x/dir", is_directory=True)
    inner = ignoring.parse(["/a"], "sub/")
    assert ignoring.is_left_out(inner, "sub/a", is_directory=False)
    assert not ignoring.is_left_out(inner, "a", is_directory=False)


def tree(root: Path, **files: str) -> str:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return str(root)


def names(content: packing.Content) -> list[str]:
    return sorted(name for name, _, _ in content.files)


def test_ignore_files_excludes_and_what_never_travels(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "d", a_dot_py="1", b_dot_log="2", big__x="3", sub__c_dot_tmp="4", sub__d="5"
    )
    for name, text in ((".gitignore", "*.log\n"), ("sub/.rayignore", "*.tmp\n")):
        (tmp_path / "d" / name).write_text(text)
    for hidden in (".git", "__pycache__", ".venv"):
        (tmp_path / "d" / hidden).mkdir()
        (tmp_path / "d" / hidden / "x").write_text("no")
    content = packing.look(root, ["big"], "working_dir")
    assert names(content) == [".gitignore", "a.py", "sub/.rayignore", "sub/d"]
    (tmp_path / "d/.shoalignore").write_text("!b.log\n/sub\n")
    assert names(packing.look(root, [], "working_dir")) == [
        ".gitignore", ".shoalignore", "a.py", "b.log", "big/x",
    ]  # fmt: skip


def test_the_hash_is_of_names_and_contents_only(tmp_path: Path) -> None:
    one = tree(tmp_path / "one", a="1", b__c="2")
    two = tree(tmp_path / "two", b__c="2", a="1")
    os.utime(tmp_path / "two/a", (1, 1))
    digest = packing.look(one, [], "x").digest()
    assert packing.look(two, [], "x").digest() == digest
    for change in (
        lambda: (tmp_path / "two/a").write_text("9"),
        lambda: (tmp_path / "two/a").rename(tmp_path / "two/z"),
        lambda: (tmp_path / "two/z").chmod(0o755),
        (tmp_path / "two/e").mkdir,
    ):
        change()
        now = packing.look(two, [], "x").digest()
        assert now != digest
        digest = now


def test_links_stay_links_only_inside(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", a="1", sub__b="2")
    tree(tmp_path / "other", x="outside")
    (tmp_path / "d/inside").symlink_to("sub/b")
    (tmp_path / "d/file").symlink_to(tmp_path / "other/x")
    (tmp_path / "d/directory").symlink_to(tmp_path / "other")
    (tmp_path / "d/sub/loop").symlink_to(tmp_path / "d")
    (tmp_path / "d/gone").symlink_to("nowhere")
    os.mkfifo(tmp_path / "d/pipe")
    content = packing.look(root, [], "working_dir")
    target = tmp_path / "copy"
    content.copy(str(target))
    assert (target / "inside").is_symlink() and (target / "inside").read_text() == "2"
    assert not (target / "file").is_symlink() and (target / "file").read_text() == "outside"
    assert (target / "directory/x").read_text() == "outside"
    assert not (target / "pipe").exists() and not (target / "sub/loop").exists()


def test_what_is_too_large_says_what_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_PACKAGE_BYTES", "100000")
    root = tree(tmp_path / "d", small="1", data__x="x" * 200_000)
    with pytest.raises(errors.OptionError, match=r"data \(0.2 MiB\).*excludes"):
        packing.look(root, [], "working_dir")
    assert names(packing.look(root, ["data"], "working_dir")) == ["small"]


def test_one_line_says_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tree(tmp_path / "d", small="1", data__x="x" * (11 << 20))
    packing.look(root, ["data"], "working_dir")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "data (11.0 MiB)" in said and "1 files" in said
    (tmp_path / "d/data/x").write_text("little")
    packing.look(root, ["data"], "working_dir")
    assert capsys.readouterr().err == ""


# ---- places
def fill(path: str) -> None:
    os.mkdir(path)
    Path(path, "file").write_text("x" * 1000)


def test_a_place_is_complete_or_not_there(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "packages"), "abc")
    assert place.hold() is None

    def fails(path: str) -> None:
        fill(path)
        raise OSError("in the middle")

    with pytest.raises(OSError, match="in the middle"):
        place.make(fails)
    assert not place.is_there() and os.listdir(place.directory) == ["abc.lock"]
    # What a maker that was killed has left is removed first.
    fill(place.path + ".making")
    assert place.make(fill) and not place.make(fails)
    held = place.hold()
    assert held is not None and not place.remove_if_unused()
    assert not place.make(fails), "it does not wait for those who use it"
    os.close(held)
    assert place.remove_if_unused() and not place.is_there()
    assert os.listdir(place.directory) == ["abc.lock"]


def test_nobody_holds_what_is_being_made(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "packages"), "abc")
    seen: list[int | None] = []

    def looks(path: str) -> None:
        seen.append(place.hold())
        seen.append(None if not place.remove_if_unused() else 1)
        fill(path)

    assert place.make(looks) and seen == [None, None]


def test_the_collector_takes_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = str(tmp_path)
    made = [Place(os.path.join(cache, kind), f"{kind}{n}") for kind in places.KINDS for n in (1, 2)]
    for number, place in enumerate(made):
        place.make(fill)
        os.utime(place.path + ".size", (number, number))
    held = made[0].hold()
    assert held is not None
    os.utime(made[0].path + ".size", (0, 0))
    removed = places.collect(cache, 3000)
    assert removed == made[1:4]
    assert [place.is_there() for place in made] == [True, False, False, False, True, True]
    assert places.collect(cache, 3000) == []
    os.close(held)
    assert made[0] in places.collect(cache, 0)


def test_a_session_with_links_in_it_is_removed_and_what_they_lead_to_is_not(
    tmp_path: Path,
) -> None:
    kept = tree(tmp_path / "kept", file="1")
    session = session_dir.create(str(tmp_path / "root"), "x")
    os.symlink(kept, os.path.join(session, "directory"))
    os.symlink(os.path.join(kept, "file"), os.path.join(session, "logs", "file"))
    session_dir.remove(session)
    assert not os.path.lexists(session) and os.listdir(kept) == ["file"]


def test_read_only_trees_are_removed(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", sub__b="2")
    (tmp_path / "d/link").symlink_to("/")
    (tmp_path / "d/sub").chmod(0o555)
    places.remove(root)
    assert not os.path.exists(root) and os.path.exists("/tmp")
