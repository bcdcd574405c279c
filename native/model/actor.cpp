// The queue of an actor: calls keep their order over a restart, and none is forgotten when the
// actor ends for good.
//
//     ring    calls in the order of their pushes
//     claim   QUEUED -> RUNNING -> DONE, or FAILED                 one word per call
//     redo    one word: the call that was running when the worker died; taken before the ring
//     dead    one word: nobody will take from this queue any more
//
//     take:    redo: claim it, redo = 0;  else the head of the ring: claim it, remove the entry
//     push:    claim = QUEUED; the ring; [fence] dead? ring the daemon
//     death:   restarts left: RUNNING -> QUEUED, redo = it, new worker
//              none left:     dead = 1; [fence] fail redo and all that is in the ring
//     late:    rung by a caller, or after any death: fail what is in the rings of dead queues
//
// Caller and daemon each write first and look second, so either the caller sees `dead` or the drain
// sees the entry. A caller that dies between its push and its look is seen by the daemon, which
// then drains again. The redo word may name the call already (its worker claimed it from there and
// died before it wrote 0).
//
// Invariants: a call begins only when the earlier calls of its caller have ended; at the end every
// call whose push was begun has ended.
//
// Command line: [deaths = 2] [restarts: both 0 and 2 by default]
#include "checker.hpp"

using mc::Ran;

namespace {

enum Broken {
    right, caller_does_not_look, caller_looks_first, drain_first, redo_at_tail, redo_after_ring,
    no_drain_after_death
};
struct Config {
    Broken broken = right;
    int deaths = 2, restarts = 0;
} config;
bool is(Broken b) { return config.broken == b; }

enum { A, B, WORKER, DAEMON, processes };
constexpr int calls = 3, cells = 6;  // 0 and 1 are A's, 2 is B's
int caller_of(int c) { return c < 2 ? A : B; }
enum Claim : uint8_t { HELD, QUEUED, RUNNING, DONE, FAILED };

struct Frame {
    uint8_t pc, call, at, flag;
};

struct Model {
    static constexpr int actors = processes;
    uint8_t claim[calls], begun[calls];  // begun: its caller's op names it, or named it
    uint8_t ring[cells], head, tail;     // call + 1
    uint8_t redo, is_dead, bell, died;
    uint8_t op[2], running;              // call + 1
    Frame main_[processes], sub_;
    uint8_t finished[processes], dead[processes], repaired[processes], deaths, restarts, fault;

