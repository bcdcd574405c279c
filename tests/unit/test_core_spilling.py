"""The deciding machine of spilling, without memory and files."""

from __future__ import annotations

import random

from shoal._core.spilling import (
    DRAIN_MOST_S,
    DRAIN_S,
    IN_VAIN_MOST,
    Answer,
    AnyCommand,
    DropRecord,
    Gone,
    Left,
    LetGo,
    LookAgainAt,
    Lose,
    NoRoomFor,
    ReadBack,
    RetryAt,
    RoomAsked,
    RoomFound,
    Spilling,
    TimeToRetry,
    Unit,
    Unwanted,
    Wanted,
    WasRead,
    WriteOut,
    WrittenOut,
)

EXTENT = 2 << 20


def unit(place: int, mark: int = 0, extents: int = 1) -> Unit:
    return Unit(place, extents, (place << 32 | place,), mark)


def key(place: int) -> int:
    return place << 32 | place


def written(machine: Spilling, commands: list[AnyCommand], first: int = 1) -> list[AnyCommand]:
    """Write everything, let everything go; what the machine says at the end."""
    out: list[AnyCommand] = []
    number = first
    for command in commands:
        if isinstance(command, WriteOut):
            numbers = tuple(range(number, number + len(command.keys)))
            number += len(numbers)
            commands += machine.step(0.0, WrittenOut(command.keys, numbers))
        elif isinstance(command, LetGo):
            out += machine.step(0.0, Left(command.key, command.number, True))
    return out


def in_vain(capacity: int) -> Spilling:
    """A machine that does not wait for others to give memory back."""
    return Spilling(capacity, EXTENT, is_patient=False)


def test_what_was_not_used_for_longest_leaves_first() -> None:
    machine = in_vain(20)
    units = [unit(i) for i in range(1, 7)]
    written(machine, machine.step(0.0, RoomAsked(1, tuple(units))))
    left = set(machine.out)
    assert left == {key(1), key(2), key(3)}, "one is asked for, and a tenth of the store is ahead"
    # 4 is looked at, 5 and 6 are not; 7 is new.
    seen = (unit(4, mark=1), unit(5), unit(6), unit(7))
    written(machine, machine.step(1.0, RoomAsked(0, seen)), 10)
    assert set(machine.out) - left == {key(5), key(6)}


def test_room_is_answered_when_the_last_has_left_and_never_twice() -> None:
    machine = in_vain(10)
    commands = machine.step(0.0, RoomAsked(2, (unit(1), unit(2), unit(3))))
    assert machine.is_asked and all(isinstance(c, WriteOut) for c in commands)
    again = machine.step(0.0, RoomAsked(2, (unit(1), unit(2), unit(3))))
    assert again == [], "what is on its way is enough"
    assert written(machine, commands) == [Answer(True)]
    assert not machine.is_asked


def test_who_asks_waits_while_others_give_memory_back_and_not_for_long() -> None:
    machine = Spilling(10, EXTENT)
    units = (unit(1), unit(2))
    (again,) = machine.step(0.0, RoomAsked(5, units))
    assert again == LookAgainAt(DRAIN_S)
    assert machine.step(0.001, RoomAsked(5, units)) == [], "the look is due already"
    now, missing = 0.0, 5
    while isinstance(again, LookAgainAt):
        assert machine.is_asked and now < 2 * DRAIN_MOST_S
        now, missing = again.at + 0.1, missing - 1
        (again,) = machine.step(now, RoomAsked(max(missing, 1), units))
    assert again == WriteOut((key(1), key(2)))
    written(machine, [again])
    third = machine.step(now + 0.1, RoomAsked(1, (unit(3),)))
    assert third == [WriteOut((key(3),))], "it did not help just now"
    written(machine, third, 9)
    (later,) = machine.step(now + 60, RoomAsked(1, (unit(4),)))
    assert isinstance(later, LookAgainAt)
    assert machine.step(later.at, RoomFound()) == [] and not machine.is_asked
    (next_time,) = machine.step(later.at + 1, RoomAsked(1, (unit(4),)))
    assert isinstance(next_time, LookAgainAt), "it did help"


def test_many_that_wait_for_room_have_one_alarm() -> None:
    machine = in_vain(10)
    written(machine, machine.step(0.0, RoomAsked(4, tuple(unit(i) for i in range(1, 6)))))
    waiting = sorted(machine.out)
    for _ in range(3):
        found = []
        for each in waiting:
            found += machine.step(1.0, NoRoomFor(each, machine.out[each]))
        assert len(found) == 1 and isinstance(found[0], RetryAt)
        assert len(machine.step(2.0, TimeToRetry())) == len(waiting)


def test_nothing_may_leave() -> None:
    machine = in_vain(10)
    assert machine.step(0.0, RoomAsked(2, ())) == [Answer(False)]


