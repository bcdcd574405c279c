// Sealing the results of a task: a worker writes two return values and may die anywhere; the daemon
// requeues the task or finishes the publishing; another worker may run the second attempt; a getter
// sleeps on the slots.
//
//     claim   RUNNING(attempt, worker) -> DONE(worker)     the one commit of all returns
//     state   PENDING | WAITERS -> SEALED                  one word per slot, also the futex
//     value   written before DONE by whoever has the RUNNING claim, and by nobody else
//
//     finish:   write value 0, value 1;  claim = DONE
//               for each slot: old = exchange(state, SEALED); WAITERS? wake
//     repair:   RUNNING(dead) -> QUEUED(attempt + 1)
//               DONE(dead) -> publish again, and wake unconditionally: an exchange that the dead
//               made has eaten the WAITERS bit
//
// Invariants: what a getter has read never changes; both values are of one attempt; the getter does
// not sleep for ever.
//
// Command line: [deaths = 2]
#include "checker.hpp"

using mc::Ran;

namespace {

enum Broken { right, slot_by_slot, wake_if_waiters, write_after_done, no_futex_check };
struct Config {
    Broken broken = right;
    int deaths = 1;
} config;
bool is(Broken b) { return config.broken == b; }

enum { FIRST, SECOND, GETTER, DAEMON, processes };
constexpr int slots = 2;
enum Claim : uint8_t { RUNNING, QUEUED, DONE };
enum State : uint8_t { PENDING = 0, SEALED = 1, WAITERS = 2 };

struct Frame {
    uint8_t pc, slot, old;
};

struct Model {
    static constexpr int actors = processes;
    uint8_t claim, by, attempt;
    uint8_t state[slots], value[slots];  // value: the attempt that wrote it
    uint8_t asleep, read[slots];
    uint8_t running[2];
    Frame main_[processes], publish_[processes];
    uint8_t finished[processes], dead[2], repaired[2], deaths;

    static const char* actor_name(int p) {
        static const char* const names[] = {"worker 1", "worker 2", "getter", "daemon"};
        return names[p];
    }

