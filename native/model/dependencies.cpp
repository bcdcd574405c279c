// Tasks that wait for values: who moves a HELD task on, and how that duty survives every death.
//
//     watch   {CLOSED, head of the list of waiting tasks, stamp (who, seq) of the last link}    one word per slot
//     claim   HELD -> QUEUED -> DONE, or HELD -> ERRED / CANCELLED                               one word per task
//     succ    {CLOSED, the caller's next call if it waits for this one to be pushed}             one word per call
//     op      {kind, task, list, seq, done} and `target`: the intent of a process
//     cascade stack of tasks that one process has sealed with the error of a dependency
//
// A HELD task has one node and watches one unsealed dependency at a time:
//
//      submit, or popped from a list --> advance: deps[next] sealed? next++ : link on its watch, done
//                                          none left: link on pred.succ, unless that is CLOSED
//                                          none left: HELD -> QUEUED, push, close succ, advance the successor
//
// Exactly one process may advance a task: its submitter at first, then whoever popped its node (only the publisher
// of a slot pops, after it has CLOSED the list), then whoever closed its predecessor's succ. So no count and no flag
// is needed, and after a death there is one question: did the dead's link happen? If it did, the task
// belongs to whoever pops it and may be far away by now. The answer is the same as for holds (holds.cpp): a link is
// stamped, and whoever replaces a stamped watch word first tells the author by swapping `done` into its op. A `fired`
// flag in the node (tried first) cannot tell "popped, then the popper died" from "popped, advanced, linked again".
//
// A task that is cancelled or gets an error is sealed at once, but goes on as a husk: it skips its dependencies,
// still waits for its predecessor, and only then closes its succ. Otherwise its successor would overtake the
// calls before it. Its arguments and task bit stay until then, so that the node in a list stays valid.
//
// Invariants: every submitted task is executed once or sealed once, nobody is linked twice, no word of a slot without
// holders is touched, the calls of a caller are executed in order, every task bit is cleared.
//
// Command line: [deaths = 1] [scenario, all by default]
#include "checker.hpp"

using mc::Ran;

namespace {

enum Broken {
    right, no_tell, fired_flag, no_intent, whole_list, forget_successor, no_pusher_hold, succ_before_push,
    canceller_closes, two_places
};
struct Config {
    Broken broken = right;
    int deaths = 1, scenario = 0;
} config;

enum { S0, S1, C, W, D, processes };  // two sealers (S1 is the canceller X in some scenarios), caller, worker, daemon
constexpr int tasks = 3, deps_max = 2, slots = deps_max + tasks;
enum { d0, d1, t0, t1, t2, nobody = 15 };

struct Scenario {
    int n_tasks;
    bool in_order, cancels;
    uint8_t error;                    // dependencies that are sealed with an error, as bits
    int n_deps[tasks];
    uint8_t deps[tasks][deps_max];
};
constexpr int scenarios = 5;
const Scenario table[scenarios] = {
    {2, false, false, 0, {2, 1}, {{d0, d1}, {d0}}},              // two lists, one of them with two nodes
    {2, true, false, 0, {1, 1}, {{d0}, {d1}}},                   // two calls of one caller, ready in any order
    {3, false, false, 1, {1, 1, 1}, {{d0}, {t0}, {t0}}},         // an error runs through a tree
    {3, true, true, 0, {1, 1, 0}, {{d0}, {d0}, {}}},             // X cancels the middle one of three calls
    {2, true, false, 2, {1, 2}, {{d0}, {d1, d0}}},               // the second call gets an error early
};
const Scenario& now_() { return table[config.scenario]; }
int deps_of(int t) { return now_().n_deps[t - t0]; }
int dep(int t, int i) { return now_().deps[t - t0][i]; }

enum State : uint8_t { PENDING, VALUE, ERROR };
enum Claim : uint8_t { NONE, HELD, QUEUED, DONE, ERRED, CANCELLED };
enum Kind : uint8_t { IDLE, FIRE, HUSK, ORDER, PUSH };
constexpr uint8_t closed = 0x80, index_ = 0x7f;

struct Watch {
    uint8_t head, who, seq;  // head: CLOSED and slot + 1; who: process + 1
    bool operator==(const Watch&) const = default;
};
struct Slot {
    Watch watch;
    uint8_t state;
};
struct Task {
    uint8_t claim, claimer, succ, next, link, pred, fired;  // pred: the hold on the predecessor, slot + 1
    uint8_t task_bit, owner_bit, submitted;
    uint8_t linked, executed, sealed;                       // ghosts: what has really happened
};
struct Op {
    uint8_t kind, task, list, seq, done;
    bool operator==(const Op&) const = default;
};
struct Record {
    Op op;
    uint8_t target, cascade, publishing, hold, seq;  // hold: a ledger entry
};
struct TellFrame {
    uint8_t pc;
    Op op;
};
struct AdvanceFrame {
    uint8_t pc, t, claim, dep, pushing;
    Watch w;
};
struct DrainFrame {
    uint8_t pc, list, t;
    Watch w;
};
struct MainFrame {
    uint8_t pc, i, t, flag;
};

struct Model {
    static constexpr int actors = processes;
    Slot slot[slots];
    Task task_[tasks];
    Record record[processes];
    uint8_t ring[6], ring_head, ring_tail;
    TellFrame tell_[processes];
    AdvanceFrame advance_[processes];
    DrainFrame drain_[processes], dead_list;
    MainFrame publish_[processes], main_[processes];
    uint8_t finished[processes], dead[processes], repaired[processes], deaths, fault;

