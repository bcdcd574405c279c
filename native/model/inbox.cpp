// The last handle of an adopted object: whoever drops it tells the daemon, whoever dies.
//
//     life     owner bit, count of refs, task bit: the daemon's own hold          one word per slot
//     flags    ADOPTED: tell the daemon when only its hold is left
//     op       the intent of a process that drops a ref; whether its swap happened is a fact (the
//              stamp, see holds.cpp)
//     inbox    a ring of slots for the daemon; here with one cell, so that it is full
//     full     the ring was full: look at every adopted slot
//
//     drop:    op = slot; swap the count; only the daemon's hold is left, and ADOPTED? push it into
//              the inbox, or full = 1; ring the bell; op = 0
//     owner:   clear the bit; then the same without an intent
//     repair:  op whose swap happened: only the daemon's hold left? tell (again); then drop the
//              refs of the dead. Every slot in its chunks: clear its owner bit, and where that is
//              gone already, tell if only the daemon's hold is left
//     daemon:  bell = 0; pop all; swap full to 0, was it 1? every adopted slot; each of these that
//              has no handle: release it
//
// A owns four objects and asks the daemon to adopt two of them, which it has done for the others; B
// has a ref to each.
//
// Invariants: nothing is freed or released that somebody has a handle of; at the end all is freed.
//
// Command line: [deaths = 2]
#include "checker.hpp"

using mc::Ran;

namespace {

enum Broken {
    right, looks_before_swap, no_look_after_death, sweeps_owned_only, full_forgotten,
    full_cleared_late, bell_cleared_late
};
struct Config {
    Broken broken = right;
    int deaths = 2;
} config;
bool is(Broken b) { return config.broken == b; }

constexpr int slots = 4, asked_for = 2;  // the others are adopted at first
enum { A, B, DAEMON, processes };

struct Slot {
    uint8_t owner, refs, task, adopted, freed;
};
struct Frame {
    uint8_t pc, i, flag, last;
};

struct Model {
    static constexpr int actors = processes;
    Slot slot[slots];
    uint8_t op, swapped, record[slots];  // of B: slot + 1, has its swap happened, what it holds
    uint8_t asked[slots];                // by A: 1 asked, 2 answered
    uint8_t cell, full, bell;            // cell: slot + 1
    Frame main_[processes], tell_[processes];
    uint8_t seen[slots];  // what the daemon has taken out of the inbox
    uint8_t finished[processes], dead[processes], repaired[processes], deaths, fault;

    static const char* actor_name(int p) {
        static const char* const names[] = {"owner", "holder", "daemon"};
        return names[p];
    }
    bool has_handle(int s) const { return slot[s].owner || slot[s].refs; }
    bool is_last(int s) const { return slot[s].adopted && slot[s].task && !has_handle(s); }
    void look_freed(int s) {  // counts are zero: the winner of FREEING, see freeing.cpp
        if (!slot[s].task && !has_handle(s)) slot[s].freed = 1;
    }

