// Tasks that the daemon takes out of a queue for another node, and puts back, beside workers who
// take from it.
//
//     claim   QUEUED(attempt) -> RUNNING(worker | daemon) -> DONE
//             RUNNING(daemon) -> QUEUED(attempt + 1)
//     ring    entries; lending takes a task by its claim and leaves its entry, which is stale then
//
//     take:     an entry; load its claim; not QUEUED: remove the entry; else swap the claim to
//               RUNNING(me), remove the entry
//     lend:     swap the claim QUEUED -> RUNNING(daemon); send it
//     recall:   ask for it back; the answer is "returned" or "runs", and then "ended"
//     put back: swap the claim to QUEUED(a + 1), push an entry        in this order
//     ended:    write the results; claim = DONE (a store: the daemon is alone with it)
//
// Whoever looks at a stale entry removes it, so what is put back needs an entry of its own, and not
// before its claim says QUEUED: else that entry is removed as stale as well.
//
// Invariants: a task runs once, wherever, and ends once; nobody writes results into one that is not
// his; at the end all have ended.
//
// Command line: [workers = 2, at most 2]
#include "checker.hpp"

using mc::Ran;

namespace {

enum Broken { right, no_swap, no_entry, entry_first, no_answer };
struct Config {
    Broken broken = right;
    int workers = 2;
} config;
bool is(Broken b) { return config.broken == b; }

constexpr int tasks = 2;
enum { W0, W1, DAEMON, REMOTE, processes };
enum Claim : uint8_t { QUEUED, RUNNING, DONE };
enum There : uint8_t { NOWHERE, SENT, RUNS, ENDED, RETURNED };

struct Task {
    uint8_t claim, by, attempt, entries, runs, ended, there, recalled;  // entries: bits
};
struct Frame {
    uint8_t pc, task, entry, claim, attempt, won;
};

struct Model {
    static constexpr int actors = processes;
    Task task[tasks];
    uint8_t fault;
    Frame main_[processes];
    uint8_t finished[processes];

    static const char* actor_name(int p) {
        static const char* const names[] = {"worker 0", "worker 1", "daemon", "other node"};
        return names[p];
    }
    int first() const {
        for (int t = 0; t < tasks; t++)
            if (task[t].entries) return t;
        return tasks;
    }
    void begin(int t) {
        if (++task[t].runs > 1) fault = 1;
    }
    void write(int me, int t) {
        if (task[t].claim != RUNNING || task[t].by != me) fault = 2;
    }
    void end(int t) {
        task[t].claim = DONE;
        if (++task[t].ended > 1) fault = 3;
    }
    // By its place in the ring: who comes late removes no later entry of the same task.
    void remove(int t, int entry) { task[t].entries &= ~entry; }

    Ran worker(int me, Frame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT(first() < tasks, "take: the oldest entry")
            f.task = first(), f.entry = task[f.task].entries & -task[f.task].entries;
            MC_STEP("take: load its claim")
            f.claim = task[f.task].claim, f.attempt = task[f.task].attempt;
            if (f.claim == QUEUED) {
                MC_STEP("take: swap QUEUED -> RUNNING (commit)")
                f.won = task[f.task].claim == QUEUED && task[f.task].attempt == f.attempt;
                if (f.won) task[f.task].claim = RUNNING, task[f.task].by = me, begin(f.task);
                if (!f.won) continue;
            }
            MC_STEP("take: remove the entry") remove(f.task, f.entry);
            if (f.claim == QUEUED) {
                MC_STEP("run: write the value") write(me, f.task);
                MC_STEP("run: claim = DONE") end(f.task);
            }
            f = {f.pc, 0, 0, 0, 0, 0};
        }
        MC_END
    }
    Ran daemon(Frame& f) {
        MC_BEGIN(f)
        for (f.task = 0; f.task < tasks; f.task++) {
            MC_STEP("lend: load the claim") f.won = task[f.task].claim == QUEUED;
            if (!f.won) continue;
            MC_STEP("lend: swap QUEUED -> RUNNING by the daemon")
            f.won = task[f.task].claim == QUEUED || is(no_swap);
            if (!f.won) continue;
            task[f.task].claim = RUNNING, task[f.task].by = DAEMON;
            MC_STEP("lend: send it") task[f.task].there = SENT;
            if (f.task == 0) {
                MC_STEP("recall") task[f.task].recalled = 1;
            }
            MC_WAIT(task[f.task].there >= ENDED || (is(no_answer) && f.task == 0), "the answer")
            f.won = task[f.task].there == ENDED;
            if (f.won) {
                MC_STEP("write the results") write(DAEMON, f.task);
                MC_STEP("claim = DONE") end(f.task);
                continue;
            }
            if (is(entry_first)) {
                MC_STEP("put back: push an entry") task[f.task].entries |= 2;
            }
            MC_STEP("put back: swap RUNNING -> QUEUED, another attempt")
            task[f.task].claim = QUEUED, task[f.task].attempt++;
            if (!is(entry_first) && !is(no_entry)) {
                MC_STEP("put back: push an entry") task[f.task].entries |= 2;
            }
        }
        f.task = 0;
        MC_END
    }
    Ran remote(Frame& f) {
        MC_BEGIN(f)
        for (f.task = 0; f.task < tasks; f.task++) {
            MC_WAIT(task[f.task].there == SENT || task[f.task].claim == DONE, "it comes")
            f.won = task[f.task].there == SENT;
            if (!f.won) continue;
            MC_STEP("begin it, unless it was recalled")
            task[f.task].there = task[f.task].recalled ? RETURNED : RUNS;
            if (task[f.task].there == RETURNED) continue;
            begin(f.task);
            MC_STEP("it has ended") task[f.task].there = ENDED;
        }
        f.task = f.won = 0;
        MC_END
    }
    Ran step(int p) {
        if (finished[p] || (p < W0 + 2 && p >= config.workers)) return Ran::blocked;
        Ran ran = p == DAEMON   ? daemon(main_[p])
                  : p == REMOTE ? remote(main_[p])
                                : worker(p, main_[p]);
        if (ran == Ran::done) finished[p] = 1, ran = Ran::more;
        return ran;
    }
    bool may_die(int) const { return false; }
    void die(int) {}
    const char* wrong_now() const {
        if (fault == 1) return "a task runs twice";
        if (fault == 2) return "a result is written into a task that is somebody else's";
        return fault == 3 ? "a task ended twice" : nullptr;
    }
    const char* wrong_at_end() const {
        for (const Task& t : task)
            if (t.claim != DONE) return "a task that never ends";
        return nullptr;
    }
    static Model start() {
        Model m;
        memset(static_cast<void*>(&m), 0, sizeof m);
        for (Task& t : m.task) t.attempt = t.entries = 1;
        for (int p = 0; p < actors; p++) m.step(p);
        return m;
    }
};

}  // namespace

int main(int argc, char** argv) {
    mc::Report report("lent", argc, argv);
    config.workers = report.number(0, 2);
    auto run = [&](const char* name, Broken broken) {
        config.broken = broken;
        report.variant(name, broken != right, 1, [](int) { return Model::start(); });
    };
    run("the protocol", right);
    run("the claim is stored, not swapped", no_swap);
    run("what is put back has no entry of its own", no_entry);
    run("its entry is pushed before its claim", entry_first);
    run("it is put back before the other node has answered", no_answer);
    return report.exit_status();
}