    static const char* actor_name(int p) {
        static const char* const names[] = {"S0", "S1", "C", "W", "daemon"};
        return p == S1 && now_().cancels ? "X" : names[p];
    }
    enum Fault : uint8_t { fine, after_free, linked_twice, order, twice };
    void blame(Fault f) {
        if (!fault) fault = f;
    }
    bool is_alive(int s) const {
        if (s < t0) return true;
        const Task& t = task_[s - t0];
        bool held = t.task_bit || t.owner_bit;
        for (const Record& r : record) held |= r.hold == s + 1;
        for (const Task& u : task_) held |= u.pred == s + 1;
        return held;
    }
    Slot& at(int s) {
        if (!is_alive(s)) blame(after_free);
        return slot[s];
    }
    Task& task(int s) {
        if (s < t0) __builtin_unreachable();
        if (!is_alive(s)) blame(after_free);
        return task_[s - t0];
    }
    void set_op(int me, Kind kind, int t, int list) {
        if (config.broken == no_intent) return;
        record[me].op = {kind, uint8_t(t), uint8_t(list), ++record[me].seq, 0};
    }

    // Before a stamped watch word is replaced, the author of the stamp learns that its link has happened.
    Ran tell(int me, TellFrame& f, Watch w) {
        MC_BEGIN(f)
        if (!w.who || w.who == me + 1 || config.broken == no_tell) MC_RETURN;
        MC_STEP("tell: load the op of who linked last") f.op = record[w.who - 1].op;
        if (f.op.kind == IDLE || f.op.seq != w.seq || f.op.done) MC_RETURN;
        MC_STEP("tell: swap its op to done")
        if (record[w.who - 1].op == f.op) record[w.who - 1].op.done = 1;
        MC_END
    }

    bool swap_claim(int me, int t, Claim from, Claim to) {
        Task& x = task(t);
        if (x.claim != from) return false;
        x.claim = to, x.claimer = me;
        if (to == ERRED || to == CANCELLED) x.sealed++;
        return true;
    }
    bool swap_watch(int me, int t, int d, Watch seen) {
        if (!(at(d).watch == seen)) return false;
        if (task(t).linked) blame(linked_twice);
        task(t).linked = 1;
        at(d).watch = {uint8_t(t + 1), uint8_t(me + 1), record[me].op.seq};
        return true;
    }
    void pop(int list, int t) {
        task(t).linked = 0;
        at(list).watch = {uint8_t(closed | task(t).link), 0, 0};
    }
    void push(int t) { ring[ring_tail++] = t; }
    bool is_in_ring(int t) const {
        for (int i = ring_head; i < ring_tail; i++)
            if (ring[i] == t) return true;
        return false;
    }