    Ran publish(Frame& f, bool repair) {
        MC_BEGIN(f)
        for (f.slot = 0; f.slot < slots; f.slot++) {
            MC_STEP("publish: exchange the state") f.old = state[f.slot], state[f.slot] = SEALED;
            if (f.old & WAITERS || (repair && !is(wake_if_waiters))) {
                MC_STEP("publish: futex_wake") asleep = 0;
            }
        }
        MC_END
    }
    Ran finish(int me, Frame& f) {
        MC_BEGIN(f)
        if (is(slot_by_slot)) {
            for (f.slot = 0; f.slot < slots; f.slot++) {
                MC_STEP("finish: is the slot sealed already?") f.old = state[f.slot] & SEALED;
                if (f.old) continue;
                MC_STEP("finish: write the value") value[f.slot] = attempt;
                MC_STEP("finish: swap PENDING -> SEALED")
                f.old = state[f.slot];
                state[f.slot] = SEALED;
                if (f.old & WAITERS) {
                    MC_STEP("finish: futex_wake") asleep = 0;
                }
            }
            MC_STEP("finish: claim = DONE") claim = DONE;
        } else if (is(write_after_done)) {
            MC_STEP("finish: claim = DONE") claim = DONE;
            for (f.slot = 0; f.slot < slots; f.slot++) {
                MC_STEP("finish: write the value") value[f.slot] = attempt;
            }
            MC_CALL(publish(publish_[me], false));
        } else {
            for (f.slot = 0; f.slot < slots; f.slot++) {
                MC_STEP("finish: write the value") value[f.slot] = attempt;
            }
            MC_STEP("finish: claim = DONE (commit)") claim = DONE;
            MC_CALL(publish(publish_[me], false));
        }
        MC_STEP("finish: running.pop()") running[me] = 0;
        MC_END
    }
    Ran second(Frame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT(claim == QUEUED && !dead[SECOND], "take: running.push(task)")
            running[SECOND] = 1;
            MC_STEP("take: swap QUEUED -> RUNNING") claim = RUNNING, by = SECOND;
            MC_CALL(finish(SECOND, finish_));
        }
        MC_END
    }
    Frame finish_;
    Ran get(Frame& f) {
        MC_BEGIN(f)
        for (f.slot = 0; f.slot < slots; f.slot++) {
            for (;;) {
                MC_STEP("get: look at the state") f.old = state[f.slot];
                if (f.old & SEALED) break;
                if (f.old == PENDING) {
                    MC_STEP("get: swap PENDING -> PENDING | WAITERS")
                    if (state[f.slot] != PENDING) continue;
                    state[f.slot] = WAITERS;
                }
                MC_STEP("get: futex_wait") asleep = state[f.slot] == WAITERS || is(no_futex_check);
                MC_WAIT(!asleep, "get: awake")
            }
            MC_STEP("get: read the value") read[f.slot] = value[f.slot];
            f.old = 0;
        }
        MC_END
    }
    Ran repair(Frame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT((dead[FIRST] && !repaired[FIRST]) || (dead[SECOND] && !repaired[SECOND]),
                    "a pidfd says: dead")
            f.slot = dead[FIRST] && !repaired[FIRST] ? FIRST : SECOND;
            if (running[f.slot] && by == f.slot) {
                MC_STEP("repair: look at the claim") f.old = claim;
                if (f.old == RUNNING) {
                    MC_STEP("repair: RUNNING -> QUEUED(attempt + 1)")
                    claim = QUEUED, attempt++, by = DAEMON;
                } else if (f.old == DONE && !is(slot_by_slot)) {
                    MC_CALL(publish(publish_[DAEMON], true));
                }
            }
            if (is(slot_by_slot)) asleep = 0;
            repaired[f.slot] = 1, running[f.slot] = 0;
            if (f.slot == SECOND) {  // somebody must run it: the second worker is started anew
                dead[SECOND] = repaired[SECOND] = finished[SECOND] = 0;
                second(main_[SECOND]);
            }
            f.slot = f.old = 0;
        }
        MC_END
    }

    Ran step(int p) {
        if (finished[p]) return Ran::blocked;
        Ran ran = p == FIRST ? finish(p, main_[p]) : p == SECOND ? second(main_[p])
                  : p == GETTER ? get(main_[p]) : repair(main_[p]);
        if (ran == Ran::done) finished[p] = 1, ran = Ran::more;
        return ran;
    }
    bool may_die(int p) const {
        return p <= SECOND && !dead[p] && !finished[p] && deaths < config.deaths;
    }
    void die(int p) {
        dead[p] = finished[p] = 1, deaths++;
        main_[p] = publish_[p] = {};
        if (p == SECOND) finish_ = {};
    }
    const char* wrong_now() const {
        for (int s = 0; s < slots; s++)
            if (read[s] && read[s] != value[s]) return "a value that was read has changed";
        return nullptr;
    }
    const char* wrong_at_end() const {
        if (!finished[GETTER]) return "the getter sleeps for ever";
        if (read[0] != read[1]) return "the values are of two attempts";
        return read[0] ? nullptr : "a value was read that nobody has written";
    }
    static Model start() {
        Model m;
        memset(static_cast<void*>(&m), 0, sizeof m);
        m.claim = RUNNING, m.by = FIRST, m.attempt = 1, m.running[FIRST] = 1;
        for (int p = 0; p < actors; p++) m.step(p);
        return m;
    }
};

}  // namespace

int main(int argc, char** argv) {
    mc::Report report("seal", argc, argv);
    config.deaths = report.number(0, 2);
    auto run = [&](const char* name, Broken broken) {
        config.broken = broken;
        report.variant(name, broken != right, 1, [&](int) { return Model::start(); });
    };
    run("the protocol", right);
    run("each slot is sealed by itself, then DONE", slot_by_slot);
    run("repair wakes only if it sees WAITERS", wake_if_waiters);
    run("the values are written after DONE", write_after_done);
    run("futex_wait does not compare", no_futex_check);
    return report.exit_status();
}
