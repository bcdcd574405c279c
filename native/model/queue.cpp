// A queue of tasks: submit, take, idle, wake, and repair after a death.
//
//     ring    cells {lap, value}; empty for position p is {p / N, 0}; head and tail are hints that
//             anybody repairs
//     claim   HELD -> QUEUED(attempt) -> RUNNING(worker)      per task, the only thing that counts
//     idle    one bit per worker
//     door    a counter that a sleeping worker waits on (futex); here: has it changed since noted?
//     searching   a worker promises to look, so that a push need not wake anybody; the promise is
//             made before it looks at all, and ended before it sleeps or by whoever takes a task
//
//     submit:  op = PUSH(task); claim = QUEUED; push; wake; op = 0
//     take:    entry at the head; running = task; swap the claim QUEUED -> RUNNING; remove the
//              entry; more work? wake the next
//     idle:    search; note the door; set the idle bit; look once more; sleep
//     wake:    somebody searches? else clear an idle bit; ring its door; futex_wake
//
// An entry is a hint: it may be stale or double. It is removed only when its claim is no longer
// QUEUED, so a task that is QUEUED has an entry, or somebody's op names it. A dead worker's task is
// named by its `running`. Whom the dead was about to wake nobody can know, so after each death
// every door is rung whose worker would find something, or sleeps without its idle bit (the dead
// had chosen it): first its promise is void, then the ring is looked at, and a task that it ran is
// put back and announced after that. `sleeping` is set before the idle bit, so that whoever was
// chosen is seen to sleep.
//
// Invariants: no attempt runs twice; at the end no task is in no queue, RUNNING by a dead worker,
// or QUEUED while an idle worker sleeps. Tasks never finish here, so that a worker that has taken
// one is busy for ever.
//
// Command line: [deaths = 2]
#include "checker.hpp"

using mc::Ran;

namespace {

enum Broken {
    right, no_intent, no_bells, no_chain, pop_first, no_second_look, no_requeue_intent,
    keeps_promise, looks_before_promise, only_idle_bits, chosen_are_left,
    sleeping_after_bit
};
struct Config {
    Broken broken = right;
    int deaths = 1;
} config;
bool is(Broken b) { return config.broken == b; }

constexpr int workers = 2, tasks = 2, cells = 4;
enum { W0, W1, SUBMITTER, DAEMON, processes };
enum Claim : uint8_t { HELD, QUEUED, RUNNING };

struct Cell {
    uint8_t lap, value;  // value: task + 1
    bool operator==(const Cell&) const = default;
};
struct Task {
    uint8_t claim, by, attempt, runs;
};
struct Record {
    uint8_t op, running;  // task + 1
};
struct PushFrame {
    uint8_t pc, tail, full;
};
struct PeekFrame {
    uint8_t pc, head;
};
struct WakeFrame {
    uint8_t pc, worker;
};
struct MainFrame {
    uint8_t pc, task, attempt, head, i;
};

struct Model {
    static constexpr int actors = processes;
    Task task[tasks];
    Cell cell[cells];
    uint8_t head, tail, idle, searching, submitted;  // searching: worker + 1
    // rung: the door is not what its worker has noted
    uint8_t sleeping[workers], rung[workers], asleep[workers];
    Record record[processes];
    PushFrame push_[processes];
    PeekFrame peek_[processes];
    WakeFrame wake_[processes];
    MainFrame main_[processes], bells;
    uint8_t found[processes], found_at[processes];  // results of peek: task + 1, position
    uint8_t finished[processes], dead[processes], repaired[processes], deaths, fault;

    static const char* actor_name(int p) {
        static const char* const names[] = {"worker 0", "worker 1", "submitter", "daemon"};
        return names[p];
    }

