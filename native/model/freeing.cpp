// Freeing a slot: who frees it, and how a chain of slots that hold each other is freed although any
// process may die between any two steps.
//
//     life   {count, owner bit, task bit, stamp (who, seq)}  or  FREEING|who      one word
//     state  {LIVE or FREE, generation}                                            one word
//     succ   link of the stack of slots that one process is freeing
//     holder the word of the block that the slot's value lives in: slot + 1, or 0
//     entry  one reference contained in that value: the inner slot + 1, or 0
//
// Whoever sees all counts zero may free, also the daemon for a dead process that may or may not
// have been about to. The swap of `life` from zero to FREEING|me decides. The winner links the slot
// on its own stack and then works the stack, top first:
//
//      record.freeing -> [inner] -> [outer] -> 0          (linked by succ)
//
//      1  drop every contained reference (its record is the entry itself): may push the inner slot
//      2  holder: slot + 1 -> 0
//      3  record.freeing_next = slot.succ
//      4  state = {FREE, generation + 1}: now the owner of the chunk may allocate the slot anew
//      5  record.freeing = record.freeing_next
//
// After a death the daemon looks at the top of the dead's stack: state first, life second. Not FREE
// and then FREEING|dead: steps 1-5 are done (again). Anything else: only step 5 is missing, and
// step 3 has happened. This is exact because allocating writes `life` before it writes `state`: a
// slot that was seen not FREE because it has been allocated anew cannot afterwards say
// FREEING|dead. So `life` must stay FREEING|me until the end: a separate FREED mark (tried first,
// kept below as a broken variant) loses the slot and the rest of the stack.
//
// The owner bit and the task bit are cleared without an intent. What a process did not live to
// notice (that its clearing made the word zero) the daemon finds by sweeping the dead's chunks, and
// its `running` list.
//
// Invariants: no slot is freed twice, none while a record of a living process names it, none is
// leaked, and the count of every slot is the number of records that name it.
//
// Command line: [deaths = 2] [scenario, all by default]
#include "checker.hpp"

using mc::Ran;