    Ran tell(Frame& f, int s) {
        MC_BEGIN(f)
        MC_STEP("tell: push into the inbox") f.flag = !cell || cell == s + 1;
        if (!cell) cell = s + 1;
        if (!f.flag && !is(full_forgotten)) {
            MC_STEP("tell: it is full: full = 1") full = 1;
        }
        MC_STEP("tell: ring the bell") bell = 1;
        MC_END
    }
    // `what`: 0 the owner's bit, 1 a ref
    void lose(int s, int what) {
        (what ? slot[s].refs : slot[s].owner)--;
        look_freed(s);
    }
    Ran owner(Frame& f) {
        MC_BEGIN(f)
        for (f.i = 0; f.i < asked_for; f.i++) {
            MC_STEP("ask the daemon to adopt") asked[f.i] = 1;
        }
        MC_WAIT(asked[0] == 2 && asked[1] == 2, "it has adopted them")
        for (f.i = 0; f.i < slots; f.i++) {
            if (is(looks_before_swap)) {
                MC_STEP("owner: look at the counts") f.last = !slot[f.i].refs;
            }
            MC_STEP("owner: clear the bit") lose(f.i, 0);
            if (!is(looks_before_swap)) f.last = is_last(f.i);
            if (f.last) MC_CALL(tell(tell_[A], f.i));
            f.last = 0;
        }
        MC_END
    }
    Ran holder(Frame& f) {
        MC_BEGIN(f)
        for (f.i = 0; f.i < slots; f.i++) {
            MC_STEP("drop: op = slot") op = f.i + 1, swapped = 0;
            if (is(looks_before_swap)) {
                MC_STEP("drop: look at the counts") f.last = slot[f.i].adopted && !slot[f.i].owner;
            }
            MC_STEP("drop: swap the count") lose(f.i, 1), swapped = 1;
            if (!is(looks_before_swap)) f.last = is_last(f.i);
            MC_STEP("drop: the record is 0") record[f.i] = 0;
            if (f.last) MC_CALL(tell(tell_[B], f.i));
            MC_STEP("drop: op = 0") op = swapped = 0;
            f.last = 0;
        }
        MC_END
    }
    Ran repair_owner(Frame& f) {
        MC_BEGIN(f)
        for (f.i = 0; f.i < slots; f.i++) {
            MC_STEP("repair: is its owner bit set?") f.flag = slot[f.i].owner;
            if (f.flag) {
                MC_STEP("repair: clear it") lose(f.i, 0);
            }
            f.last = (f.flag || !is(sweeps_owned_only)) && is_last(f.i);
            if (f.last) MC_CALL(tell(tell_[DAEMON], f.i));
        }
        MC_END
    }
    Ran repair_holder(Frame& f) {
        MC_BEGIN(f)
        if (op) {
            f.i = op - 1;
            MC_STEP("repair: has the swap happened? make the record true")
            record[f.i] = !swapped;
            f.last = !is(no_look_after_death) && is_last(f.i);
            if (f.last) MC_CALL(tell(tell_[DAEMON], f.i));
            op = swapped = 0;
        }
        for (f.i = 0; f.i < slots; f.i++) {
            if (!record[f.i]) continue;
            MC_STEP("repair: drop what the dead held") lose(f.i, 1), record[f.i] = 0;
            f.last = is_last(f.i);
            if (f.last) MC_CALL(tell(tell_[DAEMON], f.i));
        }
        MC_END
    }
    int asking() const {
        for (int s = 0; s < slots; s++)
            if (asked[s] == 1) return s;
        return slots;
    }
    Ran daemon(Frame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT(bell || asking() < slots || (dead[A] && !repaired[A]) ||
                        (dead[B] && !repaired[B]),
                    "awake: a bell, a message or a pidfd")
            while (asking() < slots) {
                MC_STEP("adopt: the flag") slot[asking()].adopted = 1;
                MC_STEP("adopt: my hold, and the answer")
                f.i = asking(), slot[f.i].task = 1, asked[f.i] = 2;
                if (slot[f.i].freed) fault = 1;
            }
            f.i = 0;
            if (dead[A] && !repaired[A]) {
                MC_CALL(repair_owner(main_[A]));
                repaired[A] = 1;
            }
            if (dead[B] && !repaired[B]) {
                MC_CALL(repair_holder(main_[B]));
                repaired[B] = 1;
            }
            if (!bell) continue;
            if (!is(bell_cleared_late)) {
                MC_STEP("look: bell = 0") bell = 0;
            }
            MC_STEP("look: pop the inbox")
            if (cell) seen[cell - 1] = 1;
            cell = 0;
            MC_STEP("look: was it full?") f.flag = full;
            if (!is(full_cleared_late)) full = 0;
            for (f.i = 0; f.i < slots && f.flag; f.i++) {
                MC_STEP("look: is it adopted, then it counts as told")
                seen[f.i] |= slot[f.i].adopted && !has_handle(f.i);
            }
            if (is(full_cleared_late) && f.flag) {
                MC_STEP("look: full = 0") full = 0;
            }
            if (is(bell_cleared_late)) {
                MC_STEP("look: bell = 0") bell = 0;
            }
            for (f.i = 0; f.i < slots; f.i++) {
                if (!seen[f.i]) continue;
                seen[f.i] = 0;
                MC_STEP("look: has it a handle?") f.flag = !has_handle(f.i);
                if (!f.flag || !slot[f.i].adopted) continue;
                MC_STEP("release: the flag") slot[f.i].adopted = 0;
                if (has_handle(f.i)) fault = 2;
                MC_STEP("release: my hold") slot[f.i].task = 0, look_freed(f.i);
            }
            f.i = f.flag = 0;
        }
        MC_END
    }

    Ran step(int p) {
        if (p != DAEMON && finished[p]) return Ran::blocked;
        Ran ran = p == A ? owner(main_[A]) : p == B ? holder(main_[B]) : daemon(main_[DAEMON]);
        if (ran == Ran::done) finished[p] = 1, ran = Ran::more;
        return ran;
    }
    bool may_die(int p) const { return p != DAEMON && !dead[p] && deaths < config.deaths; }
    void die(int p) {
        dead[p] = finished[p] = 1, deaths++;
        main_[p] = tell_[p] = {};
    }
    const char* wrong_now() const {
        if (fault == 1) return "the daemon adopted what was freed";
        if (fault == 2) return "the daemon released what somebody has a handle of";
        for (int s = 0; s < slots; s++)
            if (slot[s].freed && has_handle(s)) return "freed with a handle";
        return nullptr;
    }
    const char* wrong_at_end() const {
        for (const Slot& s : slot)
            if (!s.freed) return "nobody has a handle, and the daemon was not told";
        return nullptr;
    }
    static Model start() {
        Model m;
        memset(static_cast<void*>(&m), 0, sizeof m);
        for (int s = 0; s < slots; s++) m.slot[s].owner = m.slot[s].refs = m.record[s] = 1;
        for (int s = asked_for; s < slots; s++)
            m.slot[s].task = m.slot[s].adopted = 1, m.asked[s] = 2;
        for (int p = 0; p < actors; p++) m.step(p);
        return m;
    }
};

}  // namespace

int main(int argc, char** argv) {
    mc::Report report("inbox", argc, argv);
    config.deaths = report.number(0, 2);
    auto run = [&](const char* name, Broken broken) {
        config.broken = broken;
        report.variant(name, broken != right, 1, [](int) { return Model::start(); });
    };
    run("the protocol", right);
    run("the counts are looked at before the swap", looks_before_swap);
    run("repair does not look at what the dead had dropped", no_look_after_death);
    run("the sweep looks only at what the dead still owned", sweeps_owned_only);
    run("that the inbox was full is forgotten", full_forgotten);
    run("full is cleared after the look at all", full_cleared_late);
    run("the bell is cleared after the look", bell_cleared_late);
    return report.exit_status();
}
