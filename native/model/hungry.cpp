// When the daemon is told, and when it is not: hungry, starving, assign.
//
//     hungry[q]    the daemon could attach more workers to q: a push that finds no idle worker
//                  swaps it to 0 and rings the daemon
//     starving     some queue waits for a CPU: a worker that goes idle or blocks swaps it to 0 and
//                  rings the daemon
//     searching[q] a worker promises to look at q: pushes wake and ring nobody meanwhile. It is
//                  made before looking, and ended before sleeping
//     assign[w]    the queue that the daemon wants w to serve
//     attached[w]  the one it serves, written by w; also by w: idle, blocked
//
// The daemon sleeps on an eventfd and is level-triggered: a ring says "look", never "what". It
// looks at every queue, then sets hungry or starving, and *looks once more*; the other side writes
// its own word (the entry, the idle bit, `blocked`) first and looks at hungry or starving second.
// So one of the two sees the other. A worker that leaves a queue looks at it once more, since a
// push may just have rung it for the queue that it leaves. A worker that blocks also looks at
// assign: if the daemon has moved it meanwhile (it was idle for a moment), the daemon counts on a
// worker that will not come.
//
//     one CPU per worker that is attached and not blocked; a blocked one lends its CPU
//
// Scenarios: 0  two tasks that never end, one queue, two CPUs: the second needs a second worker
//            1  two queues, one CPU, tasks end: the worker must go from one queue to the other
//            2  two queues, one CPU, the first task waits for the second one: its CPU must be lent
//
// Invariant: at the end no task is QUEUED that the daemon could have run (nobody may die while it
// is told: then the daemon looks anyway, and rings all doors).
//
// Command line: [deaths = 1] [scenario, all by default]
#include "checker.hpp"

using mc::Ran;

namespace {

enum Broken {
    right, no_hungry_recheck, no_starving_recheck, idle_silently, block_silently,
    leave_silently, look_before_idle, no_look_on_death, no_chain, assign_not_looked_at,
    keeps_promise
};
struct Config {
    Broken broken = right;
    int deaths = 1, scenario = 0;
} config;
bool is(Broken b) { return config.broken == b; }

constexpr int workers = 2, queues = 2, tasks = 2, scenarios = 3;
enum { W0, W1, SUBMITTER, DAEMON, processes };
int cpus() { return config.scenario == 0 ? 2 : 1; }
int queue_of(int t) { return config.scenario == 0 ? 0 : t; }
bool never_ends(int) { return config.scenario == 0; }
bool waits(int t) { return config.scenario == 2 && t == 0; }

enum Claim : uint8_t { NONE, QUEUED, RUNNING, DONE };

struct Worker {
    uint8_t assign, attached, idle, blocked, rung, asleep,
        task, promised;  // assign, attached, idle, promised: queue + 1
};
struct Frame {
    uint8_t pc, q, w, t, flag;
};

struct Model {
    static constexpr int actors = processes;
    uint8_t claim[tasks], by[tasks];
    Worker worker[workers];
    uint8_t hungry[queues], searching[queues], starving, bell;
    Frame main_[processes], sub_[processes];
    uint8_t finished[processes], dead[processes], deaths, died;

    static const char* actor_name(int p) {
        static const char* const names[] = {"worker 0", "worker 1", "submitter", "daemon"};
        return names[p];
    }
    bool has_work(int q) const {
        for (int t = 0; t < tasks; t++)
            if (claim[t] == QUEUED && queue_of(t) == q) return true;
        return false;
    }
    int idle_worker(int q) const {
        for (int w = 0; w < workers; w++)
            if (worker[w].idle == q + 1) return w;
        return workers;
    }
    void ring(int w) { worker[w].rung = 1, worker[w].asleep = 0; }