namespace {

enum Broken {
    right, no_claim, free_before_next, freed_mark, life_after_state, no_sweep, no_generation
};
struct Config {
    Broken broken = right;
    int deaths = 1, scenario = 0;
} config;

constexpr int workers = 2, daemon_ = 2, processes = 3, slots = 2, ledger_size = 2;
enum { A, B };
enum State : uint8_t { FREE, LIVE };
enum Bits : uint8_t { OWNER = 1, TASK = 2, FREEING = 4, FREED = 8 };
enum OpKind : uint8_t { NONE, HOLD, RELEASE };

struct Life {
    uint8_t count, bits, who, seq;  // who: process + 1 of the last stamp or of the freer
    bool operator==(const Life&) const = default;
    bool is_zero() const { return count == 0 && bits == 0; }
    bool is_freed_by(int p) const { return (bits & FREEING) && who == p + 1; }
};
struct Slot {
    Life life;
    uint8_t state, gen, succ, holder, entry;
};
struct Op {
    uint8_t kind, slot, seq, done;
    bool operator==(const Op&) const = default;
};
struct Record {
    Op op;
    uint8_t address;  // which record the hold is about, see at()
    int8_t delta;
    uint8_t freeing, freeing_next, seq, running, running_gen;  // slots here are slot + 1
    uint8_t ledger[ledger_size];
};

// What the processes do. HOLD takes a reference into ledger[k], DROP gives it back, DISOWN clears
// the owner bit, FINISH the task bit of what is running, ALLOC waits until the slot is FREE and
// takes it, as the result of a task that it will run if k is TASK (without a block: blocks.cpp has
// those).
enum What : uint8_t { END, TAKE, DROP, DISOWN, FINISH, ALLOC };
struct Act {
    What what;
    uint8_t slot, k;
};
constexpr int scenarios = 3;
const Act programs[scenarios][workers][8] = {
    // The outer slot 0 (A's chunk) contains slot 1 (B's chunk); both are allocated anew at once.
    {{{DISOWN, 0, 0}, {ALLOC, 0, 0}, {DISOWN, 0, 0}},
     {{TAKE, 1, 1}, {DROP, 0, 0}, {DISOWN, 1, 0}, {DROP, 1, 1}, {ALLOC, 1, 0}, {DISOWN, 1, 0}}},
    // B runs a task that returns slot 0; A owns both slots and forgets them meanwhile.
    {{{DISOWN, 1, 0},
      {DISOWN, 0, 0},
      {ALLOC, 0, TASK},
      {FINISH, 0, 0},
      {DISOWN, 0, 0},
      {ALLOC, 1, 0},
      {DISOWN, 1, 0}},
     {{FINISH, 0, 0}, {DROP, 1, 0}}},
    // Both hold slot 0, and stamp its word over and over.
    {{{TAKE, 0, 1}, {DROP, 0, 0}, {DROP, 0, 1}, {ALLOC, 0, 0}, {DISOWN, 0, 0}},
     {{TAKE, 0, 1}, {DROP, 0, 1}, {DROP, 0, 0}}},
};
int chunk_owner(int slot) { return config.scenario == 0 && slot == 1 ? B : A; }

// Registers of the programs.
struct HoldFrame {
    uint8_t pc, slot, address;
    int8_t delta;
    Life seen;
    Op seen_op;
};
struct ReleaseFrame {
    uint8_t pc, won;
    Life seen;
    Op seen_op;
};
struct WorkFrame {
    uint8_t pc, slot, state;
};
struct MainFrame {
    uint8_t pc, ip, slot, dead, flag, i;
};

struct Model {
    static constexpr int actors = processes;
    Slot slot[slots];
    Record record[processes];
    // Private registers.
    MainFrame main_[processes];
    HoldFrame hold_[processes];
    ReleaseFrame release_[processes];
    WorkFrame work_[processes];
    uint8_t finished[processes], dead[processes], repaired[processes], deaths, fault;

    static const char* actor_name(int p) { return p == A ? "A" : p == B ? "B" : "daemon"; }

    uint8_t& at(int address) {
        return address < 8 ? record[address / ledger_size].ledger[address % ledger_size]
                           : slot[address - 8].entry;
    }
    static int in_ledger(int p, int k) { return p * ledger_size + k; }
    static int in_value(int s) { return 8 + s; }
    enum Fault : uint8_t { fine, below_zero, held_while_freed, freed_twice, freed_early };
    void blame(Fault f) {
        if (!fault) fault = f;
    }

    // Before a stamp (who, seq) is overwritten its author learns that its swap has happened.
    bool must_tell(int me, const Life& seen) const {
        return seen.who && seen.who != me + 1 && !(seen.bits & FREEING);
    }
    bool is_about(const Op& op, int s, const Life& seen) const {
        return op == Op{HOLD, uint8_t(s), seen.seq, 0};
    }

    // hold(slot, delta, record): the only way to change a count.
    Ran hold(int me, HoldFrame& f, int s, int delta, int address) {
        Record& mine = record[me];
        MC_BEGIN(f)
        f.slot = s, f.delta = delta, f.address = address;
        MC_STEP("hold: intent (record and delta first, then the op word)")
        mine.address = f.address, mine.delta = f.delta;
        mine.op = {HOLD, f.slot, ++mine.seq, 0};
        for (;;) {
            MC_STEP("hold: load life") f.seen = slot[f.slot].life;
            if (must_tell(me, f.seen)) {
                MC_STEP("hold: load the op of the last stamper")
                f.seen_op = record[f.seen.who - 1].op;
                if (is_about(f.seen_op, f.slot, f.seen)) {
                    MC_STEP("hold: tell it: swap its op to done")
                    if (record[f.seen.who - 1].op == f.seen_op) record[f.seen.who - 1].op.done = 1;
                }
                f.seen_op = {};
            }
            MC_STEP("hold: swap life")
            if (slot[f.slot].life == f.seen) break;
        }
        if (f.seen.bits & (FREEING | FREED)) blame(held_while_freed);
        if (f.delta < 0 && f.seen.count == 0) blame(below_zero);
        f.seen.count += f.delta, f.seen.who = me + 1, f.seen.seq = mine.seq;
        slot[f.slot].life = f.seen;
        MC_STEP("hold: write the record") at(f.address) = f.delta > 0 ? f.slot + 1 : 0;
        if (f.seen.is_zero()) {
            MC_CALL(release(me, release_[me], f.slot));
        } else {
            MC_STEP("hold: op = 0") mine.op = {};
        }
        MC_END
    }

