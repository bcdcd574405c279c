// Spilling: the daemon moves a value into a file and back while two readers look at it, let go of
// it, and may die anywhere. (spill.cpp)
//
//     block    where the value stands: one of two places in memory, or SPILLED
//     pins     who looks at it; refs: who has it (and the daemon, while it moves it)
//     inbox    the slot is in it; bell: the daemon is to look
//     restored futex of those who wait for a spilled value
//
//     read:    pins + 1;  until block is not SPILLED: inbox, bell, sleep on restored;  look;
//              pins - 1;  refs - 1, and who brings both to zero frees, and tells by the inbox
//     spill:   refs + 1, write the record, block = SPILLED, pins?
//              some: block as it was, wake;  none: the memory is used by others;  refs - 1
//     restore: in the inbox, SPILLED and pinned: refs + 1, read the record into memory, block =
//              there, wake, refs - 1
//
// Invariants: who looks sees the value, from the first byte to the last; nobody sleeps for ever; at
// the end there is neither memory nor a record of it.
//
// Command line: [deaths = 1] [spills = 2]
#include "checker.hpp"

using mc::Ran;

namespace {

enum Broken {
    right,
    pins_first,
    block_first,
    back_in_silence,
    no_compare,
    bell_last,
    no_sweep,
    ask_once
};
struct Config {
    Broken broken = right;
    int deaths = 1, spills = 2;
} config;
bool is(Broken b) { return config.broken == b; }

enum { ONE, TWO, DAEMON, processes };
constexpr uint8_t NOWHERE = 0, SPILLED = 3;  // else 1 or 2: a place in memory

struct Frame {
    uint8_t pc, seen, at;
};

struct Model {
    static constexpr int actors = processes;
    uint8_t block, pins, refs, inbox, bell, restored, record, is_freed;
    uint8_t memory[3];  // of a place: 1 the value, 0 other bytes
    uint8_t asleep[2], pinned[2], has[2], dead[2], repaired[2], wrong;
    uint8_t finished[processes], deaths, spills, is_wanted;
    Frame main_[processes], part_[processes], free_[processes];

    static const char* actor_name(int p) {
        static const char* const names[] = {"reader 1", "reader 2", "daemon"};
        return names[p];
    }
    void wake() {
        restored++;
        asleep[ONE] = asleep[TWO] = 0;
    }

    // Who brings the counts to zero frees; proved in freeing.cpp.
    Ran let_go(int p, Frame& f) {
        MC_BEGIN(f)
        MC_STEP("let go: refs - 1") refs--;
        if (p != DAEMON) has[p] = 0;
        if (refs || pins || is_freed) MC_RETURN;
        is_freed = 1;
        if (block == 1 || block == 2) memory[block] = 0;
        MC_STEP("free: put the slot into the inbox") inbox = 1;
        MC_STEP("free: ring") bell = 1;
        MC_END
    }

    Ran read(int p, Frame& f) {
        MC_BEGIN(f)
        if (is(block_first)) {
            MC_STEP("read: block") f.at = block;
        }
        MC_STEP("read: pins + 1") pins++, pinned[p] = 1;
        for (;;) {
            MC_STEP("read: restored") f.seen = restored;
            if (!is(block_first)) {
                MC_STEP("read: block") f.at = block;
            }
            if (f.at != SPILLED) break;
            if (!is(ask_once) || !f.seen) {
                MC_STEP("read: put the slot into the inbox") inbox = 1;
                MC_STEP("read: ring") bell = 1;
            }
            MC_STEP("read: futex_wait") asleep[p] = restored == f.seen || is(no_compare);
            MC_WAIT(!asleep[p], "read: awake")
            if (is(block_first)) f.at = block;
        }
        MC_STEP("read: the first byte") wrong |= memory[f.at] != 1;
        MC_STEP("read: the last byte") wrong |= memory[f.at] != 1;
        f.seen = f.at = 0;
        MC_STEP("read: pins - 1") pins--, pinned[p] = 0;
        MC_CALL(let_go(p, free_[p]));
        MC_END
    }

