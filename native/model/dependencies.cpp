// Tasks that wait for values: who moves a HELD task on, and how that duty survives every death.
//
//     watch    {CLOSED, head of the list of tasks that wait for this slot}       per slot
//     claim    HELD -> QUEUED -> DONE, or HELD -> RUNNING(p) -> DONE(p),
//              or HELD -> CANCELLED                                              per task
//     turn     which process may advance the task, or nobody                     per task
//     succ     {CLOSED, the caller's next call if it waits for this one}         per call
//     op       ADVANCE(task) or FIRE(list, task): the intent of a process
//     cascade  stack of tasks that one process has sealed with the error of a dependency
//
// A HELD task has one node and watches one unsealed dependency at a time:
//
//     submit, or popped from a list --> advance
//         deps[next] sealed?   next++; else link on its watch, and leave
//         no more?             link on the predecessor's succ, unless that is CLOSED, and leave
//         predecessor pushed?  HELD -> QUEUED, push, close succ, advance the successor
//
// The turn is taken *before* the task leaves the place where it waits (popper: turn = me, then head
// = link; closer of a succ: turn = me, then it forgets its predecessor), and given up *after* it
// was put there (linker: swap the watch, then swap turn me -> nobody, which fails if a popper was
// faster). So after a death: turn == the dead, and the task is not where it would wait, means that
// it was never put there, and it is the daemon's. To look at a list that others pop the daemon
// walks it, and counts the walk only if the head is still the same afterwards. A `fired` flag in
// the node (tried first) cannot tell "popped, then the popper died" from "popped, advanced, linked
// again".
//
// Popping is exclusive: only the publisher of a slot pops, after it CLOSED the list. The end of a
// lane is kept safe by a hold of the pusher: once pushed, the call may run, end and be freed before
// its succ is closed.
//
// A cancelled task is sealed at once, but goes on as a husk: it skips its dependencies, still waits
// for its predecessor, and only then cleans up and closes its succ; else its successor would
// overtake the calls before it.
//
// Invariants: every submitted task is executed or sealed once, nobody is linked twice, no word of a
// slot without holders and no spec that was dropped is touched, the calls of a caller run in order,
// every task bit is cleared.
//
// Command line: [deaths = 1] [scenario, all by default]
#include "dependencies.hpp"

using mc::Ran;

namespace {

struct AdvanceFrame {
    uint8_t pc, t, claim, dep, w;
};
struct WatchFrame {
    uint8_t pc, dep, w;
};
struct DrainFrame {
    uint8_t pc, t, w;
};
struct MainFrame {
    uint8_t pc, i, t, flag;
};
struct WalkFrame {
    uint8_t pc, list, head, node, found;
};

struct Model : Words {
    static constexpr int actors = processes;
    AdvanceFrame advance_[processes];
    WatchFrame watch_[processes];
    DrainFrame drain_[processes];
    uint8_t moved_on[processes];  // what watch_next has found
    MainFrame publish_[processes], cascade_[processes], lane_[processes], main_[processes];
    MainFrame repair_, settle_;
    WalkFrame walk_;
    uint8_t walked;  // what the last walk has found
    uint8_t kept;    // what the dead had still to publish, as bits
    uint8_t finished[processes], dead[processes], repaired[processes], deaths;

    static const char* actor_name(int p) {
        static const char* const names[] = {"S0", "S1", "C", "W", "daemon"};
        return p == S1 && now_().cancels ? "X" : names[p];
    }

