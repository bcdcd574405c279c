// A process that is stopped, not dead: nobody repairs it, and nobody must wait for it.
//
//     ring        the task, once it is pushed
//     searching   a worker promises to look until a time; pushes wake nobody meanwhile
//     idle        one bit per worker that sleeps or is about to; a push clears one, rings its door
//
// A push counts on one worker: on who has promised, or on the sleeper that it wakes. Should that
// one be stopped just then, the task stands in the ring beside others who sleep, and no death tells
// anybody. So whoever waits for a task that does not run looks now and then whether there is one in
// the ring, and wakes again. A promise is a time, not a flag, so that this is of use. A waker may
// be stopped too, after it has cleared the bit of the sleeper that it chose: so the doors of those
// who sleep without their bit are rung as well.
//
// A stop is for ever here. Looks that could change nothing are left out, so "now and then" is "once
// more, whenever something can be done": a waiter does look for ever, at growing intervals.
//
// Scenarios: 0  three workers, of whom two sleep at first, one task, two stops
//            1  two workers, two tasks, one stop
//
// Invariant: at the end no task stands in the ring beside a worker who sleeps and is not stopped.
//
// Command line: [stops at most = 2]
#include <algorithm>

#include "checker.hpp"

using mc::Ran;

namespace {

enum Broken { right, nobody_doubts, doubts_once, promise_for_ever, trusts_wakers };
struct Config {
    Broken broken = right;
    int workers = 3, tasks = 1, stops = 2, most_stops = 2;
} config;
bool is(Broken b) { return config.broken == b; }

constexpr int most_workers = 3, most_tasks = 2;
enum { W0, W1, W2, SUBMITTER, WAITER, CLOCK, processes };
enum Claim : uint8_t { HELD, QUEUED, RUNNING };

struct Frame {
    uint8_t pc, task, flag, worker, promised;
};

struct Model {
    static constexpr int actors = processes;
    uint8_t claim[most_tasks], by[most_tasks], in_ring[most_tasks];
    uint8_t idle, searching, has_passed;  // searching: worker + 1, until the clock says so
    uint8_t rung[most_workers], asleep[most_workers];
    Frame main_[processes], wake_[processes];
    uint8_t finished[processes], stopped[processes], stops, looks;

    static const char* actor_name(int p) {
        static const char* const names[] = {"worker 0",  "worker 1", "worker 2",
                                            "submitter", "waiter",   "clock"};
        return names[p];
    }
    int first() const {
        for (int t = 0; t < config.tasks; t++)
            if (in_ring[t]) return t;
        return config.tasks;
    }
    bool promise_stands() const { return searching && !has_passed; }

