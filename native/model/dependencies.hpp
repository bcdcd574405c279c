// The words of the model of dependencies: scenarios, slots, tasks, process records, and what one
// atomic step may do to them. dependencies.cpp has the protocol and says what it is about.
//
// Everything that touches a slot without holders, or a spec that was dropped, is blamed: in node
// memory the bytes may be somebody else's by then.
#pragma once

#include "checker.hpp"

namespace {

enum Broken {
    right, no_turn, fired_flag, turn_after_pop, turn_before_link, walk_not_checked, whole_list,
    forget_successor, remember_predecessor, forget_before_turn, no_pusher_hold, succ_before_push,
    two_places, canceller_closes, canceller_without_hold, push_not_looked_at,
    lane_ended_twice, cascade_first
};
struct Config {
    Broken broken = right;
    int deaths = 1, scenario = 0;
} config;
bool is(Broken b) { return config.broken == b; }

// Two sealers (in some scenarios S1 is a canceller, X), the caller, a worker, the daemon.
enum { S0, S1, C, W, D, processes };
constexpr int tasks = 3, deps_max = 2, slots = deps_max + tasks;
enum { d0, d1, t0, t1, t2, nobody = 15 };

struct Scenario {
    int n_tasks;
    bool in_lane, cancels;
    uint8_t error;                    // dependencies that are sealed with an error, as bits
    int n_deps[tasks];
    uint8_t deps[tasks][deps_max];
};
constexpr int scenarios = 6;
const Scenario table[scenarios] = {
    // Two lists, one of them with two nodes.
    {2, false, false, 0, {2, 1, 0}, {{d0, d1}, {d0}, {}}},
    // Two calls of one caller, ready in any order.
    {2, true, false, 0, {1, 1, 0}, {{d0}, {d1}, {}}},
    // An error runs through a tree.
    {3, false, false, 1, {1, 1, 1}, {{d0}, {t0}, {t0}}},
    // X cancels the middle one of three calls.
    {3, true, true, 0, {1, 0, 0}, {{d0}, {}, {}}},
    // X cancels the second of two tasks.
    {2, false, true, 0, {1, 1, 0}, {{d0}, {d0}, {}}},
    // A list whose nodes move on while the daemon walks it.
    {2, false, false, 0, {2, 2, 0}, {{d0, d1}, {d1, t0}, {}}},
};
const Scenario& now_() { return table[config.scenario]; }
int deps_of(int t) { return now_().n_deps[t - t0]; }
int dep(int t, int i) { return now_().deps[t - t0][i]; }

enum State : uint8_t { PENDING, VALUE, ERROR };
enum Claim : uint8_t { NONE, HELD, QUEUED, RUNNING, DONE, CANCELLED };
enum Kind : uint8_t { IDLE, ADVANCE, FIRE };
constexpr uint8_t closed = 0x80, index_ = 0x7f;

struct Slot {
    uint8_t watch, state;  // watch: CLOSED and slot + 1
};
struct Task {
    uint8_t claim, claimer, turn, succ, task_bit, owner_bit;  // turn: process + 1
    uint8_t next, link, before, pred, fired;  // in the spec; pred: the hold on `before`, slot + 1
    uint8_t submitted, linked, executed, sealed;              // ghosts: what has really happened
};
struct Record {
    uint8_t op, op_task, op_list, cascade, lane_hold, hold;
    uint8_t running[2];  // what it publishes: its own result, and one task of its cascade
};

// The shared words, and what may be done to them in one step.
struct Words {
    Slot slot[slots];
    Task task_[tasks];
    Record record[processes];
    uint8_t ring[6], ring_head, ring_tail, fault;

    enum Fault : uint8_t {
        fine, after_free, after_drop, linked_twice, order, twice, not_mine, ring_full
    };
    void blame(Fault f) {
        if (!fault) fault = f;
    }
    bool is_alive(int s) const {
        if (s < t0) return true;
        const Task& t = task_[s - t0];
        bool held = t.task_bit || t.owner_bit;
        for (const Record& r : record) held |= r.hold == s + 1 || r.lane_hold == s + 1;
        for (int u = t0; u < t0 + now_().n_tasks && !held; u++) {
            held = task_[u - t0].pred == s + 1;
            for (int i = 0; i < deps_of(u); i++)
                held |= task_[u - t0].task_bit && dep(u, i) == s;  // arguments
        }
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
    Task& spec(int s) {  // gone once the task bit is cleared
        if (!task(s).task_bit) blame(after_drop);
        return task_[s - t0];
    }
    bool has_task(int s) const { return s < t0 || task_[s - t0].task_bit; }
    void set_op(int me, Kind kind, int t, int list) {
        record[me].op = kind, record[me].op_task = t, record[me].op_list = list;
    }
    void set_turn(int me, int t) { task(t).turn = me + 1; }
    void give_up_turn(int me, int t) {
        if (task_[t - t0].turn == me + 1) task_[t - t0].turn = 0;
    }
    bool swap_claim(int me, int t, Claim from, Claim to) {
        Task& x = task(t);
        if (x.claim != from) return false;
        x.claim = to, x.claimer = me;
        if (to == RUNNING || to == CANCELLED) x.sealed++;
        return true;
    }
    bool swap_watch(int t, int d, uint8_t seen) {
        if (at(d).watch != seen) return false;
        if (task(t).linked) blame(linked_twice);
        task(t).linked = 1, at(d).watch = t + 1;
        return true;
    }
    void pop(int list, int t) {
        if (at(list).watch != (closed | (t + 1))) blame(not_mine);
        task(t).linked = 0, at(list).watch = closed | spec(t).link;
    }
    uint8_t swap_succ(int before, int t) {
        uint8_t& succ = task(before).succ;
        if (!succ) succ = t + 1;
        return succ & closed;
    }
    void push(int t) {
        if (ring_tail == sizeof ring) return blame(ring_full);
        ring[ring_tail++] = t;
    }
    bool is_in_ring(int t) const {
        for (int i = ring_head; i < ring_tail; i++)
            if (ring[i] == t) return true;
        return false;
    }
    void clean_up(int t) { task(t).task_bit = 0, task_[t - t0].pred = 0; }
};

}  // namespace
