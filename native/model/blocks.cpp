// Blocks and extents: who owns which bytes of node memory.
//
//     extent word   FREE | SMALL(class) | HEAD(slot, n) | TAIL(slot, n) | CLOSING(process)
//                   one per 2 MiB
//     holder word   slot + 1 of who owns this block of a SMALL extent, or 0;  one per block
//
//      FREE --open--> SMALL --close--> CLOSING --all holders 0--> FREE     (else back to SMALL)
//      FREE --run---> HEAD, TAIL, TAIL ... claimed in order; on a conflict undone backwards
//
// A block is taken by swapping its holder word and then looking at the extent again: the closer
// first writes CLOSING and then looks at the holders, so one of the two sees the other. An
// allocator that finds the extent changed (also to another class: then the same holder word stands
// for other bytes) swaps its holder word back.
//
// Everything is repeatable after a death from the intent alone, because each word names its owner:
// a holder word names the slot, HEAD and TAIL name the slot, CLOSING names the process. A TAIL
// without a name would let the repair of one run free the middle of another; a CLOSING without a
// name would let it reopen an extent that somebody else is closing. Whether an allocation was
// finished is told by slot.block, which is stored last.
//
// Invariants: what a slot owns is its own (its holder word, or every word of its run, and the
// extent is what it was); at the end nothing is owned by a slot that has nothing, and no extent
// stays CLOSING.
//
// Command line: [deaths = 2] [scenario, all by default]
#include "checker.hpp"

using mc::Ran;

namespace {

enum Broken {
    right, no_recheck, class_not_compared, nameless_tail, nameless_closing, no_intent,
    holders_first, repair_looks_first
};
struct Config {
    Broken broken = right;
    int deaths = 1, scenario = 0;
} config;

enum { A, B, C, D, processes };
constexpr int extents = 3, blocks = 2;
enum Kind : uint8_t { FREE, SMALL, HEAD, TAIL, CLOSING };

struct Word {
    uint8_t kind;
    uint8_t arg;    // size class, or length of the run
    uint8_t owner;  // slot + 1, or process + 1
    bool operator==(const Word&) const = default;
};
enum OpKind : uint8_t { NONE, ALLOC, RUN, CLOSE };
struct Op {
    uint8_t kind, extent, arg;  // arg: index of the block, or length of the run
};
// What a slot owns. Each process works for one slot of its own number, so that the two can be
// confused in a word.
struct Slot {
    uint8_t owns, extent, arg, size_class;  // owns: NONE, ALLOC or RUN
};

// small(extent, class), large(first, n), close_(extent), release()
enum What : uint8_t { END, small, large, close_, release };
struct Act {
    What what;
    uint8_t extent, arg;
};
constexpr int scenarios = 5;
const Act programs[scenarios][3][5] = {
    {{{small, 0, 1}, {release, 0, 0}, {small, 0, 1}, {release, 0, 0}},
     {{close_, 0, 0}, {large, 0, 2}, {release, 0, 0}},
     {{small, 0, 2}, {release, 0, 0}}},
    {{{large, 0, 3}, {release, 0, 0}},
     {{large, 1, 2}, {release, 0, 0}},
     {{large, 0, 2}, {release, 0, 0}}},
    {{{small, 0, 1}, {release, 0, 0}},
     {{close_, 0, 0}, {small, 0, 2}, {release, 0, 0}},
     {{close_, 0, 0}, {small, 0, 1}}},
    {{{large, 0, 3}, {release, 0, 0}},
     {{large, 1, 2}},
     {{small, 2, 1}, {release, 0, 0}, {close_, 2, 0}}},
    {{{close_, 0, 0}},
     {{close_, 0, 0}},
     {{small, 0, 1}, {close_, 0, 0}, {release, 0, 0}}},  // here extent 0 starts as SMALL
};

struct Frame {
    uint8_t pc, ip, i, block, ok, dead;
    Word seen;
};

struct Model {
    static constexpr int actors = processes;
    Word extent[extents];
    uint8_t holder[extents][blocks];
    Slot slot[processes];
    Op op[processes];
    Frame main_[processes], act_[processes];
    uint8_t finished[processes], dead[processes], repaired[processes], deaths;