    // Moves t on as far as possible, then its successor, and so on. Only t's one advancer may call it.
    Ran advance(int me, AdvanceFrame& f, int first) {
        Record& mine = record[me];
        MC_BEGIN(f)
        f.t = first;
        for (;;) {
            MC_STEP("advance: load claim") f.claim = task(f.t).claim;
            if (!f.pushing && f.claim == HELD && task(f.t).next < deps_of(f.t)) {
                f.dep = dep(f.t, task(f.t).next);
                MC_STEP("advance: look at the dependency") f.w.head = at(f.dep).state;
                if (f.w.head == VALUE) {
                    MC_STEP("advance: next++") task(f.t).next++;
                } else if (f.w.head == ERROR) {
                    MC_STEP("advance: the dependency has an error: swap HELD -> ERRED")
                    if (!swap_claim(me, f.t, HELD, ERRED)) continue;
                    MC_STEP("advance: seal it with the error") at(f.t).state = ERROR;
                    MC_STEP("advance: close its watch") at(f.t).watch.head |= closed;
                    MC_STEP("advance: link = cascade") task(f.t).link = mine.cascade;
                    MC_STEP("advance: cascade = it") mine.cascade = f.t + 1;
                    MC_RETURN;
                } else {
                    if (config.broken == fired_flag) {
                        MC_STEP("link: fired = 0") task(f.t).fired = 0;
                    }
                    MC_STEP("link: target = the dependency") mine.target = f.dep;
                    for (;;) {
                        MC_STEP("link: load watch") f.w = at(f.dep).watch;
                        if (f.w.head & closed) break;
                        MC_CALL(tell(me, tell_[me], f.w));
                        MC_STEP("link: link = head") task(f.t).link = f.w.head;
                        MC_STEP("link: swap watch")
                        if (swap_watch(me, f.t, f.dep, f.w)) MC_RETURN;
                    }
                }
                f.w = {};
                continue;
            }
            if (!f.pushing && task(f.t).pred) {
                MC_STEP("order: op = ORDER(task)") set_op(me, ORDER, f.t, nobody);
                MC_STEP("order: swap the predecessor's succ NULL -> task")
                if (uint8_t& succ = task(task(f.t).pred - 1).succ; !succ) {
                    succ = f.t + 1;
                    MC_RETURN;
                } else if (!(succ & closed)) {
                    MC_RETURN;  // only with the broken variant that links there first
                }
            }
            if (!f.pushing) {
                MC_STEP("push: op = PUSH(task)") set_op(me, PUSH, f.t, nobody);
            }
            if (me != C && config.broken != no_pusher_hold) {
                MC_STEP("push: take a hold on the task") mine.hold = f.t + 1;
            }
            if (task(f.t).pred) {
                MC_STEP("push: drop the hold on its predecessor") task(f.t).pred = 0;
            }
            if (config.broken == succ_before_push) {
                MC_STEP("push: close succ") f.dep = task(f.t).succ & index_, task(f.t).succ |= closed;
            }
            if (f.claim == HELD) {
                MC_STEP("push: swap HELD -> QUEUED")
                if (!swap_claim(me, f.t, HELD, QUEUED)) f.claim = CANCELLED;
            }
            if (f.claim == HELD) {
                MC_STEP("push: the ring") push(f.t);
            } else {
                MC_STEP("husk: clear the task bit") task(f.t).task_bit = 0;
            }
            if (config.broken != succ_before_push) {
                MC_STEP("push: close succ, keep its index") f.dep = close_succ(f.t);
            }
            if (f.dep) {
                MC_STEP("push: op = PUSH(successor)") set_op(me, PUSH, f.dep - 1, nobody);
            } else {
                MC_STEP("push: op = 0") mine.op = {};
            }
            if (mine.hold && me != S1) {
                MC_STEP("push: drop the hold on the task") mine.hold = 0;
            }
            if (!f.dep) MC_RETURN;
            f.t = f.dep - 1, f.dep = 0, f.pushing = 1;
        }
        MC_END
    }
    uint8_t close_succ(int t) {
        uint8_t u = task(t).succ & index_;
        if (u == index_) u = 0;
        task(t).succ |= config.broken == forget_successor ? 0xff : closed;
        return u;
    }