    // ---- the ring
    Ran push(PushFrame& f, int t) {
        MC_BEGIN(f)
        for (;;) {
            MC_STEP("push: load tail") f.tail = tail;
            MC_STEP("push: load the cell")
            f.full = cell[f.tail % cells] == Cell{uint8_t(f.tail / cells), 0} ? 0 : 1;
            if (!f.full) {
                MC_STEP("push: swap the cell (commit)")
                if (cell[f.tail % cells] == Cell{uint8_t(f.tail / cells), 0}) {
                    cell[f.tail % cells].value = t + 1;
                    break;
                }
            } else if (cell[f.tail % cells].lap >= f.tail / cells) {
                MC_STEP("push: tail lags, help") tail += tail == f.tail;
            }
        }
        MC_STEP("push: swap tail") tail += tail == f.tail;
        MC_END
    }
    Ran peek(int me, PeekFrame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_STEP("peek: load head") f.head = head;
            MC_STEP("peek: load the cell")
            if (cell[f.head % cells].lap == f.head / cells) break;
            MC_STEP("peek: head lags, help") head += head == f.head;
        }
        found[me] = cell[f.head % cells].value, found_at[me] = found[me] ? f.head : 0;
        MC_END
    }
    void remove(int at, int t) {
        Cell& c = cell[at % cells];
        if (c == Cell{uint8_t(at / cells), uint8_t(t + 1)}) c = {uint8_t(at / cells + 1), 0};
    }
    bool is_in_ring(int t) const {
        for (const Cell& c : cell)
            if (c.value == t + 1) return true;
        return false;
    }

    // ---- wake one
    Ran wake(WakeFrame& f) {
        MC_BEGIN(f)
        MC_STEP("wake: does somebody search?")
        if (searching) MC_RETURN;
        for (;;) {
            MC_STEP("wake: load idle bits")
            if (!idle) MC_RETURN;
            f.worker = idle & 1 ? W0 : W1;
            MC_STEP("wake: clear the lowest bit")
            if (!(idle >> f.worker & 1)) continue;
            idle &= ~(1 << f.worker);
            break;
        }
        MC_STEP("wake: ring its door") rung[f.worker] = 1;
        MC_STEP("wake: futex_wake") asleep[f.worker] = 0;
        MC_END
    }

    Ran submitter(int me, MainFrame& f) {
        MC_BEGIN(f)
        for (f.i = 0; f.i < tasks; f.i++) {
            if (!is(no_intent)) {
                MC_STEP("submit: op = PUSH(task)") record[me].op = f.i + 1, submitted = f.i + 1;
            }
            MC_STEP("submit: claim = QUEUED")
            task[f.i].claim = QUEUED, task[f.i].attempt = 1, submitted = f.i + 1;
            MC_CALL(push(push_[me], f.i));
            MC_CALL(wake(wake_[me]));
            MC_STEP("submit: op = 0") record[me].op = 0;
        }
        MC_END
    }