    static const char* actor_name(int p) {
        static const char* const names[] = {"A", "B", "C", "daemon"};
        return names[p];
    }
    Word run_word(int i, int n, int s) const {
        bool nameless = i && config.broken == nameless_tail;
        return {i ? TAIL : HEAD, uint8_t(nameless ? 0 : n), uint8_t(nameless ? 0 : s + 1)};
    }
    Word closing_word(int p) const {
        return {CLOSING, 0, uint8_t(config.broken == nameless_closing ? 0 : p + 1)};
    }
    void set_op(int me, OpKind kind, int e, int arg) {
        if (config.broken != no_intent) op[me] = {kind, uint8_t(e), uint8_t(arg)};
    }
    bool is_still(const Word& seen, int e) const {
        if (config.broken == no_recheck) return true;
        if (config.broken == class_not_compared) return extent[e].kind == SMALL;
        return extent[e] == seen;
    }

    Ran allocate_small(int me, Frame& f, int e, int size_class) {
        MC_BEGIN(f)
        MC_STEP("small: load the extent") f.seen = extent[e];
        if (f.seen.kind == FREE) {
            MC_STEP("small: swap FREE -> SMALL(class)")
            if (extent[e].kind == FREE) extent[e] = {SMALL, uint8_t(size_class), 0};
            f.seen = {SMALL, uint8_t(size_class), 0};
        }
        if (f.seen.kind != SMALL || f.seen.arg != size_class) MC_RETURN;
        for (f.block = 0; f.block < blocks; f.block++) {
            MC_STEP("small: intent ALLOC(block, slot)") set_op(me, ALLOC, e, f.block);
            MC_STEP("small: swap holder 0 -> slot + 1") f.ok = holder[e][f.block] == 0;
            if (!f.ok) continue;
            holder[e][f.block] = me + 1;
            MC_STEP("small: is the extent still what it was?") f.ok = is_still(f.seen, e);
            if (!f.ok) {
                MC_STEP("small: no: swap holder slot + 1 -> 0")
                if (holder[e][f.block] == me + 1) holder[e][f.block] = 0;
                break;
            }
            MC_STEP("small: slot.block = block")
            slot[me] = {ALLOC, uint8_t(e), f.block, uint8_t(size_class)};
            break;
        }
        MC_STEP("small: op = 0") op[me] = {};
        MC_END
    }
    Ran undo_run(Frame& f, int s, int first, int n, int claimed) {
        MC_BEGIN(f)
        for (f.i = claimed; f.i-- > 0;) {
            MC_STEP("run: swap HEAD/TAIL(slot) -> FREE, backwards")
            if (extent[first + f.i] == run_word(f.i, n, s)) extent[first + f.i] = {};
        }
        MC_END
    }
    Frame undo_[processes];
    Ran allocate_run(int me, Frame& f, int first, int n) {
        MC_BEGIN(f)
        MC_STEP("run: intent RUN(first, n, slot)") set_op(me, RUN, first, n);
        for (f.i = 0; f.i < n; f.i++) {
            MC_STEP("run: swap FREE -> HEAD/TAIL(slot)") f.ok = extent[first + f.i].kind == FREE;
            if (!f.ok) break;
            extent[first + f.i] = run_word(f.i, n, me);
        }
        if (f.ok) {
            MC_STEP("run: slot.block = run") slot[me] = {RUN, uint8_t(first), uint8_t(n), 0};
        } else {
            MC_CALL(undo_run(undo_[me], me, first, n, f.i));
        }
        MC_STEP("run: op = 0") op[me] = {};
        MC_END
    }
    Ran close_extent(int me, Frame& f, int e) {
        MC_BEGIN(f)
        MC_STEP("close: load the extent") f.seen = extent[e];
        if (f.seen.kind != SMALL) MC_RETURN;
        MC_STEP("close: intent CLOSE(extent)") set_op(me, CLOSE, e, f.seen.arg);
        if (config.broken == holders_first) {
            for (f.i = 0, f.ok = 1; f.i < blocks && f.ok; f.i++) {
                MC_STEP("close: is the holder 0?") f.ok = holder[e][f.i] == 0;
            }
        }
        MC_STEP("close: swap SMALL -> CLOSING(me)")
        if (extent[e] == f.seen) {
            extent[e] = closing_word(me);
            if (config.broken != holders_first) {
                for (f.i = 0, f.ok = 1; f.i < blocks && f.ok; f.i++) {
                    MC_STEP("close: is the holder 0?") f.ok = holder[e][f.i] == 0;
                }
            }
            MC_STEP("close: CLOSING -> FREE, or back to SMALL")
            if (extent[e] == closing_word(me)) extent[e] = f.ok ? Word{} : f.seen;
        }
        MC_STEP("close: op = 0") op[me] = {};
        MC_END
    }
    // Freeing is repeatable: the slot is on its freer's stack until it is over (freeing.cpp).
    Ran free_slot(Frame& f, int s) {
        MC_BEGIN(f)
        if (slot[s].owns == ALLOC) {
            MC_STEP("free: swap holder slot + 1 -> 0")
            if (holder[slot[s].extent][slot[s].arg] == s + 1)
                holder[slot[s].extent][slot[s].arg] = 0;
        }
        for (f.i = slot[s].owns == RUN ? slot[s].arg : 0; f.i-- > 0;) {
            MC_STEP("free: swap TAIL, HEAD last -> FREE")
            if (extent[slot[s].extent + f.i] == run_word(f.i, slot[s].arg, s))
                extent[slot[s].extent + f.i] = {};
            is_ending |= 1 << s;
        }
        MC_STEP("free: slot.block = 0") slot[s] = {}, is_ending &= ~(1 << s);
        MC_END
    }
    uint8_t is_ending;  // slots whose memory is being given back: no invariant holds for them