    // Pops the nodes of r one by one, and of every task that this seals with an error (a worklist, no recursion).
    Ran drain(int me, DrainFrame& f, int r) {
        Record& mine = record[me];
        MC_BEGIN(f)
        for (;;) {
            f.list = mine.cascade ? mine.cascade - 1 : r;
            if (f.list == nobody) MC_RETURN;
            MC_STEP("drain: load watch") f.w = at(f.list).watch;
            if (!(f.w.head & index_)) {
                if (f.list == r) MC_RETURN;
                f.t = f.list;
                MC_STEP("drain: op = HUSK(task)") set_op(me, HUSK, f.t, nobody);
                MC_STEP("drain: cascade = link") mine.cascade = task(f.t).link;
            } else {
                f.t = (f.w.head & index_) - 1;
                MC_STEP("drain: op = FIRE(task)") set_op(me, FIRE, f.t, f.list);
                MC_CALL(tell(me, tell_[me], f.w));
                MC_STEP("drain: head = link") pop(f.list, f.t);
                if (config.broken == fired_flag) {
                    MC_STEP("drain: exchange fired") f.w.who = task(f.t).fired, task(f.t).fired = 1;
                    if (f.w.who) continue;
                }
            }
            f.w = {}, f.list = 0;
            MC_CALL(advance(me, advance_[me], f.t));
            MC_STEP("drain: op = 0") mine.op = {};
        }
        MC_END
    }
    // The broken order: the whole list is taken away before its tasks are advanced.
    Ran drain_whole(int me, DrainFrame& f, int r) {
        MC_BEGIN(f)
        MC_STEP("drain: take the whole list") f.list = at(r).watch.head & index_, at(r).watch = {closed, 0, 0};
        while (f.list) {
            f.t = f.list - 1, task(f.t).linked = 0, f.list = task(f.t).link;
            MC_STEP("drain: op = FIRE(task)") set_op(me, FIRE, f.t, nobody);
            MC_CALL(advance(me, advance_[me], f.t));
            MC_STEP("drain: op = 0") record[me].op = {};
        }
        MC_END
    }
    Ran publish(int me, MainFrame& f, int r, int state) {
        MC_BEGIN(f)
        MC_STEP("publish: state") at(r).state = state;
        MC_STEP("publish: close the watch (fetch_or keeps the stamp)") at(r).watch.head |= closed;
        if (config.broken == whole_list) {
            MC_CALL(drain_whole(me, drain_[me], r));
        } else {
            MC_CALL(drain(me, drain_[me], r));
        }
        MC_END
    }

    Ran sealer(int me, MainFrame& f) {
        MC_BEGIN(f)
        MC_CALL(publish(me, publish_[me], me, now_().error >> me & 1 ? ERROR : VALUE));
        MC_STEP("sealed: running.pop()") record[me].publishing = 0;
        MC_END
    }
    Ran caller(int me, MainFrame& f) {
        MC_BEGIN(f)
        for (f.t = t0; f.t < t0 + now_().n_tasks; f.t++) {
            MC_STEP("submit: op = FIRE(task)")
            set_op(me, FIRE, f.t, nobody);
            task(f.t).claim = HELD, task(f.t).task_bit = 1, task(f.t).submitted = 1;
            if (now_().in_order && f.t > t0) task(f.t).pred = f.t;  // slot + 1 of the task before it
            if (config.broken == two_places && task(f.t).pred) {
                MC_STEP("submit: link on the predecessor at once")
                if (!task(f.t - 1).succ) task(f.t - 1).succ = f.t + 1;
            }
            MC_CALL(advance(me, advance_[me], f.t));
            MC_STEP("submit: op = 0") record[me].op = {};
            MC_CALL(drain(me, drain_[me], nobody));
        }
        for (f.t = t0; f.t < t0 + now_().n_tasks; f.t++) {
            MC_STEP("forget the task: clear the owner bit") task(f.t).owner_bit = 0;
        }
        MC_END
    }
    // X cancels t1 while it may be HELD, linked anywhere, QUEUED or already executed. It holds t1.
    Ran canceller(int me, MainFrame& f) {
        MC_BEGIN(f)
        MC_WAIT(task_[t1 - t0].submitted, "cancel: t1 was submitted")
        MC_STEP("cancel: running.push(t1)") record[me].publishing = t1 + 1;
        MC_STEP("cancel: swap HELD -> CANCELLED") f.flag = swap_claim(me, t1, HELD, CANCELLED);
        if (f.flag) {
            if (config.broken == canceller_closes) {
                MC_STEP("cancel: close succ at once") f.t = close_succ(t1);
                if (f.t) {
                    MC_STEP("cancel: op = FIRE(successor)") set_op(me, FIRE, f.t - 1, nobody);
                    MC_CALL(advance(me, advance_[me], f.t - 1));
                }
            }
            MC_CALL(publish(me, publish_[me], t1, ERROR));
        }
        MC_STEP("cancel: running.pop()") record[me].publishing = 0;
        MC_STEP("cancel: forget t1") record[me].hold = 0;
        MC_END
    }
    void execute(int t) {
        if (swap_claim(W, t, QUEUED, DONE)) {
            if (++task(t).executed > 1) blame(twice);
            for (int before = t0; before < t && now_().in_order; before++) {
                int claim = task_[before - t0].claim;
                if (claim == HELD || claim == QUEUED) blame(order);
            }
        }
    }
    Ran worker(int me, MainFrame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT(ring_head < ring_tail, "take: claim the first entry and remove it")
            f.t = ring[ring_head];
            ring[ring_head++] = 0;
            f.flag = is_alive(f.t) && task(f.t).claim == QUEUED;
            if (!f.flag) continue;
            execute(f.t);
            MC_CALL(publish(me, publish_[me], f.t, VALUE));
            MC_STEP("executed: clear the task bit") task(f.t).task_bit = 0;
            f.t = f.flag = 0;
        }
        MC_END
    }