    // One dependency of t. Sealed: next++ and moved_on. Else t is linked on its watch, or, if the
    // dependency has an error, t gets the same error and is on my cascade.
    Ran watch_next(int me, WatchFrame& f, int t) {
        MC_BEGIN(f)
        f.dep = dep(t, spec(t).next);
        MC_STEP("advance: look at the dependency") f.w = at(f.dep).state;
        if (f.w == VALUE || (f.w == ERROR && now_().in_lane)) {
            MC_STEP("advance: next++") spec(t).next++;
            moved_on[me] = 1;
            MC_RETURN;
        }
        if (f.w == ERROR) {
            MC_STEP("advance: the dependency has an error: swap HELD -> RUNNING(me)")
            moved_on[me] = !swap_claim(me, t, HELD, RUNNING);
            if (moved_on[me]) MC_RETURN;
            MC_STEP("advance: the same error is written; claim = DONE(me)") task(t).claim = DONE;
            MC_STEP("advance: link = cascade") spec(t).link = record[me].cascade;
            MC_STEP("advance: cascade = it") record[me].cascade = t + 1;
            MC_RETURN;
        }
        if (is(fired_flag)) {
            MC_STEP("link: fired = 0") spec(t).fired = 0;
        }
        if (is(turn_before_link)) {
            MC_STEP("link: swap turn me -> nobody") give_up_turn(me, t);
        }
        MC_STEP("link: load watch") f.w = at(f.dep).watch;
        while (!(f.w & closed)) {
            MC_STEP("link: link = head") spec(t).link = f.w;
            MC_STEP("link: swap watch")
            if (swap_watch(t, f.dep, f.w)) {
                MC_STEP("link: swap turn me -> nobody") give_up_turn(me, t);
                MC_RETURN;
            }
            f.w = at(f.dep).watch;  // what the failed swap returned
        }
        moved_on[me] = 1;  // sealed by now
        MC_END
    }
    // Moves t on as far as possible, then its successor, and so on. It is my turn, and my op names
    // t.
    Ran advance(int me, AdvanceFrame& f, int first) {
        Record& mine = record[me];
        MC_BEGIN(f)
        f.t = first;
        for (;;) {
            MC_STEP("advance: load claim") f.claim = task(f.t).claim;
            if (f.claim != HELD && f.claim != CANCELLED) MC_RETURN;
            if (f.claim == HELD && spec(f.t).next < deps_of(f.t)) {
                MC_CALL(watch_next(me, watch_[me], f.t));
                if (moved_on[me]) {
                    moved_on[me] = 0;
                    continue;
                }
                MC_RETURN;
            }
            f.dep = spec(f.t).before;
            if (f.dep) {
                MC_STEP("lane: swap the predecessor's succ 0 -> task")
                f.w = swap_succ(f.dep - 1, f.t), f.dep = 0;
                if (f.w == closed) {
                    f.w = 0;
                } else {
                    MC_STEP("lane: swap turn me -> nobody") give_up_turn(me, f.t);
                    MC_RETURN;
                }
            }
            if (now_().in_lane && !is(no_pusher_hold)) {
                MC_STEP("lane: take a hold on the task") mine.lane_hold = f.t + 1;
            }
            if (is(succ_before_push)) {
                MC_STEP("lane: close succ")
                f.dep = task(f.t).succ & index_, task(f.t).succ |= closed;
            }
            if (f.claim == HELD) {
                MC_STEP("push: swap HELD -> QUEUED") f.w = swap_claim(me, f.t, HELD, QUEUED);
                if (f.w) {
                    MC_STEP("push: the ring") push(f.t);
                } else if (!is(push_not_looked_at)) {
                    f.claim = CANCELLED;
                }
            }
            if (f.claim == CANCELLED) {
                MC_STEP("husk: drop arguments and spec, clear the task bit") clean_up(f.t);
            }
            if (!now_().in_lane) MC_RETURN;
            if (!is(succ_before_push)) MC_CALL(close_succ(me, lane_[me], f.t));
            if (!is(succ_before_push)) f.dep = lane_[me].t, lane_[me].t = 0;
            if (f.dep) {
                MC_STEP("lane: op = ADVANCE(successor)") set_op(me, ADVANCE, f.dep - 1, 0);
            }
            if (mine.lane_hold) {
                MC_STEP("lane: drop the hold on the task") mine.lane_hold = 0;
            }
            if (!f.dep) MC_RETURN;
            f.t = f.dep - 1, f.dep = f.w = 0;
        }
        MC_END
    }
    // Closes t.succ and returns the successor + 1 in the frame's t. Its turn is mine before it
    // forgets its predecessor: a linker's turn together with a predecessor says "linked" to repair.
    Ran close_succ(int me, MainFrame& f, int t) {
        MC_BEGIN(f)
        MC_STEP("lane: close succ (fetch_or)") f.t = task(t).succ & index_, task(t).succ |= closed;
        if (is(forget_successor)) task(t).succ = closed;
        if (f.t) {
            if (is(forget_before_turn)) {
                MC_STEP("lane: the successor forgets its predecessor") spec(f.t - 1).before = 0;
            }
            MC_STEP("lane: turn of the successor = me") set_turn(me, f.t - 1);
            if (!is(forget_before_turn) && !is(remember_predecessor)) {
                MC_STEP("lane: the successor forgets its predecessor") spec(f.t - 1).before = 0;
            }
        }
        f = {0, 0, f.t, 0};
        return Ran::done;
        MC_END
    }