    Ran wake(Frame& f) {
        MC_BEGIN(f)
        MC_STEP("wake: does a promise stand?")
        if (promise_stands()) MC_RETURN;
        for (;;) {
            MC_STEP("wake: load the idle bits")
            if (!idle) MC_RETURN;
            f.worker = idle & 1 ? W0 : idle & 2 ? W1 : W2;
            MC_STEP("wake: clear the lowest bit") f.flag = idle >> f.worker & 1;
            if (!f.flag) continue;
            idle &= ~(1 << f.worker);
            MC_STEP("wake: ring its door") rung[f.worker] = 1;
            MC_STEP("wake: futex_wake") asleep[f.worker] = 0;
            MC_RETURN;
        }
        MC_END
    }
    Ran submit(Frame& f) {
        MC_BEGIN(f)
        for (f.task = 0; f.task < config.tasks; f.task++) {
            MC_STEP("submit: QUEUED") claim[f.task] = QUEUED;
            MC_STEP("submit: into the ring") in_ring[f.task] = 1;
            MC_CALL(wake(wake_[SUBMITTER]));
        }
        MC_END
    }
    Ran work(int me, Frame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_STEP("take: look at the ring") f.task = first();
            if (f.task < config.tasks) {
                MC_STEP("take: swap the claim") f.flag = claim[f.task] == QUEUED;
                if (f.flag) claim[f.task] = RUNNING, by[f.task] = me;
                MC_STEP("take: remove the entry") in_ring[f.task] = 0;
                if (!f.flag) continue;
                MC_STEP("take: nobody searches now") searching = has_passed = 0;
                MC_STEP("take: is there more?") f.flag = first() < config.tasks;
                if (f.flag) MC_CALL(wake(wake_[me]));
                MC_RETURN;  // and runs its task for ever
            }
            f.task = f.flag = 0;
            MC_STEP("search: does no promise stand? then I promise")
            f.promised = !searching || has_passed;
            if (f.promised) {
                searching = me + 1, has_passed = 0;
                MC_STEP("search: look at the ring") f.flag = first() < config.tasks;
                MC_STEP("search: end the promise")
                if (!f.flag && searching == me + 1) searching = has_passed = 0;
                f.promised = 0;
                if (f.flag) {
                    f.flag = 0;
                    continue;
                }
            }
            MC_STEP("idle: note the door") rung[me] = 0;
            MC_STEP("idle: set the idle bit") idle |= 1 << me;
            MC_STEP("idle: look at the ring once more") f.flag = first() < config.tasks;
            if (!f.flag) {
                MC_STEP("idle: futex_wait") asleep[me] = !rung[me];
                MC_WAIT(!asleep[me], "idle: awake")
            }
            f.flag = rung[me] = 0;
            MC_STEP("idle: clear the idle bit") idle &= ~(1 << me);
        }
        MC_END
    }
    bool was_chosen(int w) const { return asleep[w] && !(idle >> w & 1); }
    bool can_help() const {
        if (first() == config.tasks) return false;
        bool chosen = false;
        for (int w = 0; w < config.workers; w++) chosen |= was_chosen(w) && !is(trusts_wakers);
        return chosen || (idle && !promise_stands());
    }
    Ran wait(Frame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT(can_help() && !(is(doubts_once) && looks),
                    "doubt: something is in the ring, somebody is idle")
            if (is(doubts_once)) looks = 1;
            MC_CALL(wake(wake_[WAITER]));
            for (f.worker = 0; f.worker < config.workers && !is(trusts_wakers); f.worker++) {
                MC_STEP("doubt: does it sleep, chosen by somebody?") f.flag = was_chosen(f.worker);
                if (f.flag) {
                    MC_STEP("doubt: ring its door") rung[f.worker] = 1;
                    MC_STEP("doubt: futex_wake") asleep[f.worker] = 0;
                }
            }
            f.worker = f.flag = 0;
        }
        MC_END
    }
    Ran pass(Frame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT(promise_stands() && !is(promise_for_ever), "the time of the promise has passed")
            has_passed = 1;
        }
        MC_END
    }

    Ran step(int p) {
        if (finished[p]) return Ran::blocked;
        Ran ran = p < most_workers      ? work(p, main_[p])
                  : p == SUBMITTER ? submit(main_[p])
                  : p == WAITER    ? wait(main_[p])
                                   : pass(main_[p]);
        if (ran == Ran::done) finished[p] = 1, ran = Ran::more;
        return ran;
    }
    // Not the waiter: if it is stopped, nobody waits.
    bool may_die(int p) const {
        return p <= SUBMITTER && !finished[p] && stops < config.stops;
    }
    void die(int p) {
        finished[p] = stopped[p] = 1, stops++;
        main_[p] = wake_[p] = {};  // what it has written stays: bits, promise, claim
    }
    const char* wrong_now() const {
        for (int t = 0; t < config.tasks; t++)
            if (claim[t] == RUNNING && by[t] >= config.workers) return "nobody runs a RUNNING task";
        return nullptr;
    }
    const char* wrong_at_end() const {
        const int t = first();
        if (t == config.tasks || claim[t] != QUEUED) return nullptr;
        for (int w = 0; w < config.workers; w++)
            if (!stopped[w] && asleep[w]) return "a task stands in the ring beside a sleeper";
        return nullptr;
    }
    static Model start(int scenario) {
        config.workers = scenario ? 2 : 3, config.tasks = scenario ? 2 : 1;
        config.stops = std::min(config.most_stops, scenario ? 1 : 2);
        Model m;
        memset(static_cast<void*>(&m), 0, sizeof m);
        if (is(nobody_doubts)) m.finished[WAITER] = 1;
        for (int p = config.workers; p < most_workers; p++) m.finished[p] = m.stopped[p] = 1;
        if (!scenario)
            while (!m.asleep[W1] || !m.asleep[W2]) m.step(m.asleep[W1] ? W2 : W1);
        for (int p = 0; p < actors; p++) m.step(p);
        return m;
    }
};

}  // namespace

int main(int argc, char** argv) {
    mc::Report report("stopped", argc, argv);
    config.most_stops = report.number(0, 2);
    auto run = [&](const char* name, Broken broken) {
        config.broken = broken;
        report.variant(name, broken != right, 2, Model::start);
    };
    run("the protocol", right);
    run("nobody doubts", nobody_doubts);
    run("who waits doubts once", doubts_once);
    run("a promise is a flag that stays", promise_for_ever);
    run("a sleeper that somebody chose is left to him", trusts_wakers);
    return report.exit_status();
}