def test_a_full_disk_is_told_and_nothing_is_taken_for_gone() -> None:
    machine = in_vain(10)
    (command,) = machine.step(0.0, RoomAsked(1, (unit(1), unit(2))))
    assert isinstance(command, WriteOut)
    event = WrittenOut(command.keys, (), "the disk is full")
    assert machine.step(0.0, event) == [LookAgainAt(0.0)], "once more, with less"
    (least,) = machine.step(0.0, RoomAsked(1, (unit(1), unit(2))))
    assert least == WriteOut((key(1),))
    event = WrittenOut(least.keys, (), "the disk is full")
    assert machine.step(0.0, event) == [Answer(False, "the disk is full")]
    assert not machine.out and not machine.known()
    assert machine.step(1.0, RoomAsked(1, (unit(1), unit(2)))) == [command], "tried again"


def test_a_disk_that_is_nearly_full_takes_piece_by_piece_what_it_can() -> None:
    machine = in_vain(20)
    units = tuple(unit(i) for i in range(1, 8))
    (command,) = machine.step(0.0, RoomAsked(2, units))
    assert isinstance(command, WriteOut) and len(command.keys) == 4
    machine.step(0.0, WrittenOut(command.keys, (), "the disk is full"))
    first, second = machine.step(0.0, RoomAsked(2, units))
    assert (first, second) == (WriteOut((key(1),)), WriteOut((key(2),)))
    assert machine.step(0.0, WrittenOut((key(1),), (5,))) == [LetGo(key(1), 5)]
    assert machine.step(0.0, WrittenOut((key(2),), (), "the disk is full")) == []
    assert machine.step(0.0, Left(key(1), 5, True)) == [Answer(True, "the disk is full")]
    assert machine.out == {key(1): 5}


def test_where_the_disk_is_full_what_has_a_record_leaves_first() -> None:
    machine = in_vain(20)
    written(machine, machine.step(0.0, RoomAsked(-1, (unit(9),))))
    machine.step(0.0, Wanted(key(9), 1))
    machine.step(0.0, WasRead(key(9), 1))
    units = (unit(1), unit(2), unit(9, mark=7))
    machine.step(1.0, RoomAsked(1, units[:2]))
    machine.step(1.0, WrittenOut((key(1), key(2)), (), "the disk is full"))
    assert machine.step(1.0, RoomAsked(1, units)) == [LetGo(key(9), 1)]


def test_a_value_that_came_back_leaves_again_without_being_written() -> None:
    machine = in_vain(10)
    written(machine, machine.step(0.0, RoomAsked(0, (unit(1),))))
    assert machine.step(0.0, Wanted(key(1), 1)) == [ReadBack(key(1), 1)]
    assert machine.step(0.0, Wanted(key(1), 1)) == [], "it is on its way"
    assert machine.step(0.0, WasRead(key(1), 1)) == []
    assert machine.step(0.0, RoomAsked(0, (unit(1),))) == [LetGo(key(1), 1)]
    machine.step(0.0, Left(key(1), 1, True))
    assert machine.out == {key(1): 1}


def test_one_that_is_looked_at_stays_and_keeps_its_record() -> None:
    machine = in_vain(10)
    (command,) = machine.step(0.0, RoomAsked(1, (unit(1),)))
    (let_go,) = machine.step(0.0, WrittenOut(command.keys, (1,)))  # type: ignore[union-attr]
    assert let_go == LetGo(key(1), 1)
    assert machine.step(0.0, Left(key(1), 1, False)) == [LookAgainAt(0.0)]
    assert not machine.out and machine.copies == {key(1): 1}
    assert machine.step(0.1, RoomAsked(1, ())) == [Answer(False)], "nothing else could leave"
    assert machine.step(0.0, Gone((key(1),))) == [DropRecord(1)]
    assert machine.step(0.0, Gone((key(1),))) == []


def test_nobody_is_refused_because_what_was_to_leave_is_looked_at_just_then() -> None:
    machine = in_vain(10)
    (command,) = machine.step(0.0, RoomAsked(1, (unit(1), unit(2))))
    assert command == WriteOut((key(1), key(2)))
    machine.step(0.0, WrittenOut(command.keys, (1, 2)))
    assert machine.step(0.0, Left(key(1), 1, False)) == []
    assert machine.step(0.0, Left(key(2), 2, False)) == [LookAgainAt(0.0)]
    (command,) = machine.step(0.1, RoomAsked(1, (unit(3),)))
    assert command == WriteOut((key(3),))
    machine.step(0.1, WrittenOut(command.keys, (3,)))
    assert machine.step(0.1, Left(key(3), 3, True)) == [Answer(True)]


def test_what_is_looked_at_again_and_again_is_no_reason_to_wait_for_ever() -> None:
    machine = in_vain(10)
    told = []
    for number in range(100):
        at = float(number)
        for command in machine.step(at, RoomAsked(1, (unit(number),))):
            assert isinstance(command, WriteOut)
            machine.step(at, WrittenOut(command.keys, (number,)))
            told += machine.step(at, Left(command.keys[0], number, False))
        if told[-1:] == [Answer(False)]:
            break
    assert told[-1] == Answer(False) and len(told) == IN_VAIN_MOST