    // Pops the nodes of a CLOSED list one by one. The task comes into my hands before it leaves the
    // list.
    Ran drain(int me, DrainFrame& f, int r) {
        MC_BEGIN(f)
        for (;;) {
            MC_STEP("fire: load watch") f.w = at(r).watch & index_;
            if (!f.w) MC_RETURN;
            f.t = f.w - 1;
            MC_STEP("fire: op = FIRE(list, task)") set_op(me, FIRE, f.t, r);
            if (!is(turn_after_pop)) {
                MC_STEP("fire: turn = me") set_turn(me, f.t);
            }
            MC_STEP("fire: head = link") pop(r, f.t);
            if (is(turn_after_pop)) {
                MC_STEP("fire: turn = me") set_turn(me, f.t);
            }
            if (is(fired_flag)) {
                MC_STEP("fire: exchange fired") f.w = spec(f.t).fired, spec(f.t).fired = 1;
                if (f.w) continue;
            }
            MC_CALL(advance(me, advance_[me], f.t));
            MC_STEP("fire: op = 0") set_op(me, IDLE, 0, 0);
        }
        MC_END
    }
    // The broken order: the whole list is taken away before its tasks are advanced.
    Ran drain_whole(int me, DrainFrame& f, int r) {
        MC_BEGIN(f)
        MC_STEP("fire: take the whole list") f.w = at(r).watch & index_, at(r).watch = closed;
        while (f.w) {
            f.t = f.w - 1, task(f.t).linked = 0, f.w = spec(f.t).link;
            MC_STEP("fire: op = ADVANCE(task)") set_op(me, ADVANCE, f.t, 0), set_turn(me, f.t);
            MC_CALL(advance(me, advance_[me], f.t));
            MC_STEP("fire: op = 0") set_op(me, IDLE, 0, 0);
        }
        MC_END
    }
    // The claim is DONE: flip the state, advance who waits, drop arguments. Repeatable.
    Ran publish(int me, MainFrame& f, int r, int state) {
        MC_BEGIN(f)
        if (!has_task(r)) MC_RETURN;
        MC_STEP("publish: state") at(r).state = state;
        MC_STEP("publish: close the watch") at(r).watch |= closed;
        MC_CALL(is(whole_list) ? drain_whole(me, drain_[me], r) : drain(me, drain_[me], r));
        if (r >= t0 && task(r).claim == DONE) {
            MC_STEP("publish: drop arguments and spec, clear the task bit") clean_up(r);
        }
        MC_END
    }
    // Publishes what has got the error of a dependency, which may seal more: a worklist, no
    // recursion.
    Ran work_cascade(int me, MainFrame& f) {
        Record& mine = record[me];
        MC_BEGIN(f)
        while (mine.cascade) {
            f.t = mine.cascade - 1;
            MC_STEP("cascade: running.push(task)") mine.running[1] = f.t + 1;
            MC_STEP("cascade: cascade = link") mine.cascade = spec(f.t).link;
            MC_CALL(publish(me, publish_[me], f.t, ERROR));
            MC_STEP("cascade: running.pop()") mine.running[1] = 0;
        }
        MC_END
    }

