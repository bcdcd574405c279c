// Failing what waits in a queue that lives on, while workers take from it and callers push to it.
//
//     claim   QUEUED -> RUNNING(worker) -> DONE, or QUEUED -> RUNNING(daemon) -> DONE     per task
//     ring    entries in the order of their pushes
//     redo    one word: an interrupted call that goes before the ring
//
//     take:   redo: swap its claim, redo = 0;  else the head of the ring: swap its claim, remove it
//     run:    write the value; claim = DONE (a store: whoever runs it is alone)
//     fail:   swap QUEUED -> RUNNING(daemon), write the error, claim = DONE
//     daemon: swap redo to 0, fail it; count the entries; that often: the head: QUEUED? fail it;
//             remove the entry
//
// Between the look at the claim and the swap a worker may take the task. What a living worker runs
// must then be left to it: only of the dead's the daemon may take RUNNING.
//
// Invariants: a task ends once, and nobody writes a result into one that is not his; no more is
// failed than was there when it counted; when it has ended, nothing of what was there when it began
// is QUEUED; at the end all have ended.
//
// Command line: [tasks that are pushed meanwhile = 1, at most 2]
#include "checker.hpp"

using mc::Ran;

namespace {

enum Broken { right, takes_running, no_swap, unbounded, redo_left };
struct Config {
    Broken broken = right;
    int pushed = 1;
} config;
bool is(Broken b) { return config.broken == b; }

constexpr int workers = 2, at_first = 3, most = 5;  // task 0 is the redo word's
enum { W0, W1, SUBMITTER, DAEMON, processes };
enum Claim : uint8_t { NONE, QUEUED, RUNNING, DONE };

struct Task {
    uint8_t claim, by, ended, in_ring;
};
struct Frame {
    uint8_t pc, task, seen, by, left;
};

struct Model {
    static constexpr int actors = processes;
    Task task[most];
    uint8_t redo, failed, allowed, fault;  // redo: task + 1
    Frame main_[processes], sub_[processes];
    uint8_t finished[processes];

    static const char* actor_name(int p) {
        static const char* const names[] = {"worker 0", "worker 1", "submitter", "daemon"};
        return names[p];
    }
    int first() const {
        for (int t = 1; t < most; t++)
            if (task[t].in_ring) return t;
        return most;
    }
    uint8_t entries() const {
        uint8_t n = 0;
        for (const Task& t : task) n += t.in_ring;
        return n;
    }
    void write(int me, int t) {
        if (task[t].claim != RUNNING || task[t].by != me) fault = 1;
    }
    void end(int t) {
        task[t].claim = DONE;
        if (++task[t].ended > 1) fault = 2;
    }
    Ran run(int me, Frame& f) {
        MC_BEGIN(f)
        MC_STEP("run: swap QUEUED -> RUNNING") f.seen = task[f.task].claim == QUEUED;
        if (!f.seen) MC_RETURN;
        task[f.task].claim = RUNNING, task[f.task].by = me;
        main_[me].seen = 1;
        MC_STEP("run: write the value") write(me, f.task);
        MC_STEP("run: claim = DONE") end(f.task);
        MC_END
    }
    Ran work(int me, Frame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT(redo || first() < most, "take: is there something? look at redo")
            f.task = redo ? redo - 1 : most;
            if (f.task == most) {
                MC_STEP("take: look at the ring") f.task = first();
                if (f.task == most) {
                    f.task = 0;
                    continue;
                }
            } else {
                f.left = 1;
            }
            sub_[me].task = f.task, f.seen = 0;
            MC_CALL(run(me, sub_[me]));
            if (f.left) {
                MC_STEP("take: redo = 0") redo = 0;
            } else {
                MC_STEP("take: remove the entry") task[f.task].in_ring = 0;
            }
            f.task = f.left = f.seen = 0;
        }
        MC_END
    }
    Ran submit(Frame& f) {
        MC_BEGIN(f)
        for (f.task = at_first; f.task < at_first + config.pushed; f.task++) {
            MC_STEP("push: QUEUED") task[f.task].claim = QUEUED;
            MC_STEP("push: into the ring") task[f.task].in_ring = 1;
        }
        MC_END
    }
    Ran fail(Frame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_STEP("fail: load the claim") f.seen = task[f.task].claim, f.by = task[f.task].by;
            if (f.seen != QUEUED && !(f.seen == RUNNING && is(takes_running))) MC_RETURN;
            MC_STEP("fail: swap it to RUNNING by the daemon")
            if (!is(no_swap) && (task[f.task].claim != f.seen || task[f.task].by != f.by)) continue;
            task[f.task].claim = RUNNING, task[f.task].by = DAEMON;
            break;
        }
        MC_STEP("fail: write the error") write(DAEMON, f.task);
        MC_STEP("fail: claim = DONE") end(f.task), failed++;
        MC_END
    }
    Ran daemon(Frame& f) {
        MC_BEGIN(f)
        if (!is(redo_left)) {
            MC_STEP("swap redo to 0") f.task = redo, redo = 0;
            if (f.task) {
                sub_[DAEMON].task = f.task - 1;
                MC_CALL(fail(sub_[DAEMON]));
            }
        }
        MC_STEP("count the entries") f.left = entries(), allowed = failed + f.left;
        while (f.left > 0) {
            MC_STEP("look at the head") f.task = first();
            if (f.task == most) break;
            MC_STEP("is it QUEUED?") f.seen = task[f.task].claim == QUEUED;
            if (f.seen) {
                sub_[DAEMON].task = f.task;
                MC_CALL(fail(sub_[DAEMON]));
            }
            MC_STEP("remove the entry") task[f.task].in_ring = 0;
            f.left -= !is(unbounded);
        }
        for (f.task = 0; f.task < at_first; f.task++)
            if (task[f.task].claim == QUEUED) fault = 3;
        MC_END
    }
    Ran step(int p) {
        if (finished[p]) return Ran::blocked;
        Ran ran = p < workers      ? work(p, main_[p])
                  : p == SUBMITTER ? submit(main_[p])
                                   : daemon(main_[p]);
        if (ran == Ran::done) finished[p] = 1, ran = Ran::more;
        return ran;
    }
    bool may_die(int) const { return false; }
    void die(int) {}
    const char* wrong_now() const {
        if (fault == 1) return "a result is written into a task that is somebody else's";
        if (fault == 2) return "a task ended twice";
        if (fault == 3) return "something that was there is QUEUED still";
        return allowed && failed > allowed ? "more failed than was there" : nullptr;
    }
    const char* wrong_at_end() const {
        for (int t = 0; t < at_first + config.pushed; t++)
            if (task[t].claim != DONE) return "a task that never ends";
        return nullptr;
    }
    static Model start() {
        Model m;
        memset(static_cast<void*>(&m), 0, sizeof m);
        for (int t = 0; t < at_first; t++) m.task[t] = {QUEUED, 0, 0, uint8_t(t > 0)};
        m.redo = 1;
        for (int p = 0; p < actors; p++) m.step(p);
        return m;
    }
};

}  // namespace

int main(int argc, char** argv) {
    mc::Report report("failing", argc, argv);
    config.pushed = report.number(0, 1);
    auto run = [&](const char* name, Broken broken) {
        config.broken = broken;
        report.variant(name, broken != right, 1, [](int) { return Model::start(); });
    };
    run("the protocol", right);
    run("what a living worker runs is failed too", takes_running);
    run("the claim is stored, not swapped", no_swap);
    run("it goes on while there are entries", unbounded);
    run("the redo word is not looked at", redo_left);
    return report.exit_status();
}