    Ran spill(Frame& f) {
        MC_BEGIN(f)
        MC_STEP("spill: refs + 1") refs++;
        MC_STEP("spill: write the record") record = memory[block];
        f.at = block;
        if (is(pins_first)) {
            MC_STEP("spill: pins?") f.seen = pins;
            if (!f.seen) {
                MC_STEP("spill: block = SPILLED") block = SPILLED;
            }
        } else {
            MC_STEP("spill: block = SPILLED") block = SPILLED;
            MC_STEP("spill: pins?") f.seen = pins;
            if (f.seen) {
                MC_STEP("spill: block as it was") block = f.at;
                if (!is(back_in_silence)) {
                    MC_STEP("spill: wake") wake();
                }
            }
        }
        if (!f.seen) {
            MC_STEP("spill: the memory goes to others") memory[f.at] = 0;
        }
        f.seen = f.at = 0;
        MC_CALL(let_go(DAEMON, free_[DAEMON]));
        MC_END
    }
    Ran restore(Frame& f) {
        MC_BEGIN(f)
        MC_STEP("restore: refs + 1") refs++;
        MC_STEP("restore: read the record") f.at = 1, memory[1] = record;
        MC_STEP("restore: block = there") block = f.at;
        MC_STEP("restore: wake") wake();
        f.at = 0;
        MC_CALL(let_go(DAEMON, free_[DAEMON]));
        MC_END
    }
    // What the bell is rung for, looked at whole; and the record of what is freed.
    Ran look(Frame& f) {
        MC_BEGIN(f)
        if (!is(bell_last)) {
            MC_STEP("look: the bell is heard") bell = 0;
        }
        MC_STEP("look: the inbox") f.at = inbox, inbox = 0;
        if (f.at && is_freed) record = 0;
        is_wanted = f.at && !is_freed && block == SPILLED && pins;
        f.at = 0;
        if (is(bell_last)) {
            MC_STEP("look: the bell is heard") bell = 0;
        }
        MC_END
    }
    int to_repair() const { return dead[ONE] && !repaired[ONE] ? ONE : TWO; }
    Ran serve(Frame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT(bell || (dead[ONE] && !repaired[ONE]) || (dead[TWO] && !repaired[TWO]) ||
                        (spills < config.spills && !is_freed && block != SPILLED),
                    "daemon: something to do")
            if ((dead[ONE] && !repaired[ONE]) || (dead[TWO] && !repaired[TWO])) {
                f.at = uint8_t(to_repair());
                repaired[f.at] = 1;
                pins -= pinned[f.at], pinned[f.at] = 0;
                f.seen = has[f.at];
                if (f.seen) {
                    has[f.at] = 0;
                    MC_CALL(let_go(DAEMON, free_[DAEMON]));
                }
                if (is_freed && !is(no_sweep)) record = 0;
                f.seen = f.at = 0;
            } else if (bell) {
                MC_CALL(look(part_[DAEMON]));
                if (is_wanted) {
                    is_wanted = 0;
                    MC_CALL(restore(part_[DAEMON]));
                }
            } else {
                spills++;
                MC_CALL(spill(part_[DAEMON]));
            }
        }
        MC_END
    }

    Ran step(int p) {
        if (finished[p]) return Ran::blocked;
        Ran ran = p == DAEMON ? serve(main_[p]) : read(p, main_[p]);
        if (ran == Ran::done) finished[p] = 1, ran = Ran::more;
        return ran;
    }
    bool may_die(int p) const { return p != DAEMON && !finished[p] && deaths < config.deaths; }
    void die(int p) {
        dead[p] = finished[p] = 1, deaths++, asleep[p] = 0;
        main_[p] = free_[p] = {};
    }
    const char* wrong_now() const { return wrong ? "somebody has seen other bytes" : nullptr; }
    const char* wrong_at_end() const {
        if (!finished[ONE] || !finished[TWO]) return "a reader sleeps for ever";
        if (!is_freed) return "nobody has it, and it is not freed";
        if (memory[1] || memory[2]) return "memory has leaked";
        return record ? "a record has leaked" : nullptr;
    }
    static Model start() {
        Model m;
        memset(static_cast<void*>(&m), 0, sizeof m);
        m.block = 2, m.memory[2] = 1, m.refs = 2, m.has[ONE] = m.has[TWO] = 1;
        for (int p = 0; p < actors; p++) m.step(p);
        return m;
    }
};

}  // namespace

int main(int argc, char** argv) {
    mc::Report report("spill", argc, argv);
    config.deaths = report.number(0, 1);
    config.spills = report.number(1, 2);
    auto run = [&](const char* name, Broken broken) {
        config.broken = broken;
        report.variant(name, broken != right, 1, [&](int) { return Model::start(); });
    };
    run("the protocol", right);
    run("the daemon looks at the pins before it changes the block", pins_first);
    run("readers look at the block before they pin", block_first);
    run("a block that is put back wakes nobody", back_in_silence);
    run("futex_wait does not compare", no_compare);
    run("the bell is put out after the look", bell_last);
    run("the records of what the dead freed are not looked for", no_sweep);
    run("who wakes for another value does not ask again", ask_once);
    return report.exit_status();
}