    Ran sealer(int me, MainFrame& f) {
        MC_BEGIN(f)
        MC_CALL(publish(me, publish_[me], me, now_().error >> me & 1 ? ERROR : VALUE));
        MC_STEP("sealed: running.pop()") record[me].running[0] = 0;
        MC_CALL(work_cascade(me, cascade_[me]));
        MC_END
    }
    Ran caller(int me, MainFrame& f) {
        MC_BEGIN(f)
        for (f.t = t0; f.t < t0 + now_().n_tasks; f.t++) {
            MC_STEP("submit: op = ADVANCE(task)")
            set_op(me, ADVANCE, f.t, 0);
            task(f.t).claim = HELD, task(f.t).task_bit = 1, task(f.t).submitted = 1,
            set_turn(me, f.t);
            // Slot + 1 of the call before it.
            if (now_().in_lane && f.t > t0) task(f.t).pred = task(f.t).before = f.t;
            if (is(two_places) && task(f.t).pred) {
                MC_STEP("submit: link on the predecessor at once")
                if (!task(f.t - 1).succ) task(f.t - 1).succ = f.t + 1;
            }
            MC_CALL(advance(me, advance_[me], f.t));
            MC_STEP("submit: op = 0") set_op(me, IDLE, 0, 0);
            MC_CALL(work_cascade(me, cascade_[me]));
        }
        for (f.t = t0; f.t < t0 + now_().n_tasks; f.t++) {
            MC_STEP("forget the task: clear the owner bit") task(f.t).owner_bit = 0;
        }
        MC_END
    }
    // X cancels t1 while it may be HELD, linked anywhere, QUEUED or DONE. X does not die (it is the
    // daemon).
    Ran canceller(int me, MainFrame& f) {
        MC_BEGIN(f)
        MC_WAIT(task_[t1 - t0].submitted, "cancel: t1 was submitted; take a hold on it")
        if (!is_alive(t1)) MC_RETURN;
        if (!is(canceller_without_hold)) record[me].hold = t1 + 1;
        MC_STEP("cancel: load claim") f.t = is_alive(t1) ? task(t1).claim : uint8_t(NONE);
        if (f.t == HELD) {
            MC_STEP("cancel: swap HELD -> CANCELLED") f.flag = swap_claim(me, t1, HELD, CANCELLED);
            if (f.flag && is(canceller_closes)) {
                MC_STEP("cancel: close succ at once")
                f.t = task(t1).succ & index_, task(t1).succ |= closed;
                if (f.t >= t0 + 1 && task(f.t - 1).claim == HELD) {
                    MC_STEP("cancel: op = ADVANCE(successor)") set_turn(me, f.t - 1);
                    MC_CALL(advance(me, advance_[me], f.t - 1));
                }
            }
            if (f.flag) {
                MC_STEP("cancel: state") at(t1).state = ERROR;
                MC_STEP("cancel: close the watch") at(t1).watch |= closed;
                MC_CALL(drain(me, drain_[me], t1));
            }
        } else if (f.t == QUEUED) {
            MC_STEP("cancel: swap QUEUED -> RUNNING") f.flag = swap_claim(me, t1, QUEUED, RUNNING);
            if (f.flag) {
                MC_STEP("cancel: claim = DONE") task(t1).claim = DONE;
                MC_CALL(publish(me, publish_[me], t1, ERROR));
            }
        }
        MC_STEP("cancel: drop the hold") record[me].hold = 0;
        MC_END
    }
    void execute(int t) {
        if (!is_alive(t) || task(t).claim != QUEUED) return;  // a stale entry
        task(t).claim = DONE, task(t).claimer = W;
        if (++task(t).executed > 1) blame(twice);
        for (int before = t0; before < t && now_().in_lane; before++) {
            int claim = task_[before - t0].claim;
            if (claim == HELD || claim == QUEUED) blame(order);
        }
    }
    Ran worker(int me, MainFrame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT(ring_head < ring_tail, "take: claim the first entry and remove it")
            f.t = ring[ring_head];
            ring[ring_head++] = 0;
            f.flag = is_alive(f.t) && task(f.t).claim == QUEUED;
            execute(f.t);
            if (f.flag) MC_CALL(publish(me, publish_[me], f.t, VALUE));
            f.t = f.flag = 0;
        }
        MC_END
    }