    // After a push, and after a take that leaves work behind.
    Ran wake(Frame& f, int q) {
        MC_BEGIN(f)
        MC_STEP("wake: does somebody promise to look?")
        if (searching[q]) MC_RETURN;
        for (;;) {
            MC_STEP("wake: load the idle bits") f.w = idle_worker(q);
            if (f.w == workers) break;
            MC_STEP("wake: clear an idle bit") f.flag = worker[f.w].idle == q + 1;
            if (!f.flag) continue;
            worker[f.w].idle = 0;
            MC_STEP("wake: ring its door") ring(f.w);
            MC_RETURN;
        }
        MC_STEP("wake: nobody is idle: hungry? swap it to 0") f.flag = hungry[q], hungry[q] = 0;
        if (f.flag) {
            MC_STEP("wake: ring the daemon") bell = 1;
        }
        MC_END
    }
    Ran submit(Frame& f) {
        MC_BEGIN(f)
        for (f.t = 0; f.t < tasks; f.t++) {
            MC_STEP("push: the task is QUEUED") claim[f.t] = QUEUED;
            MC_CALL(wake(sub_[SUBMITTER], queue_of(f.t)));
        }
        MC_END
    }
    Ran tell_if_starving(Frame& f, const Worker& mine) {
        MC_BEGIN(f)
        MC_STEP("starving? swap it to 0") f.flag = starving, starving = 0;
        if (!f.flag && mine.blocked && !is(assign_not_looked_at)) {
            MC_STEP("is it counted on in another queue?") f.flag = mine.assign != mine.attached;
        }
        if (f.flag) {
            MC_STEP("ring the daemon") bell = 1;
        }
        MC_END
    }
    int first_task(int q) const {
        for (int t = 0; t < tasks; t++)
            if (claim[t] == QUEUED && queue_of(t) == q - 1) return t;
        return tasks;
    }
    Ran work(int me, Frame& f) {
        Worker& mine = worker[me];
        MC_BEGIN(f)
        for (;;) {
            MC_STEP("load assign") f.q = mine.assign;
            if (f.q != mine.attached) {
                if (mine.promised) {
                    MC_STEP("leaving: end the promise")
                    if (searching[mine.promised - 1] == me + 1) searching[mine.promised - 1] = 0;
                    mine.promised = 0;
                }
                if (mine.attached && !is(leave_silently)) {
                    MC_STEP("leaving: has something come, and nobody been told?")
                    f.flag = has_work(mine.attached - 1);
                    if (f.flag) MC_CALL(wake(sub_[me], mine.attached - 1));
                }
                MC_STEP("attached = assign") mine.attached = f.q;
                MC_STEP("left for nothing, or does somebody starve?") f.flag = !f.q || starving;
                if (f.flag) {
                    MC_STEP("left a queue: ring the daemon") bell = 1;
                }
            }
            if (f.q) {
                MC_STEP("take: claim the first task (running names it)") f.t = first_task(f.q);
                if (f.t < tasks) {
                    claim[f.t] = RUNNING, by[f.t] = me, mine.task = f.t + 1;
                    MC_STEP("take: nobody searches now") searching[f.q - 1] = 0, mine.promised = 0;
                    if (!is(no_chain)) {
                        MC_STEP("take: is there more?") f.flag = has_work(f.q - 1);
                        if (f.flag) MC_CALL(wake(sub_[me], f.q - 1));
                    }
                    if (never_ends(f.t)) MC_RETURN;
                    if (waits(f.t)) {
                        MC_STEP("the task waits: blocked = 1") mine.blocked = 1;
                        if (!is(block_silently)) MC_CALL(tell_if_starving(sub_[me], mine));
                        MC_WAIT(claim[1] == DONE, "what it waits for is there: blocked = 0")
                        mine.blocked = 0;
                    }
                    MC_STEP("the task ends") claim[f.t] = DONE, mine.task = 0;
                    f.t = f.q = f.flag = 0;
                    continue;
                }
            }
            f.t = 0;
            if (f.q) {
                if (!mine.promised) {
                    MC_STEP("search: nobody promises? then I do") f.flag = !searching[f.q - 1];
                    if (f.flag) searching[f.q - 1] = me + 1, mine.promised = f.q;
                }
                if (mine.promised) {
                    MC_STEP("search: look at the queue, and at assign")
                    f.flag = has_work(f.q - 1) || mine.assign != f.q;
                    if (f.flag) {
                        f.q = f.flag = 0;
                        continue;
                    }
                    if (!is(keeps_promise)) {
                        MC_STEP("search: end the promise")
                        if (searching[f.q - 1] == me + 1) searching[f.q - 1] = 0;
                    }
                    mine.promised = 0;
                }
            }
            if (is(look_before_idle)) MC_CALL(tell_if_starving(sub_[me], mine));
            MC_STEP("idle: note the door") mine.rung = 0;  // rung: the door is not what was noted
            MC_STEP("idle: set the idle bit") mine.idle = f.q;
            MC_STEP("idle: look at the queue once more") f.flag = f.q && has_work(f.q - 1);
            if (!f.flag) {
                MC_STEP("idle: look at assign once more") f.flag = mine.assign != f.q;
            }
            if (!f.flag) {
                if (!is(idle_silently) && !is(look_before_idle))
                    MC_CALL(tell_if_starving(sub_[me], mine));
                MC_STEP("idle: futex_wait") mine.asleep = !mine.rung;
                MC_WAIT(!mine.asleep, "idle: awake")
            }
            MC_STEP("idle: clear the idle bit") mine.idle = 0;
            f.q = f.flag = mine.rung = 0;
        }
        MC_END
    }