    Ran process(int me, Frame& f) {
        auto act = [&]() -> const Act& { return programs[config.scenario][me][f.ip]; };
        MC_BEGIN(f)
        for (; act().what != END; f.ip++) {
            if (act().what == small) MC_CALL(allocate_small(me, act_[me], act().extent, act().arg));
            if (act().what == large) MC_CALL(allocate_run(me, act_[me], act().extent, act().arg));
            if (act().what == close_) MC_CALL(close_extent(me, act_[me], act().extent));
            if (act().what == release && slot[me].owns) {
                is_ending |= 1 << me;
                MC_CALL(free_slot(act_[me], me));
            }
        }
        MC_END
    }
    // The broken repair believes that a block of an extent that is not SMALL needs no undoing.
    bool is_none_of_mine(int e) const {
        return config.broken == repair_looks_first && extent[e].kind != SMALL &&
               extent[e].kind != CLOSING;
    }
    Ran finish_op(int p, Frame& f) {
        const Op& o = op[p];
        MC_BEGIN(f)
        f.ok = slot[p].owns == o.kind && slot[p].extent == o.extent && slot[p].arg == o.arg;
        if (o.kind == ALLOC && !f.ok) {
            if (is_none_of_mine(o.extent)) MC_RETURN;
            MC_STEP("repair: not finished: swap holder slot + 1 -> 0")
            if (holder[o.extent][o.arg] == p + 1) holder[o.extent][o.arg] = 0;
        } else if (o.kind == RUN && !f.ok) {
            MC_CALL(undo_run(undo_[D], p, o.extent, o.arg, o.arg));
        } else if (o.kind == CLOSE) {
            MC_STEP("repair: swap CLOSING(dead) -> SMALL")
            if (extent[o.extent] == closing_word(p)) extent[o.extent] = {SMALL, o.arg, 0};
        }
        MC_STEP("repair: op = 0") op[p] = {};
        MC_END
    }
    int next_dead() const {
        for (int p = 0; p < D; p++)
            if (dead[p] && !repaired[p]) return p;
        return D;
    }
    Ran daemon(Frame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT(next_dead() != D, "a pidfd says: dead")
            f.dead = next_dead();
            MC_CALL(finish_op(f.dead, act_[D]));
            if (slot[f.dead].owns) {
                is_ending |= 1 << f.dead;
                MC_CALL(free_slot(act_[D], f.dead));
            }
            repaired[f.dead] = 1;
            f.dead = 0;
        }
        MC_END
    }