    static const char* actor_name(int p) {
        static const char* const names[] = {"caller A", "caller B", "worker", "daemon"};
        return names[p];
    }
    bool swap(int c, Claim from, Claim to) {
        if (claim[c] != from) return false;
        claim[c] = to;
        for (int before = 0; to == RUNNING && before < c; before++)
            if (caller_of(before) == caller_of(c) && claim[before] != DONE &&
                claim[before] != FAILED)
                fault = 1;
        return true;
    }
    void push(int c) {
        if (tail == cells) fault = 2;
        else ring[tail++] = c + 1;
    }
    void remove(int at) {
        if (head == at) ring[head++] = 0;
    }
    bool is_in_ring(int c) const {
        for (int i = head; i < tail; i++)
            if (ring[i] == c + 1) return true;
        return false;
    }
    Ran caller(int me, Frame& f) {
        MC_BEGIN(f)
        for (f.call = me == A ? 0 : 2; f.call < (me == A ? 2 : 3); f.call++) {
            MC_STEP("push: op = PUSH(call)") op[me] = f.call + 1, begun[f.call] = 1;
            MC_STEP("push: claim = QUEUED") claim[f.call] = QUEUED;
            if (is(caller_looks_first)) {
                MC_STEP("push: is the actor dead?") f.flag = is_dead;
            }
            MC_STEP("push: the ring") push(f.call);
            if (!is(caller_looks_first) && !is(caller_does_not_look)) {
                MC_STEP("push: is the actor dead?") f.flag = is_dead;
            }
            if (f.flag) {
                MC_STEP("push: ring the daemon") bell = 1;
            }
            MC_STEP("push: op = 0") op[me] = 0, f.flag = 0;
        }
        MC_END
    }
    bool has_work() const { return redo || head < tail; }
    Ran worker(Frame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT(has_work(), "take: load redo")
            f.call = is(redo_after_ring) && head < tail ? 0 : redo;
            if (f.call) {
                MC_STEP("take: running = redo") running = f.call;
                MC_STEP("take: swap QUEUED -> RUNNING") f.flag = swap(f.call - 1, QUEUED, RUNNING);
                MC_STEP("take: redo = 0") redo = 0;
            } else {
                MC_STEP("take: load the head") f.at = head, f.call = head < tail ? ring[head] : 0;
                if (!f.call) continue;
                MC_STEP("take: running = the call") running = f.call;
                MC_STEP("take: swap QUEUED -> RUNNING") f.flag = swap(f.call - 1, QUEUED, RUNNING);
                MC_STEP("take: remove the entry") remove(f.at);
                f.at = 0;
            }
            if (f.flag) {
                MC_STEP("the call has ended: DONE") claim[f.call - 1] = DONE;
            }
            MC_STEP("running = 0") running = 0;
            f.call = f.flag = 0;
        }
        MC_END
    }
    Ran drain(Frame& f) {
        MC_BEGIN(f)
        MC_STEP("drain: exchange redo") f.call = redo, redo = 0;
        if (f.call) {
            MC_STEP("drain: swap QUEUED -> FAILED") swap(f.call - 1, QUEUED, FAILED);
        }
        for (;;) {
            MC_STEP("drain: load the head") f.at = head, f.call = head < tail ? ring[head] : 0;
            if (!f.call) break;
            MC_STEP("drain: swap QUEUED -> FAILED") swap(f.call - 1, QUEUED, FAILED);
            MC_STEP("drain: remove the entry") remove(f.at);
        }
        MC_END
    }
    Ran worker_died(Frame& f) {
        MC_BEGIN(f)
        f.call = running;
        if (restarts < config.restarts) {
            if (f.call && claim[f.call - 1] == RUNNING) {
                MC_STEP("restart: RUNNING -> QUEUED") claim[f.call - 1] = QUEUED;
                if (is(redo_at_tail)) {
                    MC_STEP("restart: push it at the tail") push(f.call - 1);
                } else {
                    MC_STEP("restart: redo = the call") redo = f.call;
                }
            }
            MC_STEP("restart: a new worker") running = 0;
            restarts++, dead[WORKER] = finished[WORKER] = 0;
            worker(main_[WORKER]);
        } else {
            if (f.call && claim[f.call - 1] == RUNNING) {
                MC_STEP("end: RUNNING -> FAILED") claim[f.call - 1] = FAILED;
            }
            if (is(drain_first)) MC_CALL(drain(sub_));
            MC_STEP("end: dead = 1") is_dead = 1;
            if (!is(drain_first)) MC_CALL(drain(sub_));
            running = 0, repaired[WORKER] = 1;
        }
        MC_END
    }
    Frame worker_died_;
    Ran daemon(Frame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT(bell || died, "awake: a ring, or a pidfd")
            f.flag = bell, bell = died = 0;
            for (f.call = A; f.call <= B; f.call++) {
                if (!dead[f.call] || repaired[f.call]) continue;
                f.flag |= !is(no_drain_after_death);
                if (op[f.call]) {
                    MC_STEP("repair: claim HELD? QUEUED") swap(op[f.call] - 1, HELD, QUEUED);
                    MC_STEP("repair: QUEUED and not in the ring? push")
                    if (claim[op[f.call] - 1] == QUEUED && !is_in_ring(op[f.call] - 1))
                        push(op[f.call] - 1);
                }
                op[f.call] = 0, repaired[f.call] = 1;
            }
            if (dead[WORKER] && !repaired[WORKER]) MC_CALL(worker_died(worker_died_));
            if (is_dead && f.flag) MC_CALL(drain(sub_));
            f.call = f.flag = 0;
        }
        MC_END
    }

    Ran step(int p) {
        if (finished[p]) return Ran::blocked;
        Ran ran = p == DAEMON   ? daemon(main_[p])
                  : p == WORKER ? worker(main_[p])
                                : caller(p, main_[p]);
        if (ran == Ran::done) finished[p] = 1, ran = Ran::more;
        return ran;
    }
    bool may_die(int p) const {
        return p != DAEMON && !dead[p] && !finished[p] && deaths < config.deaths;
    }
    void die(int p) {
        dead[p] = finished[p] = 1, deaths++, died = 1;
        main_[p] = {};
    }
    const char* wrong_now() const {
        if (fault == 2) return "the ring of the model is too small";
        return fault ? "a call began before an earlier one of its caller had ended" : nullptr;
    }
    const char* wrong_at_end() const {
        for (int c = 0; c < calls; c++)
            if (begun[c] && claim[c] != DONE && claim[c] != FAILED) return "a call never ends";
        return nullptr;
    }
    static Model start(int n_restarts) {
        config.restarts = n_restarts;
        Model m;
        memset(static_cast<void*>(&m), 0, sizeof m);
        for (int p = 0; p < actors; p++) m.step(p);
        return m;
    }
};

}  // namespace

int main(int argc, char** argv) {
    mc::Report report("actor", argc, argv);
    config.deaths = report.number(0, 2);
    int only = report.number(1, -1);
    auto run = [&](const char* name, Broken broken) {
        config.broken = broken;
        report.variant(name, broken != right, only < 0 ? 2 : 1,
                       [&](int s) { return Model::start(only < 0 ? 2 * s : only); });
    };
    run("the protocol", right);
    run("the caller does not look at dead", caller_does_not_look);
    run("the caller looks at dead before it pushes", caller_looks_first);
    run("the daemon drains before it sets dead", drain_first);
    run("the interrupted call is put at the tail", redo_at_tail);
    run("redo is looked at after the ring", redo_after_ring);
    run("dead queues are not drained after the death of a caller", no_drain_after_death);
    return report.exit_status();
}