    // ---- the daemon. What it has assigned it knows by itself; everything else it reads.
    int cpus_used() const {
        int n = 0;
        for (int w = 0; w < workers; w++) n += !dead[w] && worker[w].assign && !worker[w].blocked;
        return n;
    }
    int free_worker() const {
        for (int w = 0; w < workers; w++)
            if (!dead[w] && !worker[w].assign) return w;
        return workers;
    }
    int servers(int q) const {
        int n = 0;
        for (int w = 0; w < workers; w++)
            n += !dead[w] && worker[w].assign == q + 1 && !worker[w].blocked;
        return n;
    }
    int movable(int q) const {  // an idle worker of another queue
        for (int w = 0; w < workers; w++)
            if (!dead[w] && worker[w].idle && worker[w].assign == worker[w].idle &&
                worker[w].assign != q + 1)
                return w;
        return workers;
    }
    void assign(int w, int q) { worker[w].assign = q + 1; }
    // More workers for q? In scenario 0 one for each task, else one for each queue.
    bool wants_worker(int q) const {
        if (!has_work(q)) return false;
        return config.scenario == 0 ? idle_worker(q) == workers : servers(q) == 0;
    }
    Ran daemon(Frame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT(bell || died, "awake: a ring, or a pidfd")
            bell = 0, f.flag = 0;
            if (died) {
                died = 0;
                for (f.w = 0; f.w < workers; f.w++) {
                    if (!dead[f.w] || is(no_look_on_death)) continue;
                    MC_STEP("repair: RUNNING by the dead -> QUEUED; its words are 0")
                    if (worker[f.w].task && claim[worker[f.w].task - 1] == RUNNING)
                        claim[worker[f.w].task - 1] = QUEUED;
                    worker[f.w] = {};
                    searching[0] = searching[1] = 0;
                }
                for (f.w = 0; f.w < workers; f.w++) {
                    MC_STEP("repair: ring every door") ring(f.w);
                }
                if (is(no_look_on_death)) continue;
            }
            for (f.q = 0; f.q < queues; f.q++) {
                for (;;) {
                    MC_STEP("look: does the queue want a worker?") f.flag = wants_worker(f.q);
                    if (!f.flag) {
                        MC_STEP("look: no, but it could have one later: hungry = 1")
                        hungry[f.q] = 1;
                        if (is(no_hungry_recheck)) break;
                        MC_STEP("look: once more") f.flag = wants_worker(f.q);
                    }
                    if (!f.flag) break;
                    f.w = cpus_used() < cpus() ? free_worker() : workers;
                    if (f.w == workers) {
                        MC_STEP("look: no CPU or no worker: is one idle elsewhere?")
                        f.w = movable(f.q);
                    }
                    if (f.w == workers) {
                        MC_STEP("look: starving = 1") starving = 1;
                        if (is(no_starving_recheck)) break;
                        MC_STEP("look: once more: blocked or idle now?")
                        f.w = cpus_used() < cpus() ? free_worker() : movable(f.q);
                    }
                    if (f.w == workers) break;
                    MC_STEP("assign a worker") assign(f.w, f.q);
                    MC_STEP("ring its door") ring(f.w);
                }
                f.w = 0;
            }
            f.q = f.w = f.flag = 0;
        }
        MC_END
    }

    Ran step(int p) {
        if (finished[p]) return Ran::blocked;
        Ran ran = p == DAEMON   ? daemon(main_[p])
                  : p < workers ? work(p, main_[p])
                                : submit(main_[p]);
        if (ran == Ran::done) finished[p] = 1, ran = Ran::more;
        return ran;
    }
    bool may_die(int p) const {
        if (p == DAEMON || dead[p] || deaths >= config.deaths) return false;
        return p < workers || !finished[p];
    }
    void die(int p) {
        dead[p] = finished[p] = 1, deaths++, died = 1;
        main_[p] = sub_[p] = {};
    }
    const char* wrong_now() const { return nullptr; }
    const char* wrong_at_end() const {
        for (int t = 0; t < tasks; t++) {
            if (claim[t] == RUNNING && dead[by[t]]) return "a task is RUNNING by a dead worker";
            if (claim[t] != QUEUED) continue;
            int free = 0, busy = 0;
            for (int w = 0; w < workers; w++)
                free += !dead[w] && !worker[w].task,
                    busy += !dead[w] && worker[w].task && !worker[w].blocked;
            if (free && busy < cpus())
                return "a task is QUEUED beside a free worker and a free CPU";
        }
        return nullptr;
    }
    static Model start(int scenario) {
        config.scenario = scenario;
        Model m;
        memset(static_cast<void*>(&m), 0, sizeof m);
        m.worker[W0].assign = m.worker[W0].attached = 1;
        m.bell = 1;
        for (int p = 0; p < actors; p++) m.step(p);
        return m;
    }
};

}  // namespace

int main(int argc, char** argv) {
    mc::Report report("hungry", argc, argv);
    config.deaths = report.number(0, 1);
    int only = report.number(1, -1);
    auto run = [&](const char* name, Broken broken, int first = 0) {
        config.broken = broken;
        report.variant(name, broken != right, only < 0 ? scenarios : 1, [&](int s) {
            return Model::start(only < 0 ? (s + first) % scenarios : only);
        });
    };
    run("the protocol", right);
    run("no second look after hungry is set", no_hungry_recheck);
    run("no second look after starving is set", no_starving_recheck, 1);
    run("a take that leaves work behind is silent", no_chain);
    run("a worker goes idle silently", idle_silently, 1);
    run("a worker blocks silently", block_silently, 2);
    run("a worker blocks without looking at assign", assign_not_looked_at, 2);
    run("a worker leaves a queue silently", leave_silently, 1);
    run("a worker looks at starving before it sets its idle bit", look_before_idle, 1);
    run("the daemon does not look after a death", no_look_on_death);
    run("a promise is not ended before sleeping", keeps_promise);
    return report.exit_status();
}