    Ran step(int p) {
        if (finished[p]) return Ran::blocked;
        Ran ran = p == D ? daemon(main_[p]) : process(p, main_[p]);
        if (ran == Ran::done) finished[p] = 1, ran = Ran::more;
        return ran;
    }
    // A process that has ended its program may still die, with what its slot owns.
    bool may_die(int p) const { return p != D && !dead[p] && deaths < config.deaths; }
    void die(int p) {
        dead[p] = finished[p] = 1, deaths++;
        main_[p] = act_[p] = undo_[p] = {};
    }
    const char* wrong_now() const {
        for (int s = 0; s < D; s++) {
            const Slot& x = slot[s];
            if (is_ending >> s & 1) continue;
            if (x.owns == ALLOC) {
                if (holder[x.extent][x.arg] != s + 1)
                    return "a block was given away while a slot owns it";
                const Word& w = extent[x.extent];
                // CLOSING may pass by: it will see the holder and go back.
                if (w.kind != CLOSING && !(w == Word{SMALL, x.size_class, 0}))
                    return "an extent was given away while a slot owns a block of it";
            }
            for (int i = 0; x.owns == RUN && i < x.arg; i++)
                if (!(extent[x.extent + i] == run_word(i, x.arg, s)))
                    return "an extent of a run was given away";
        }
        return nullptr;
    }
    const char* wrong_at_end() const {
        for (int p = 0; p < D; p++)
            if (dead[p] && !repaired[p]) return "a dead process was not repaired";
        int named = 0, owned = 0;
        for (int e = 0; e < extents; e++) {
            if (extent[e].kind == CLOSING) return "an extent stays CLOSING for ever";
            named += extent[e].kind == HEAD || extent[e].kind == TAIL;
            for (uint8_t h : holder[e]) named += h != 0;
        }
        for (const Slot& s : slot) owned += s.owns == RUN ? s.arg : s.owns == ALLOC;
        return named == owned ? nullptr
                              : "a block or an extent belongs to a slot that has nothing: leaked";
    }

    static Model start(int scenario) {
        config.scenario = scenario;
        Model m;
        memset(static_cast<void*>(&m), 0, sizeof m);
        if (scenario == 4) m.extent[0] = {SMALL, 1, 0};
        for (int p = 0; p < actors; p++) m.step(p);
        return m;
    }
};

}  // namespace

int main(int argc, char** argv) {
    mc::Report report("blocks", argc, argv);
    config.deaths = report.number(0, 2);
    int only = report.number(1, -1);
    auto run = [&](const char* name, Broken broken) {
        config.broken = broken;
        report.variant(name, broken != right, only < 0 ? scenarios : 1,
                       [&](int s) { return Model::start(only < 0 ? s : only); });
    };
    run("the protocol", right);
    run("the extent is not looked at again", no_recheck);
    run("the size class is not compared again", class_not_compared);
    run("the closer looks at the holders first", holders_first);
    run("TAIL does not name its slot", nameless_tail);
    run("CLOSING does not name its process", nameless_closing);
    run("repair looks at the extent before it undoes a block", repair_looks_first);
    run("no intent", no_intent);
    return report.exit_status();
}