    // Did the link of the dead happen? Then the task is in other hands.
    Ran look_at_link(MainFrame& f, int p) {
        const Op& op = record[p].op;
        MC_BEGIN(f)
        MC_STEP("repair: does the target show the stamp of the dead?")
        link_seen = slot[record[p].target].watch.who == p + 1 && slot[record[p].target].watch.seq == op.seq;
        if (link_seen) MC_RETURN;
        MC_STEP("repair: or, looked at second, was the dead told?") link_seen = op.done;
        MC_END
    }
    // As long as t is the dead's, it is alive and holds its predecessor, whose succ can be read.
    bool is_ordered_elsewhere(int t) {
        if (!is_alive(t) || !task(t).pred) return true;
        return (task(task(t).pred - 1).succ & index_) == t + 1;
    }
    Ran repair_op(int me, MainFrame& f, int p) {
        Record& theirs = record[p];
        const Op& op = theirs.op;
        MC_BEGIN(f)
        f.t = op.task;
        if (op.kind == FIRE) {
            if (op.list != nobody) {
                MC_STEP("repair: is it still the head of the list?")
                f.flag = (at(op.list).watch.head & index_) == f.t + 1;
                if (f.flag) {
                    MC_CALL(tell(me, tell_[me], at(op.list).watch));
                    MC_STEP("repair: pop it") pop(op.list, f.t);
                    if (config.broken == fired_flag) task(f.t).fired = 0;
                }
            }
            if (config.broken == fired_flag) {
                MC_STEP("repair: exchange fired") f.flag = task(f.t).fired, task(f.t).fired = 1;
            } else {
                MC_CALL(look_at_link(publish_[D], p));
                f.flag = link_seen, link_seen = 0;
            }
            if (!f.flag) {
                MC_STEP("repair: load its claim") f.flag = task(f.t).claim == ERRED;
                if (!f.flag) {
                    MC_CALL(advance(me, advance_[me], f.t));
                } else if (theirs.cascade != f.t + 1) {
                    MC_STEP("repair: seal it with the error") at(f.t).state = ERROR;
                    MC_STEP("repair: close its watch") at(f.t).watch.head |= closed;
                    MC_STEP("repair: push it on the dead's cascade")
                    task(f.t).link = theirs.cascade, theirs.cascade = f.t + 1;
                }
            }
        } else if (op.kind == HUSK) {
            if (theirs.cascade == f.t + 1) {
                MC_STEP("repair: cascade = link") theirs.cascade = task(f.t).link;
            }
            MC_CALL(advance(me, advance_[me], f.t));
        } else if (op.kind == ORDER) {
            MC_STEP("repair: is its predecessor's duty open, or does its succ name it?")
            f.flag = is_ordered_elsewhere(f.t);
            if (!f.flag) MC_CALL(advance(me, advance_[me], f.t));
        } else if (op.kind == PUSH) {
            MC_STEP("repair: load its claim") f.flag = task(f.t).claim;
            if (f.flag == QUEUED) {
                MC_STEP("repair: is it in the ring?") f.flag = is_in_ring(f.t) ? DONE : QUEUED;
                if (f.flag == QUEUED) {
                    MC_STEP("repair: still QUEUED? push it")
                    if (task(f.t).claim == QUEUED) push(f.t);
                }
                f.flag = DONE;
            }
            if (f.flag == DONE) {
                MC_STEP("repair: close its succ") f.i = close_succ(f.t);
                if (f.i) MC_CALL(advance(me, advance_[me], f.i - 1));
            } else {
                MC_CALL(advance(me, advance_[me], f.t));
            }
        }
        MC_STEP("repair: the dead's op = 0") theirs.op = {};
        MC_END
    }
    uint8_t link_seen;
    MainFrame repair_;
    int next_dead() const {
        for (int p = 0; p < processes; p++)
            if (dead[p] && !repaired[p]) return p;
        return nobody;
    }
    bool must_publish(int p) const {
        if (!record[p].publishing) return false;
        return p == S0 || !now_().cancels ||
               (task_[t1 - t0].claim == CANCELLED && task_[t1 - t0].claimer == p);
    }
    Ran daemon(int me, MainFrame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT(next_dead() != nobody, "a pidfd says: dead")
            f.i = next_dead();
            MC_CALL(repair_op(me, repair_, f.i));
            MC_CALL(drain(me, drain_[me], nobody));
            while (record[f.i].cascade) {
                f.t = record[f.i].cascade - 1;
                MC_CALL(drain(me, drain_[me], f.t));
                MC_STEP("repair: the dead's cascade = link") record[f.i].cascade = task(f.t).link;
                MC_CALL(advance(me, advance_[me], f.t));
                MC_CALL(drain(me, drain_[me], nobody));
            }
            f.t = 0;
            if (must_publish(f.i)) {
                f.t = record[f.i].publishing - 1;
                MC_CALL(publish(me, publish_[me], f.t, f.t >= t0 || now_().error >> f.t & 1 ? ERROR : VALUE));
            }
            MC_STEP("repair: drop what the dead held")
            record[f.i].hold = record[f.i].publishing = 0;
            for (Task& t : task_)
                if (f.i == C) t.owner_bit = 0;
            repaired[f.i] = 1;
            f.i = f.t = 0;
        }
        MC_END
    }

    Ran step(int p) {
        if (finished[p]) return Ran::blocked;
        Ran ran;
        switch (p) {
            case C: ran = caller(p, main_[p]); break;
            case W: ran = worker(p, main_[p]); break;
            case D: ran = daemon(p, main_[p]); break;
            default: ran = p == S1 && now_().cancels ? canceller(p, main_[p]) : sealer(p, main_[p]);
        }
        if (ran == Ran::done) finished[p] = 1, ran = Ran::more;
        return ran;
    }
    bool may_die(int p) const { return p < W && !dead[p] && !finished[p] && deaths < config.deaths; }
    void die(int p) {
        dead[p] = finished[p] = 1, deaths++;
        main_[p] = publish_[p] = {}, advance_[p] = {}, drain_[p] = {}, tell_[p] = {};
    }
    const char* wrong_now() const {
        static const char* const words[] = {nullptr, "a word of a slot without holders was touched",
                                            "a node was linked twice", "calls were executed out of order",
                                            "a task was executed twice"};
        return words[fault];
    }
    const char* wrong_at_end() const {
        for (int p = 0; p < processes; p++)
            if (dead[p] && !repaired[p]) return "a dead process was not repaired";
        for (const Task& t : task_) {
            if (!t.submitted) continue;
            if (t.claim == HELD) return "a task is HELD for ever";
            if (t.claim == QUEUED) return "a task is QUEUED for ever";
            if (t.executed + t.sealed != 1) return "a task was sealed twice";
            if (t.task_bit) return "a task bit was not cleared: leaked";
        }
        return nullptr;
    }

    static Model start(int scenario) {
        config.scenario = scenario;
        Model m;
        memset(static_cast<void*>(&m), 0, sizeof m);
        for (int t = 0; t < now_().n_tasks; t++) m.task_[t].owner_bit = 1;
        m.record[S0].publishing = d0 + 1;
        if (now_().cancels) m.record[S1].hold = t1 + 1;
        else m.record[S1].publishing = d1 + 1;
        for (int p = 0; p < actors; p++) m.step(p);
        return m;
    }
};

}  // namespace

int main(int argc, char** argv) {
    mc::Report report("dependencies", argc, argv);
    config.deaths = report.number(0, 1);
    int only = report.number(1, -1);
    auto run = [&](const char* name, Broken broken) {
        config.broken = broken;
        report.variant(name, broken != right, only < 0 ? scenarios : 1,
                       [&](int s) { return Model::start(only < 0 ? s : only); });
    };
    run("the protocol", right);
    run("a link is overwritten without telling its author", no_tell);
    run("a fired flag in the node instead of the stamp", fired_flag);
    run("no intent", no_intent);
    run("the list is taken whole before its tasks are advanced", whole_list);
    run("closing succ forgets the successor", forget_successor);
    run("the pusher has no hold on the task", no_pusher_hold);
    run("succ is closed before the push", succ_before_push);
    run("the canceller closes succ at once", canceller_closes);
    run("advanced from two places: succ and watch at once", two_places);
    return report.exit_status();
}