def test_one_that_cannot_be_read_is_lost() -> None:
    machine = in_vain(10)
    written(machine, machine.step(0.0, RoomAsked(0, (unit(1),))))
    machine.step(0.0, Wanted(key(1), 1))
    lost = machine.step(0.0, WasRead(key(1), 1, "the file is gone"))
    assert lost == [Lose(key(1), "the file is gone"), DropRecord(1)]
    assert machine.known() == ()


def test_one_without_room_is_tried_again_while_somebody_wants_it() -> None:
    machine = in_vain(10)
    written(machine, machine.step(0.0, RoomAsked(0, (unit(1),))))
    machine.step(0.0, Wanted(key(1), 1))
    (alarm,) = machine.step(3.0, NoRoomFor(key(1), 1))
    assert isinstance(alarm, RetryAt) and alarm.at > 3.0
    assert machine.step(alarm.at, TimeToRetry()) == [ReadBack(key(1), 1)]
    assert machine.step(alarm.at, Unwanted(key(1))) == []
    assert machine.step(alarm.at, TimeToRetry()) == []


def test_any_order_of_events_drops_each_record_once() -> None:
    """A store of 8 extents and 12 values: a naive model of where each of them is."""
    for seed in range(200):
        dice = random.Random(seed)
        machine = in_vain(8)
        alive = set(range(1, 13))
        out: dict[int, int] = {}
        records: dict[int, int] = {}
        number = 0
        pending: list[AnyCommand] = []
        for _ in range(120):
            what = dice.randrange(4)
            if what == 0:
                memory = tuple(unit(p, dice.randrange(2)) for p in sorted(alive - out.keys()))
                pending += machine.step(0.0, RoomAsked(dice.randrange(3), memory))
            elif what == 1 and out:
                place = dice.choice(sorted(out))
                pending += machine.step(0.0, Wanted(key(place), out[place]))
            elif what == 2 and len(alive) > 6 and not pending:
                place = dice.choice(sorted(alive))
                alive.discard(place)
                out.pop(place, None)
                pending += machine.step(0.0, Gone((key(place),)))
            elif pending:
                command = pending.pop(dice.randrange(len(pending)))
                if isinstance(command, WriteOut):
                    numbers = tuple(range(number + 1, number + 1 + len(command.keys)))
                    number += len(numbers)
                    records.update(zip(numbers, command.keys, strict=True))
                    pending += machine.step(0.0, WrittenOut(command.keys, numbers))
                elif isinstance(command, LetGo):
                    assert records[command.number] == command.key
                    is_out = dice.random() < 0.7
                    if is_out:
                        out[command.key & 0xFFFFFFFF] = command.number
                    pending += machine.step(0.0, Left(command.key, command.number, is_out))
                elif isinstance(command, ReadBack):
                    place = command.key & 0xFFFFFFFF
                    assert out.pop(place) == command.number, "only what is out is read, and once"
                    pending += machine.step(0.0, WasRead(command.key, command.number))
                elif isinstance(command, DropRecord):
                    del records[command.number]
        while pending:
            command = pending.pop()
            if isinstance(command, DropRecord):
                del records[command.number]
        known = set(machine.out.values()) | set(machine.copies.values())
        assert known <= records.keys(), "a record was dropped that is needed"


def test_who_waits_for_a_value_gets_room_before_who_makes_one() -> None:
    machine = in_vain(10)
    written(machine, machine.step(0.0, RoomAsked(0, (unit(1),))))
    machine.step(0.0, Wanted(key(1), 1))
    machine.step(0.0, NoRoomFor(key(1), 1))
    (write,) = machine.step(0.0, RoomAsked(1, (unit(2),)))
    assert write == WriteOut((key(2),))
    assert machine.step(0.0, WrittenOut((key(2),), (7,))) == [LetGo(key(2), 7)]
    assert machine.step(0.0, Left(key(2), 7, True)) == [ReadBack(key(1), 1), Answer(True)]


def test_nobody_is_refused_while_a_part_of_a_unit_is_still_being_written() -> None:
    """Of two values in one extent the second has a record from before, and has left at once."""
    machine = in_vain(8)
    (command,) = machine.step(0.0, RoomAsked(1, (unit(2),)))
    assert written(machine, [command], first=7) == [Answer(True)]
    machine.step(0.0, Wanted(key(2), 7))
    machine.step(0.0, WasRead(key(2), 7))
    both = Unit(1, 1, (key(1), key(2)), 0)
    commands = machine.step(1.0, RoomAsked(1, (both,)))
    assert commands == [LetGo(key(2), 7), WriteOut((key(1),))]
    assert machine.step(1.0, Left(key(2), 7, True)) == []
    assert machine.step(1.1, RoomAsked(1, (Unit(1, 1, (key(1),), 0),))) == []
    assert machine.step(1.2, WrittenOut((key(1),), (8,))) == [LetGo(key(1), 8)]
    assert machine.step(1.2, Left(key(1), 8, True)) == [Answer(True)]