    // Whoever sees a zero calls this; at most one caller wins the slot and links it on its stack.
    Ran release(int me, ReleaseFrame& f, int s) {
        Record& mine = record[me];
        MC_BEGIN(f)
        MC_STEP("release: op = RELEASE(slot)") mine.op = {RELEASE, uint8_t(s), 0, 0};
        for (;;) {
            MC_STEP("release: load life") f.seen = slot[s].life;
            if (!f.seen.is_zero()) break;
            if (must_tell(me, f.seen)) {
                MC_STEP("release: load the op of the last stamper")
                f.seen_op = record[f.seen.who - 1].op;
                if (is_about(f.seen_op, s, f.seen)) {
                    MC_STEP("release: tell it: swap its op to done")
                    if (record[f.seen.who - 1].op == f.seen_op) record[f.seen.who - 1].op.done = 1;
                }
                f.seen_op = {};
            }
            if (config.broken == no_claim) {
                f.won = 1;
                break;
            }
            MC_STEP("release: swap life zero -> FREEING|me")
            if (slot[s].life == f.seen) {
                slot[s].life = {0, FREEING, uint8_t(me + 1), 0};
                f.won = 1;
                break;
            }
        }
        f.seen = {};
        if (f.won) {
            MC_STEP("release: slot.succ = record.freeing") slot[s].succ = mine.freeing;
            MC_STEP("release: record.freeing = slot") mine.freeing = s + 1;
        }
        MC_STEP("release: op = 0") mine.op = {};
        MC_END
    }

    // The record of a hold names a slot that is being freed, and no drop of it is under way: freed
    // too early.
    bool is_named(int s) {
        for (int address = 0; address < 8 + slots; address++) {
            if (address >= in_ledger(processes, 0) && address < 8) continue;
            if (at(address) != s + 1) continue;
            bool under_way = false;
            for (const Record& r : record)
                under_way |= r.op.kind == HOLD && r.address == address && r.delta < 0;
            if (!under_way) return true;
        }
        return false;
    }
    void store_free(int whose, int s) {
        Slot& x = slot[s];
        bool mine = config.broken == no_claim ? x.life.is_zero() : x.life.is_freed_by(whose);
        if (config.broken == freed_mark) mine = x.life.bits & FREED;
        if (x.state == FREE || !mine) blame(freed_twice);
        if (is_named(s)) blame(freed_early);
        x.state = FREE, x.gen++;
    }

