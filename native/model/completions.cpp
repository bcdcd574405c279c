// Waiting for many slots at once: a watch node per (process, slot), a completion ring per process.
//
//     watch    {CLOSED, head of the list of nodes}                  one word per slot
//     node     free, linked or fired; link
//     ring     of the waiting process: numbers of nodes that have fired; it may be full
//     rescan   the ring was full: look at every slot that you watch
//     door     futex word of the waiting process
//
//     wait:    link a node on each slot (CLOSED: it is sealed already)
//              loop: note the door; drain the ring; swap rescan to 0, was it 1? look at every slot;
//              all there? else futex_wait(door)
//     seal:    state = SEALED; CLOSED; each node: op = FIRE(slot, node); head = link; node = fired;
//              push its number, or, if the ring is full, rescan = 1; ring the door; op = 0
//     repair:  FIRE(slot, node): still the head: fire it; else tell its process (again); then the
//              rest of the list
//
// An entry is a hint: it may be double, or of a node that has been linked elsewhere since. So the
// waiter looks at the slot before it believes it. In this model the ring has one cell, and the
// waiter watches slots 0 and 1, then slot 2 with the node that comes free first.
//
// Invariant: the waiter ends; no node is linked twice, and none is lost.
//
// Command line: [deaths = 1]
#include "checker.hpp"

using mc::Ran;

namespace {

enum Broken {
    right, no_rescan, door_before_push, note_after_drain, no_intent, not_told_again,
    believe_entry, reused_early, popped_not_marked
};
struct Config {
    Broken broken = right;
    int deaths = 1;
} config;
bool is(Broken b) { return config.broken == b; }

enum { S0, S1, S2, WAITER, DAEMON, processes };
constexpr int slots = 3, nodes = 2;
enum State : uint8_t { PENDING, SEALED };
enum NodeState : uint8_t { FREE, LINKED, FIRED };
constexpr uint8_t closed = 0x80, index_ = 0x7f;

struct Slot {
    uint8_t state, watch;
};
struct Node {
    uint8_t state, link, slot;  // slot: the key, what it is linked for
};
struct Frame {
    uint8_t pc, i, n, seen, w;
};

struct Model {
    static constexpr int actors = processes;
    Slot slot[slots];
    Node node[nodes];
    uint8_t entry, rescan, rung,
        asleep;  // entry: the only cell, node + 1; rung: the door is not what was noted
    uint8_t op_node[slots];               // FIRE(slot, node) of the sealer of that slot: node + 1
    uint8_t ready[slots], watched[slots];
    Frame main_[processes], fire_[processes];
    uint8_t finished[processes], dead[processes], repaired[processes], deaths, fault;

    static const char* actor_name(int p) {
        static const char* const names[] = {"sealer 0", "sealer 1", "sealer 2", "waiter", "daemon"};
        return names[p];
    }
    Ran tell(Frame& f, int n) {
        MC_BEGIN(f)
        if (is(door_before_push)) {
            MC_STEP("tell: ring the door") rung = 1;
            MC_STEP("tell: futex_wake") asleep = 0;
        }
        MC_STEP("tell: push on the completion ring") f.seen = entry != 0;
        if (!f.seen) {
            entry = n + 1;
        } else if (!is(no_rescan)) {
            MC_STEP("tell: it is full: rescan = 1") rescan = 1;
        }
        if (!is(door_before_push)) {
            MC_STEP("tell: ring the door") rung = 1;
            MC_STEP("tell: futex_wake") asleep = 0;
        }
        MC_END
    }
    Ran fire(int me, Frame& f, int s) {
        MC_BEGIN(f)
        for (;;) {
            MC_STEP("fire: load watch") f.n = slot[s].watch & index_;
            if (!f.n) MC_RETURN;
            f.n--;
            if (!is(no_intent)) {
                MC_STEP("fire: op = FIRE(slot, node)") op_node[s] = f.n + 1;
            }
            MC_STEP("fire: head = link") slot[s].watch = closed | node[f.n].link;
            MC_STEP("fire: node = fired") node[f.n].state = FIRED;
            MC_CALL(tell(tell_[me], f.n));
            MC_STEP("fire: op = 0") op_node[s] = 0;
        }
        MC_END
    }
    Frame tell_[processes];
    Ran seal(int me, Frame& f, int s) {
        MC_BEGIN(f)
        MC_STEP("seal: state = SEALED") slot[s].state = SEALED;
        MC_STEP("seal: close the watch") slot[s].watch |= closed;
        MC_CALL(fire(me, fire_[me], s));
        MC_END
    }