    // The daemon reads what may be somebody else's, dropped or freed by now. What it has read
    // counts only if the turn is still the dead's afterwards: then nobody has moved the task
    // meanwhile. (Mind the bounds of what is read.)
    Task& raw(int t) { return task_[t - t0]; }
    // Is t in the list it would wait on? The walk counts only if the head is the same afterwards.
    Ran walk(WalkFrame& f, int t) {
        MC_BEGIN(f)
        f.list = dep(t, raw(t).next % deps_max);
        do {
            MC_STEP("repair: walk: load the head") f.head = slot[f.list].watch, f.found = 0;
            f.node = f.head & index_;
            while (f.node && !f.found) {
                MC_STEP("repair: walk: load a link")
                f.found = f.node == t + 1, f.node = raw(f.node - 1).link & index_;
            }
            MC_STEP("repair: walk: is the head the same?")
        } while (slot[f.list].watch != f.head && !is(walk_not_checked));
        walked = f.found;
        MC_END
    }
    // The op of the dead names t. How far did it come?
    Ran settle(int me, MainFrame& f, int p, int t) {
        MC_BEGIN(f)
        MC_STEP("repair: load claim") f.i = raw(t).claim;
        if (f.i == HELD || f.i == CANCELLED) {
            MC_STEP("repair: is it the dead's turn?") f.flag = raw(t).turn == p + 1 || is(no_turn);
            if (is(fired_flag)) f.flag = !raw(t).fired, raw(t).fired = 1;
            if (f.flag && has_task(t)) {
                walked = 0;
                if (raw(t).next < deps_of(t) && !is(no_turn) && !is(fired_flag))
                    MC_CALL(walk(walk_, t));
                f.t = raw(t).before;
                if (!walked && f.t && !is(no_turn)) {
                    MC_STEP("repair: does its predecessor's succ name it?")
                    walked = (raw(f.t - 1).succ & index_) == t + 1;
                }
                if (walked) {
                    walked = 0;
                    MC_STEP("repair: linked: swap turn dead -> nobody") give_up_turn(p, t);
                } else {
                    MC_STEP("repair: not linked: swap turn dead -> me")
                    f.i = raw(t).turn == p + 1 || is(no_turn) || is(fired_flag);
                    if (f.i) {
                        set_turn(me, t);
                        MC_CALL(advance(me, advance_[me], t));
                        if (!is(lane_ended_twice)) MC_RETURN;  // the end of its lane was seen to
                    }
                }
            }
        } else if (f.i == QUEUED) {
            MC_STEP("repair: is it in the ring?") f.flag = is_in_ring(t);
            if (!f.flag) {
                MC_STEP("repair: still QUEUED? push it")
                if (task_[t - t0].claim == QUEUED) push(t);
            }
        } else if (f.i == RUNNING && task_[t - t0].claimer == p) {
            MC_STEP(
                "repair: it was about to take over an error: a worker will find it: RUNNING -> "
                "QUEUED")
            task(t).claim = QUEUED, task(t).sealed--;
            MC_STEP("repair: push it") push(t);
        } else if (f.i == DONE && task_[t - t0].claimer == p) {
            MC_CALL(publish(me, publish_[me], t, ERROR));
        }
        if (record[p].lane_hold ==
            t + 1) {  // the dead was ending t's lane: its successor is nobody else's
            MC_CALL(close_succ(me, lane_[me], t));
            f.t = lane_[me].t, lane_[me].t = 0;
            if (f.t) MC_CALL(advance(me, advance_[me], f.t - 1));
        }
        MC_END
    }
    Ran finish_op(int me, MainFrame& f, int p) {
        const Record& theirs = record[p];
        MC_BEGIN(f)
        f.t = theirs.op_task;
        if (theirs.op == FIRE) {
            MC_STEP("repair: is it still the head of the list?")
            f.flag = at(theirs.op_list).watch == (closed | (f.t + 1));
            if (f.flag) {
                MC_STEP("repair: turn = me") set_turn(me, f.t);
                MC_STEP("repair: pop it") pop(theirs.op_list, f.t);
                MC_CALL(advance(me, advance_[me], f.t));
                MC_RETURN;
            }
        }
        if (theirs.op) MC_CALL(settle(me, settle_, p, f.t));
        MC_END
    }
    int next_dead() const {
        for (int p = 0; p < processes; p++)
            if (dead[p] && !repaired[p]) return p;
        return nobody;
    }
    Ran daemon(int me, MainFrame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT(next_dead() != nobody, "a pidfd says: dead; note its cascade")
            f.i = next_dead();
            for (f.t = record[f.i].cascade; f.t; f.t = task_[f.t - 1 - t0].link)
                kept |= 1 << (f.t - 1);
            for (uint8_t r : record[f.i].running)
                if (r && (r <= t0 ||
                          (task_[r - 1 - t0].claim == DONE && task_[r - 1 - t0].claimer == f.i)))
                    kept |= 1 << (r - 1);
            if (!is(cascade_first)) MC_CALL(finish_op(me, repair_, f.i));
            for (f.t = 0; f.t < slots; f.t++)
                if (kept >> f.t & 1)
                    MC_CALL(publish(me, publish_[me], f.t,
                                    f.t >= t0 || now_().error >> f.t & 1 ? ERROR : VALUE));
            if (is(cascade_first)) MC_CALL(finish_op(me, repair_, f.i));
            MC_CALL(work_cascade(me, cascade_[me]));
            MC_STEP("repair: drop what the dead held")
            record[f.i] = {};
            for (Task& t : task_)
                if (f.i == C) t.owner_bit = 0;
            repaired[f.i] = 1;
            f.i = f.t = kept = 0;
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
    bool may_die(int p) const {
        bool mortal = p == S0 || p == C || (p == S1 && !now_().cancels);
        return mortal && !dead[p] && !finished[p] && deaths < config.deaths;
    }
    void die(int p) {
        dead[p] = finished[p] = 1, deaths++;
        main_[p] = publish_[p] = cascade_[p] = lane_[p] = {};
        advance_[p] = {}, watch_[p] = {}, drain_[p] = {}, moved_on[p] = 0;
    }
    const char* wrong_now() const {
        static const char* const words[] = {nullptr,
                                            "a word of a slot without holders was touched",
                                            "a spec that was dropped was read",
                                            "a node was linked twice",
                                            "calls were executed out of order",
                                            "a task was executed twice",
                                            "a node was popped that is not the head",
                                            "the ring of the model is too small"};
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
        m.record[S0].running[0] = d0 + 1;
        if (!now_().cancels) m.record[S1].running[0] = d1 + 1;
        for (int p = 0; p < actors; p++) m.step(p);
        return m;
    }
};

}  // namespace