    bool must_redo(uint8_t state, const Life& life, int whose) const {
        if (config.broken == no_claim) return state != FREE;
        if (config.broken == freed_mark) return life.is_freed_by(whose);
        return state != FREE && life.is_freed_by(whose);
    }
    // Works the stack of `whose`: its own, or, by the daemon, that of a dead process.
    Ran work(int me, WorkFrame& f, int whose) {
        Record& theirs = record[whose];
        MC_BEGIN(f)
        while (theirs.freeing) {
            f.slot = theirs.freeing - 1;
            if (me != whose) {
                MC_STEP("work: load state") f.state = slot[f.slot].state;
                MC_STEP("work: load life") f.state = must_redo(f.state, slot[f.slot].life, whose);
                if (!f.state) {
                    MC_STEP("work: freed already, record.freeing = freeing_next")
                    theirs.freeing = theirs.freeing_next;
                    continue;
                }
            }
            f.state = 0;
            if (slot[f.slot].entry) {
                MC_CALL(hold(me, hold_[me], slot[f.slot].entry - 1, -1, in_value(f.slot)));
                continue;
            }
            MC_STEP("work: swap holder -> 0")
            if (slot[f.slot].holder == f.slot + 1) slot[f.slot].holder = 0;
            if (config.broken == freed_mark) {
                MC_STEP("work: life = FREED") slot[f.slot].life = {0, FREED, 0, 0};
            }
            if (config.broken == free_before_next) {
                MC_STEP("work: state = {FREE, gen + 1}") store_free(whose, f.slot);
            }
            MC_STEP("work: record.freeing_next = slot.succ")
            theirs.freeing_next = slot[f.slot].succ;
            if (config.broken != free_before_next) {
                MC_STEP("work: state = {FREE, gen + 1}") store_free(whose, f.slot);
            }
            MC_STEP("work: record.freeing = freeing_next") theirs.freeing = theirs.freeing_next;
        }
        MC_END
    }

    Ran allocate(int me, MainFrame& f, int i, int task) {
        Slot& s = slot[i];
        auto write_life = [&] { s.life = {0, uint8_t(OWNER | task), 0, 0}; };
        auto write_state = [&] { s.state = LIVE; };
        MC_BEGIN(f)
        MC_WAIT(s.state == FREE, "allocate: the slot is FREE")
        if (task) {
            MC_STEP("allocate: running.push(slot, generation)")
            record[me].running = i + 1, record[me].running_gen = s.gen;
        }
        MC_STEP("allocate: first store")
        config.broken == life_after_state ? write_state() : write_life();
        MC_STEP("allocate: second store")
        config.broken == life_after_state ? write_life() : write_state();
        MC_END
    }

    MainFrame allocate_[processes];  // registers of allocate and of the bit operations
    Ran clear_bit(int me, MainFrame& f, int s, int bit) {
        MC_BEGIN(f)
        MC_STEP("clear the bit (fetch_and)")
        if (slot[s].life.bits & FREEING) blame(held_while_freed);
        slot[s].life.bits &= ~bit;
        f.flag = slot[s].life.is_zero();
        if (f.flag) MC_CALL(release(me, release_[me], s));
        MC_END
    }

    Ran process(int me, MainFrame& f) {
        MC_BEGIN(f)
        while (act_at(me, f.ip).what != END) {
            if (act_at(me, f.ip).what == ALLOC) {
                MC_CALL(allocate(me, allocate_[me], act_at(me, f.ip).slot, act_at(me, f.ip).k));
            } else if (act_at(me, f.ip).what == DISOWN) {
                MC_CALL(clear_bit(me, allocate_[me], act_at(me, f.ip).slot, OWNER));
            } else if (act_at(me, f.ip).what == FINISH) {
                MC_CALL(clear_bit(me, allocate_[me], act_at(me, f.ip).slot, TASK));
                MC_STEP("running.pop()") record[me].running = 0;
            } else if (act_at(me, f.ip).what == TAKE) {
                MC_CALL(hold(me, hold_[me], act_at(me, f.ip).slot, 1,
                             in_ledger(me, act_at(me, f.ip).k)));
            } else {
                MC_CALL(hold(me, hold_[me], act_at(me, f.ip).slot, -1,
                             in_ledger(me, act_at(me, f.ip).k)));
            }
            MC_CALL(work(me, work_[me], me));
            f.ip++;
        }
        MC_END
    }
    const Act& act_at(int me, int ip) const { return programs[config.scenario][me][ip]; }