    void run(int me, int t) {
        task[t].claim = RUNNING, task[t].by = me;
        if (++task[t].runs > task[t].attempt) fault = 1;
    }
    Ran worker(int me, MainFrame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_CALL(peek(me, peek_[me]));
            if (found[me]) {
                f.task = found[me] - 1, f.head = found_at[me], found[me] = found_at[me] = 0;
                if (is(pop_first)) {
                    MC_STEP("take: remove the entry") remove(f.head, f.task);
                }
                MC_STEP("take: load claim")
                f.attempt = task[f.task].claim == QUEUED ? task[f.task].attempt : 0;
                if (f.attempt) {
                    if (!is(no_requeue_intent)) {
                        MC_STEP("take: running.push(task)") record[me].running = f.task + 1;
                    }
                    MC_STEP("take: swap QUEUED -> RUNNING (commit)")
                    f.attempt = f.attempt == task[f.task].attempt && task[f.task].claim == QUEUED;
                    if (f.attempt) run(me, f.task);
                    if (!f.attempt) {
                        MC_STEP("take: lost: running.pop()") record[me].running = 0;
                    } else if (is(no_requeue_intent)) {
                        MC_STEP("take: running.push(task)") record[me].running = f.task + 1;
                    }
                }
                MC_STEP("take: remove the entry") remove(f.head, f.task);
                MC_STEP("take: swap head") head += head == f.head;
                f.head = f.task = 0;
                if (!f.attempt) continue;
                f.attempt = 0;
                MC_STEP("take: nobody searches now, whoever promised") searching = 0;
                if (is(no_chain)) MC_RETURN;
                MC_CALL(peek(me, peek_[me]));
                f.i = found[me], found[me] = found_at[me] = 0;
                if (f.i) MC_CALL(wake(wake_[me]));
                MC_RETURN;  // and runs its task for ever
            }
            MC_STEP("idle: nobody searches? then I do") f.i = !searching || searching == me + 1;
            if (f.i) {
                searching = me + 1;
                MC_CALL(peek(me, peek_[me]));
                f.i = found[me], found[me] = found_at[me] = 0;
                if (f.i) continue;
                if (!is(keeps_promise)) {
                    MC_STEP("idle: stop searching")
                    if (searching == me + 1) searching = 0;
                }
            }
            MC_STEP("idle: note the door") rung[me] = 0;
            if (!is(sleeping_after_bit)) {
                MC_STEP("idle: sleeping = 1") sleeping[me] = 1;
            }
            MC_STEP("idle: set the idle bit") idle |= 1 << me;
            if (is(sleeping_after_bit)) {
                MC_STEP("idle: sleeping = 1") sleeping[me] = 1;
            }
            if (!is(no_second_look)) {
                MC_CALL(peek(me, peek_[me]));
                f.i = found[me], found[me] = found_at[me] = 0;
            }
            if (!f.i) {
                MC_STEP("idle: futex_wait") asleep[me] = !rung[me];
                MC_WAIT(!asleep[me], "idle: awake")
            }
            f.i = rung[me] = 0;
            MC_STEP("idle: sleeping = 0") sleeping[me] = 0;
            MC_STEP("idle: clear the idle bit") idle &= ~(1 << me);
        }
        MC_END
    }

    // Only those are rung who would find something.
    Ran ring_all(int me) {
        MainFrame& f = bells;
        MC_BEGIN(f)
        for (f.i = 0; f.i < workers; f.i++) {
            MC_CALL(peek(me, peek_[me]));
            f.attempt = found[me] && (!is(only_idle_bits) || (idle >> f.i & 1));
            found[me] = found_at[me] = 0;
            if (!f.attempt && !is(chosen_are_left) && !is(only_idle_bits)) {
                MC_STEP("repair: does it sleep?") f.attempt = sleeping[f.i];
                if (f.attempt) {
                    MC_STEP("repair: without its idle bit?") f.attempt = !(idle >> f.i & 1);
                }
            }
            if (f.attempt) {
                MC_STEP("repair: ring a door, futex_wake")
                rung[f.i] = 1, asleep[f.i] = 0;
            }
        }
        MC_END
    }
    Ran repair(int me, MainFrame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT((dead[W0] && !repaired[W0]) || (dead[W1] && !repaired[W1]) ||
                        (dead[SUBMITTER] && !repaired[SUBMITTER]),
                    "a pidfd says: dead")
            f.i = dead[W0] && !repaired[W0] ? W0 : dead[W1] && !repaired[W1] ? W1 : SUBMITTER;
            if (f.i < workers) idle &= ~(1 << f.i);
            if (is(looks_before_promise)) MC_CALL(ring_all(me));
            MC_STEP("repair: its promise to search is void")
            if (searching == f.i + 1) searching = 0;
            f.attempt = 0;
            if (record[f.i].running) {
                f.task = record[f.i].running - 1;
                MC_STEP("repair: was it running? RUNNING -> QUEUED")
                f.attempt = task[f.task].claim == RUNNING && task[f.task].by == f.i;
                if (f.attempt)
                    task[f.task].claim = QUEUED, task[f.task].attempt++, task[f.task].by = 0;
            } else if (record[f.i].op) {
                f.task = record[f.i].op - 1;
                MC_STEP("repair: was it pushing? load claim")
                f.attempt = task[f.task].claim == HELD;
                if (f.attempt) {
                    task[f.task].claim = QUEUED, task[f.task].attempt = 1;
                } else {
                    MC_STEP("repair: is it in the ring? (it cannot vanish while QUEUED)")
                    f.attempt = !is_in_ring(f.task);
                    if (f.attempt) {
                        MC_STEP("repair: and still QUEUED?")
                        f.attempt = task[f.task].claim == QUEUED;
                    }
                }
            }
            if (f.attempt && record[f.i].op) {
                MC_CALL(push(push_[me], f.task));
                MC_CALL(wake(wake_[me]));
            }
            if (!is(no_bells) && !is(looks_before_promise)) MC_CALL(ring_all(me));
            if (f.attempt && record[f.i].running) {  // the deciding machine says so, later
                MC_CALL(push(push_[me], f.task));
                MC_CALL(wake(wake_[me]));
            }
            record[f.i] = {}, repaired[f.i] = 1;
            f.i = f.task = f.attempt = 0;
        }
        MC_END
    }

    Ran step(int p) {
        if (finished[p]) return Ran::blocked;
        Ran ran = p == DAEMON      ? repair(p, main_[p])
                  : p == SUBMITTER ? submitter(p, main_[p])
                                   : worker(p, main_[p]);
        if (ran == Ran::done) finished[p] = 1, ran = Ran::more;
        return ran;
    }
    bool may_die(int p) const {
        if (p == DAEMON || dead[p] || deaths >= config.deaths) return false;
        return p != SUBMITTER || !finished[p];
    }
    void die(int p) {
        dead[p] = finished[p] = 1, deaths++;
        if (p < workers) asleep[p] = sleeping[p] = 0;
        main_[p] = {}, push_[p] = {}, peek_[p] = {}, wake_[p] = {}, found[p] = found_at[p] = 0;
    }
    const char* wrong_now() const { return fault ? "an attempt ran twice" : nullptr; }
    const char* wrong_at_end() const {
        bool sleeper = false;
        for (int w = 0; w < workers; w++) sleeper |= !dead[w] && asleep[w];
        for (int t = 0; t < submitted; t++) {
            if (task[t].claim == HELD) return "a submitted task was never queued";
            if (task[t].claim == RUNNING && dead[task[t].by])
                return "a task is RUNNING by a dead worker";
            if (task[t].claim != QUEUED) continue;
            if (!is_in_ring(t)) return "a task is QUEUED but in no queue";
            if (sleeper) return "a task is QUEUED and an idle worker sleeps for ever";
        }
        return nullptr;
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
    mc::Report report("queue", argc, argv);
    config.deaths = report.number(0, 2);
    auto run = [&](const char* name, Broken broken) {
        config.broken = broken;
        report.variant(name, broken != right, 1, [&](int) { return Model::start(); });
    };
    run("the protocol", right);
    run("no intent of the submitter", no_intent);
    run("the bells are not rung after a death", no_bells);
    run("a take does not wake the next worker", no_chain);
    run("the entry is removed before the claim", pop_first);
    run("running is written after the claim", no_requeue_intent);
    run("a promise is not ended before sleeping", keeps_promise);
    run("the bells look for work before the promise of the dead is void", looks_before_promise);
    run("the bells are rung for those with an idle bit alone", only_idle_bits);
    run("a sleeper that the dead had chosen is left without a ring", chosen_are_left);
    run("sleeping is set after the idle bit", sleeping_after_bit);
    run("no second look after the idle bit is set", no_second_look);
    return report.exit_status();
}