    // A node comes free when it has fired *and* its slot has been looked at: else the slot would be
    // forgotten.
    bool is_free(int n) const {
        bool is_watched = watched[0] == n + 1 || watched[1] == n + 1 || watched[2] == n + 1;
        return node[n].state != LINKED && (!is_watched || is(reused_early));
    }
    // Links a free node on slot s. A slot that is CLOSED is ready.
    Ran link(Frame& f, int s) {
        MC_BEGIN(f)
        for (f.n = 0; !is_free(f.n);) f.n++;
        for (;;) {
            MC_STEP("wait: load watch") f.w = slot[s].watch;
            if (f.w & closed) break;
            MC_STEP("wait: write the node") node[f.n] = {LINKED, f.w, uint8_t(s)};
            MC_STEP("wait: swap watch")
            if (slot[s].watch == f.w) {
                slot[s].watch = f.n + 1;
                watched[s] = f.n + 1;
                MC_RETURN;
            }
        }
        ready[s] = 1;
        if (node[f.n].slot == s) node[f.n].state = FREE;
        MC_END
    }
    Ran look(Frame& f, int s) {
        MC_BEGIN(f)
        if (!watched[s]) MC_RETURN;
        MC_STEP("wait: look at the slot") f.seen = slot[s].state == SEALED || is(believe_entry);
        if (f.seen) ready[s] = 1, watched[s] = 0;
        MC_END
    }
    Ran drain(Frame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_STEP("wait: pop the completion ring") f.n = entry, entry = 0;
            if (!f.n) break;
            MC_CALL(look(look_, node[f.n - 1].slot));
        }
        MC_STEP("wait: swap rescan to 0") f.seen = rescan, rescan = 0;
        if (f.seen)
            for (f.i = 0; f.i < slots; f.i++) MC_CALL(look(look_, f.i));
        MC_END
    }
    Frame look_, drain_;
        Ran waiter(Frame& f) {
        MC_BEGIN(f)
        MC_CALL(link(fire_[WAITER], 0));
        MC_CALL(link(fire_[WAITER], 1));
        for (;;) {
            if (!is(note_after_drain)) {
                MC_STEP("wait: note the door") rung = 0;
            }
            MC_CALL(drain(drain_));
            if (ready[0] && ready[1] && ready[2]) MC_RETURN;
            if ((ready[0] || ready[1]) && !ready[2] && !watched[2] && (is_free(0) || is_free(1))) {
                MC_CALL(link(fire_[WAITER], 2));
                continue;
            }
            if (is(note_after_drain)) {
                MC_STEP("wait: note the door") rung = 0;
            }
            MC_STEP("wait: futex_wait") asleep = !rung;
            MC_WAIT(!asleep, "wait: awake")
        }
        MC_END
    }
    int next_dead() const {
        for (int p = S0; p <= S2; p++)
            if (dead[p] && !repaired[p]) return p;
        return DAEMON;
    }
    Ran daemon(Frame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT(next_dead() != DAEMON, "a pidfd says: dead")
            f.i = next_dead();
            if (op_node[f.i]) {
                f.n = op_node[f.i] - 1;
                MC_STEP("repair: is the node still the head?")
                if ((slot[f.i].watch & index_) != f.n + 1 && !is(not_told_again)) {
                    if (node[f.n].slot == f.i && node[f.n].state == LINKED &&
                        !is(popped_not_marked)) {
                        MC_STEP("repair: popped: node = fired") node[f.n].state = FIRED;
                    }
                    MC_CALL(tell(tell_[DAEMON], f.n));
                }
                op_node[f.i] = 0, f.n = 0;
            }
            MC_CALL(seal(DAEMON, sub_, f.i));
            // Every door is rung after a death.
            MC_STEP("repair: ring the door") rung = 1;
            MC_STEP("repair: futex_wake") asleep = 0;
            repaired[f.i] = 1, f.i = 0;
        }
        MC_END
    }
    Frame sub_;

    Ran step(int p) {
        if (finished[p]) return Ran::blocked;
        Ran ran = p == WAITER   ? waiter(main_[p])
                  : p == DAEMON ? daemon(main_[p])
                                : seal(p, main_[p], p);
        if (ran == Ran::done) finished[p] = 1, ran = Ran::more;
        return ran;
    }
    bool may_die(int p) const {
        return p <= S2 && !dead[p] && !finished[p] && deaths < config.deaths;
    }
    void die(int p) {
        dead[p] = finished[p] = 1, deaths++;
        main_[p] = fire_[p] = tell_[p] = {};
    }
    const char* wrong_now() const {
        int linked = 0;
        for (int s = 0; s < slots; s++) {
            if (ready[s] && slot[s].state != SEALED)
                return "the waiter believes in a slot that is not sealed";
            for (int n = slot[s].watch & index_, k = 0; n && k < 4; n = node[n - 1].link, k++) {
                if (node[n - 1].slot != s)
                    return "a node is in the list of a slot that it was not linked for";
                linked++;
            }
        }
        return linked > nodes ? "a node is linked twice" : nullptr;
    }
    const char* wrong_at_end() const {
        for (int p = S0; p <= S2; p++)
            if (dead[p] && !repaired[p]) return "a dead process was not repaired";
        for (const auto& n : node)
            if (n.state == LINKED) return "all is sealed, and a node is lost";
        return finished[WAITER] ? nullptr : "all is sealed and the waiter sleeps for ever";
    }
    static Model start() {
        Model m;
        memset(static_cast<void*>(&m), 0, sizeof m);
        for (int p = 0; p < actors; p++) m.step(p);
        return m;
    }
};

}  // namespace

int main(int argc, char** argv) {
    mc::Report report("completions", argc, argv);
    config.deaths = report.number(0, 1);
    auto run = [&](const char* name, Broken broken) {
        config.broken = broken;
        report.variant(name, broken != right, 1, [&](int) { return Model::start(); });
    };
    run("the protocol", right);
    run("no rescan flag", no_rescan);
    run("the door is rung before the push", door_before_push);
    run("the waiter notes the door after it has drained", note_after_drain);
    run("the waiter believes an entry", believe_entry);
    run("a fired node is used again before its slot was looked at", reused_early);
    run("a popped node is not told again after a death", not_told_again);
    run("a popped node is not marked after a death", popped_not_marked);
    run("no intent", no_intent);
    return report.exit_status();
}