    // The daemon finishes the one operation that the dead had begun.
    Ran finish_op(int me, MainFrame& f, int p) {
        Record& theirs = record[p];
        MC_BEGIN(f)
        f.slot = theirs.op.slot;
        if (theirs.op.kind == HOLD) {
            MC_STEP("repair: is life stamped by the dead's hold?")
            f.flag = slot[f.slot].life.who == p + 1 && slot[f.slot].life.seq == theirs.op.seq &&
                     !(slot[f.slot].life.bits & FREEING);
            if (!f.flag) {
                MC_STEP("repair: was the dead told?") f.flag = theirs.op.done;
            }
            MC_STEP("repair: make the record say the truth")
            at(theirs.address) = (theirs.delta > 0) == bool(f.flag) ? f.slot + 1 : 0;
            f.flag = f.flag && theirs.delta < 0;
            if (f.flag) MC_CALL(release(me, release_[me], f.slot));
        } else if (theirs.op.kind == RELEASE) {
            MC_STEP("repair: load life of what the dead released")
            f.flag = slot[f.slot].life.is_freed_by(p) && theirs.freeing != f.slot + 1;
            if (config.broken == no_claim) f.flag = 0;
            if (f.flag) {
                MC_STEP("repair: slot.succ = dead's freeing") slot[f.slot].succ = theirs.freeing;
                MC_STEP("repair: dead's freeing = slot") theirs.freeing = f.slot + 1;
            } else {
                MC_CALL(release(me, release_[me], f.slot));
            }
        }
        MC_STEP("repair: the dead's op = 0") theirs.op = {};
        MC_END
    }
    // The task bit of what the dead was running: read the generation, look, read the generation
    // again.
    Ran finish_task(int me, MainFrame& f, int p) {
        Record& theirs = record[p];
        MC_BEGIN(f)
        f.slot = theirs.running - 1;
        MC_STEP("repair: load the generation of what it ran")
        f.flag = slot[f.slot].gen == theirs.running_gen;
        if (!f.flag && config.broken != no_generation) MC_RETURN;
        MC_STEP("repair: look at life") f.flag = slot[f.slot].life.bits & TASK;
        f.i = slot[f.slot].life.is_zero();
        MC_STEP("repair: load the generation again")
        if (slot[f.slot].gen != theirs.running_gen && config.broken != no_generation) f.flag = 0;
        if (f.flag) {
            MC_CALL(clear_bit(me, allocate_[me], f.slot, TASK));
        } else if (f.i) {
            MC_CALL(release(me, release_[me], f.slot));
        }
        MC_END
    }
    MainFrame repair_;  // registers of finish_op and finish_task
    Ran repair(int me, MainFrame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT((dead[A] && !repaired[A]) || (dead[B] && !repaired[B]), "a pidfd says: dead")
            f.dead = dead[A] && !repaired[A] ? A : B;
            MC_CALL(finish_op(me, repair_, f.dead));
            MC_CALL(work(me, work_[me], f.dead));
            MC_CALL(work(me, work_[me], me));
            if (record[f.dead].running) MC_CALL(finish_task(me, repair_, f.dead));
            for (f.i = 0; f.i < ledger_size; f.i++)
                if (record[f.dead].ledger[f.i])
                    MC_CALL(hold(me, hold_[me], record[f.dead].ledger[f.i] - 1, -1,
                                 in_ledger(f.dead, f.i)));
            for (f.i = 0; f.i < slots && config.broken != no_sweep; f.i++) {
                if (chunk_owner(f.i) != f.dead) continue;
                MC_STEP("sweep: load state") f.flag = slot[f.i].state != FREE;
                if (!f.flag) continue;
                MC_STEP("sweep: look at life")
                f.flag = slot[f.i].life.bits & FREEING ? 0 : slot[f.i].life.bits & OWNER ? 1 : 2;
                if (f.flag == 1) MC_CALL(clear_bit(me, allocate_[me], f.i, OWNER));
                if (f.flag == 2) MC_CALL(release(me, release_[me], f.i));
            }
            MC_CALL(work(me, work_[me], me));
            repaired[f.dead] = 1;
            f.dead = f.i = f.flag = 0;
        }
        MC_END
    }