int main(int argc, char** argv) {
    mc::Report report("dependencies", argc, argv);
    config.deaths = report.number(0, 1);
    int only = report.number(1, -1);
    auto run = [&](const char* name, Broken broken, int first = 0) {
        config.broken = broken;
        report.variant(name, broken != right, only < 0 ? scenarios : 1, [&](int s) {
            return Model::start(only < 0 ? (s + first) % scenarios : only);
        });
    };
    run("the protocol", right);
    run("repair does not ask whose turn it is", no_turn);
    run("a fired flag in the node instead of the turn", fired_flag);
    run("the popper takes the turn after the pop", turn_after_pop);
    run("the linker gives the turn up before the link", turn_before_link);
    run("the walk is not checked", walk_not_checked, 5);
    run("the list is taken whole before its tasks are advanced", whole_list);
    run("closing succ forgets the successor", forget_successor, 1);
    run("the successor does not forget its predecessor", remember_predecessor, 1);
    run("the successor forgets its predecessor before the turn", forget_before_turn, 1);
    run("the pusher has no hold on the task", no_pusher_hold, 1);
    run("succ is closed before the push", succ_before_push, 1);
    run("repair ends a lane that it has ended itself", lane_ended_twice, 1);
    run("repair publishes before it looks at the op", cascade_first, 2);
    run("advanced from two places: succ and watch at once", two_places, 1);
    run("the canceller closes succ at once", canceller_closes, 3);
    run("the canceller has no hold on the task", canceller_without_hold, 3);
    run("a push that fails is not looked at", push_not_looked_at, 4);
    return report.exit_status();
}