    Ran step(int p) {
        if (finished[p]) return Ran::blocked;
        Ran ran = p == daemon_ ? repair(p, main_[p]) : process(p, main_[p]);
        if (ran == Ran::done) finished[p] = 1, ran = Ran::more;
        return ran;
    }
    bool may_die(int p) const {
        return p != daemon_ && !dead[p] && !finished[p] && deaths < config.deaths;
    }
    void die(int p) {
        dead[p] = finished[p] = 1, deaths++;
        main_[p] = allocate_[p] = {}, hold_[p] = {}, release_[p] = {}, work_[p] = {};
    }

    const char* wrong_now() const {
        static const char* const words[] = {
            nullptr, "a count fell below zero", "a hold on a slot that is being freed",
            "a slot was freed twice", "a slot was freed while a record names it"};
        if (fault) return words[fault];
        for (int p = 0; p < workers; p++)
            for (int k = 0; k < ledger_size && !dead[p]; k++) {
                const Record& r = record[p];
                bool busy = r.op.kind == HOLD && r.address == in_ledger(p, k);
                if (!r.ledger[k] || busy) continue;
                const Slot& s = slot[r.ledger[k] - 1];
                if (s.state == FREE || s.gen != 1 || s.holder != r.ledger[k])
                    return "a living process holds a slot that was freed";
            }
        return nullptr;
    }
    const char* wrong_at_end() const {
        for (int p = 0; p < workers; p++) {
            if (dead[p] && !repaired[p]) return "a dead process was not repaired";
            if (!finished[p]) return "a process waits for ever for a slot: it leaked";
        }
        for (int s = 0; s < slots; s++) {
            int named = 0;
            for (const Record& r : record)
                for (uint8_t entry : r.ledger) named += entry == s + 1;
            for (const Slot& outer : slot) named += outer.entry == s + 1;
            const Slot& x = slot[s];
            if (x.state == FREE && (named || x.holder))
                return "a slot is FREE, but something of it is left";
            if (x.state == FREE) continue;
            if (x.life.is_zero() || x.life.bits & (FREEING | FREED))
                return "a slot without holders was not freed: leaked";
            if (x.life.count != named) return "a count is not the number of records";
        }
        return nullptr;
    }

    static Model start(int scenario) {
        config.scenario = scenario;
        Model m;
        memset(static_cast<void*>(&m), 0, sizeof m);
        for (int s = 0; s < slots; s++)
            m.slot[s] = {{0, OWNER, 0, 0}, LIVE, 1, 0, uint8_t(s + 1), 0};
        auto refer = [&](int address, int s) { m.at(address) = s + 1, m.slot[s].life.count++; };
        if (scenario == 0) refer(in_ledger(B, 0), 0), refer(in_value(0), 1);
        if (scenario == 1) {
            refer(in_value(0), 1), refer(in_ledger(B, 0), 1);
            m.slot[0].life.bits |= TASK, m.record[B].running = 1, m.record[B].running_gen = 1;
        }
        if (scenario == 2) {
            refer(in_ledger(A, 0), 0), refer(in_ledger(B, 0), 0), refer(in_value(0), 1);
            m.slot[0].life.bits = m.slot[1].life.bits = 0;
        }
        for (int p = 0; p < actors; p++) m.step(p);
        return m;
    }
};

}  // namespace

int main(int argc, char** argv) {
    mc::Report report("freeing", argc, argv);
    config.deaths = report.number(0, 2);
    int only = report.number(1, -1);
    auto run = [&](const char* name, Broken broken) {
        config.broken = broken;
        report.variant(name, broken != right, only < 0 ? scenarios : 1,
                       [&](int s) { return Model::start(only < 0 ? s : only); });
    };
    run("the protocol", right);
    run("whoever sees zero frees, no claim", no_claim);
    run("FREE is stored before freeing_next", free_before_next);
    run("a FREED mark in life before freeing_next", freed_mark);
    run("allocate writes state before life", life_after_state);
    run("repair clears the task bit of any generation", no_generation);
    run("no sweep of the dead's chunks", no_sweep);
    return report.exit_status();
}
