// Dependencies: a HELD task waits for one thing at a time, and whoever ends that thing advances it.
//
//   slot.watch   CLOSED bit, node: list of who waits for this slot. A node is a task (its slot; the
//   link is in its
//                spec) or a Node of a process. Before CLOSED nodes are only pushed, afterwards only
//                popped, by one popper: the one who publishes the slot.
//   turn         who may advance the task (in its slot's size word). It is set by the submitter,
//   and by a popper
//                *before* it pops; after linking, the linker swaps its own turn to "nobody" (which
//                fails if a popper was faster). So after a death: turn == the dead, and the task is
//                not in the list it would wait on, means that it was never linked, and the daemon
//                goes on.
//   succ         the same for the calls of one caller to one actor: a call that could not be pushed
//   at once is
//                waited for by the next one as a last, pseudo dependency, and CLOSED once it is in
//                the ring.
//
// There is no counter of open dependencies, so nothing to recount after a death, and the error
// cascade is a list, not a recursion: a chain of a million tasks fails in constant stack.
#include <algorithm>
#include <cstring>

#include "memory.hpp"

namespace shoal {

void Memory::set_turn(u32 t, u32 process_plus_1) {
  slot(t).size.store(make_turn(slot(t).gen.load(RLX), process_plus_1), SEQ);
}

void Memory::fire(u32 s) {
  Slot& x = slot(s);
  x.watch.fetch_or(CLOSED, SEQ);
  while (u32 node = x.watch.load(ACQ) & ~CLOSED) {
    proc(me).task_op.store(make_task_op(TASK_FIRE, s, node), SEQ);
    fire_node(s, node);
    proc(me).task_op.store(0, REL);
  }
}

// Pop the head `node` of the closed list of `s` and tell it.
void Memory::fire_node(u32 s, u32 node) {
  Slot& x = slot(s);
  if (!(node & NODE_TAG)) {
    Spec* t = spec(node);
    set_turn(node, me + 1);
    x.watch.store(CLOSED | t->link.load(RLX), SEQ);
    advance(node);
    return;
  }
  Node& n = at<Node>(off.nodes)[node & INDEX & ~NODE_TAG];
  u32 p = n.proc.load(RLX), epoch = n.epoch.load(RLX);
  x.watch.store(CLOSED | n.next.load(RLX), SEQ);
  n.state.store(2,
                REL);  // before the push: its process may use the node again once it sees the entry
  if (proc(p).epoch.load(ACQ) != epoch) return;
  if (!completions(p).push((node & INDEX & ~NODE_TAG) + 1)) proc(p).rescan.store(1, SEQ);
  tell_completion(p);
}

// The daemon looks when its bell is rung; everybody else may sleep on the word.
void Memory::tell_completion(u32 p) {
  proc(p).cdoor.fetch_add(1, SEQ);
  if (p == 0)
    ring_daemon();
  else
    platform::futex_wake(proc(p).cdoor);
}

void Memory::advance(u32 t) {
  while (t) t = advance_one(t);
}

// It is my turn for `t`, and my task_op names it. Returns the next one to advance (a successor in
// the same lane).
u32 Memory::advance_one(u32 t) {
  Slot& x = slot(t);
  Spec* sp = spec(t);
  if (!sp) return 0;
  const bool lane = sp->flags & F_LANE;
  for (;;) {
    u64 c = x.claim.load(ACQ);
    const u64 key = make_key(t, claim_gen(c));
    if (claim_state(c) ==
        CANCELLED) {  // sealed already by whoever cancelled it; the rest was left to me
      // A husk still keeps its place in the lane: its successor must not overtake its predecessor.
      if (u32 before = sp->predecessor.load(RLX); lane && before && link_lane(t, before)) return 0;
      if (lane) hold(t, 1, false, &proc(me).lane_hold);
      cleanup(key);
      return lane ? end_lane(t) : 0;
    }
    if (claim_state(c) != HELD) return 0;
    u32 i = sp->next.load(RLX);
    if (i < sp->n_dependencies) {
      u32 d = hold_slot(sp->holds()[i].load(RLX));
      Slot& y = slot(d);
      if ((y.state.load(SEQ) & ~WAITERS) == SEALED) {
        // An ordered call with a failed argument goes through the queue all the same: its place in
        // the order is what its successor waits for, and the worker finds the error when it loads
        // the argument.
        if (is_error(y.kind.load(RLX)) && (!(sp->flags & F_ACTOR) || (sp->flags & F_UNORDERED))) {
          if (seal_like(t, d)) return 0;
          continue;
        }
        sp->next.store(i + 1, REL);
        continue;
      }
      u32 w = y.watch.load(SEQ);
      const u64 mine = x.size.load(RLX);
      while (!(w & CLOSED)) {
        sp->link.store(w, REL);
        if (y.watch.compare_exchange_weak(w, t, SEQ)) {
          // Linked: from here on `t` may run and end at any moment; only its slot may be touched.
          u64 turn = mine;
          x.size.compare_exchange_strong(turn, make_turn(claim_gen(c), 0), SEQ);
          return 0;
        }
      }
      continue;  // CLOSED is set after SEALED: look again
    }
    if (u32 before = sp->predecessor.load(RLX); before && link_lane(t, before)) return 0;
    if (sp->flags & F_TIMED) sp->times()->queued.store(platform::now_ns(), RLX);
    // Cancelled meanwhile: look at the claim again, the arguments are mine to drop.
    if (!lane) {
      if (push(t)) return 0;
      continue;
    }
    hold(t, 1, false, &proc(me).lane_hold);
    if (push(t)) return end_lane(t);
    hold(t, -1, false, &proc(me).lane_hold);
  }
}

// Wait for the caller's previous call. False if it is in the ring already.
bool Memory::link_lane(u32 t, u32 predecessor) {
  Slot& x = slot(t);
  u32 none = 0;
  u64 turn = x.size.load(RLX);
  const u64 nobody = make_turn(x.gen.load(RLX), 0);
  if (!slot(predecessor).succ.compare_exchange_strong(none, t, SEQ)) return false;
  x.size.compare_exchange_strong(turn, nobody, SEQ);
  return true;
}

// `t` is in the ring, or ended without it: its successor may go. My lane_hold keeps `t` alive so
// far.
u32 Memory::end_lane(u32 t) {
  u32 u = slot(t).succ.fetch_or(CLOSED, SEQ) & INDEX;
  if (u) {
    set_turn(u, me + 1);  // nobody else may: only who closed t.succ
    // After the turn: a repair of the linker that still sees its own turn must not take 0 for
    // "never linked".
    if (Spec* next = spec(u)) next->predecessor.store(0, SEQ);
    proc(me).task_op.store(make_task_op(TASK_ADVANCE, u), SEQ);
  }
  hold(t, -1, false, &proc(me).lane_hold);
  return u;
}

// A dependency failed: `t` ends with the same error, without a worker. False if `t` was cancelled
// meanwhile.
bool Memory::seal_like(u32 t, u32 dependency) {
  Slot& x = slot(t);
  u64 c = x.claim.load(ACQ);
  if (claim_state(c) != HELD ||
      !x.claim.compare_exchange_strong(c, make_claim(claim_gen(c), 1, RUNNING, me), SEQ))
    return false;
  Slot& y = slot(dependency);
  ValueParts v;
  v.format = y.kind.load(RLX);
  v.data = value_bytes(dependency, false);
  for (u64 key : contained(make_key(dependency, y.gen.load(RLX))))
    v.contained.push_back(key_slot(key));
  Spec* sp = spec(t);
  for (u32 i = 0; i < sp->n_returns; i++) {
    u32 r = key_slot(sp->returns()[i]);
    u8 bare[INLINE_BYTES];
    if (write_value(r, v, true, platform::copy) != Status::Ok)
      write_inline(r, ERROR_RECORD, bare, bare_record(v.format, v.data, bare));
  }
  note_failed(make_key(t, claim_gen(c)), event_of(*sp), v.format, v.data);
  x.claim.store(make_claim(claim_gen(c), 1, DONE, me), SEQ);
  Proc& r = proc(me);
  x.queue.store(r.cascade.load(RLX), REL);
  r.cascade.store(t, SEQ);
  return true;
}

// Publish what the cascade has sealed; each may seal more. No task_op is set here.
void Memory::work_cascade() {
  if (cascading) return;
  cascading = true;
  Proc& r = proc(me);
  while (u32 t = r.cascade.load(RLX)) {
    const u64 key = make_key(t, slot(t).gen.load(RLX));
    const u32 place = running_push(key);  // names it while it is on no list
    r.cascade.store(slot(t).queue.load(RLX), REL);
    publish(key, false);
    running_pop(place);
  }
  cascading = false;
}

// ---- repair's half

// Task `t` was named by the dead process p's task_op. Find out how far it came, and go on.
void Memory::settle(u32 p, u32 t) {
  Slot& x = slot(t);
  proc(me).task_op.store(make_task_op(TASK_ADVANCE, t), SEQ);
  u64 c = x.claim.load(ACQ);
  const u64 turn = make_turn(claim_gen(c), p + 1);
  switch (claim_state(c)) {
    case HELD:
    case CANCELLED: {
      if (x.size.load(SEQ) != turn) break;  // linked, or somebody else is at it
      Spec* sp = spec(t);
      if (!sp) break;
      bool linked = false;
      u32 i = sp->next.load(RLX);
      // What is read here may be dropped or reused by somebody else at this moment; that is
      // harmless, since the swap of the turn decides, but no index may lead outside the tables.
      u64 e = i < sp->n_dependencies ? sp->holds()[i].load(RLX) : 0;
      if (e && hold_slot(e) < SLOTS) {
        Slot& y = slot(hold_slot(e));
        u32 before;
        do {  // the walk counts only if the list did not change meanwhile
          before = y.watch.load(SEQ);
          linked = false;
          u32 n = before & ~CLOSED;
          for (u32 k = 0; n && !linked && k < (1u << 22); k++) {
            linked = n == t;
            const u32 index = n & INDEX & ~NODE_TAG;
            if (index >= SLOTS) break;
            if (n & NODE_TAG) {
              n = at<Node>(off.nodes)[index].next.load(RLX) & ~CLOSED;
            } else {
              Spec* other = spec(index);
              n = other ? other->link.load(RLX) & ~CLOSED : 0;
            }
          }
        } while (y.watch.load(SEQ) != before);
      }
      if (u32 before = sp->predecessor.load(SEQ); before && before < SLOTS && !linked)
        linked = (slot(before).succ.load(SEQ) & INDEX) == t;
      u64 mine = turn;
      if (linked)
        x.size.compare_exchange_strong(mine, make_turn(claim_gen(c), 0), SEQ);
      else if (x.size.compare_exchange_strong(mine, make_turn(claim_gen(c), me + 1), SEQ)) {
        advance(t);  // ends t's lane too
        proc(me).task_op.store(0, REL);
        return;
      }
      break;
    }
    case QUEUED:
      // An entry cannot vanish while the task is QUEUED; one too many is harmless.
      if (!ring(x.queue.load(ACQ)).contains(t) && claim_state(x.claim.load(SEQ)) == QUEUED) {
        if (!ring(x.queue.load(ACQ)).push(t)) queue(x.queue.load(ACQ)).overflow = 1;
        wake(x.queue.load(ACQ));
      }
      break;
    case RUNNING:  // it was about to take over a dependency's error: a worker will find the error
                   // too
      if (claim_worker(c) == p) {
        Spec* sp = spec(t);
        for (u32 i = 0; sp && i < sp->n_returns; i++) discard_value(key_slot(sp->returns()[i]));
        if (x.claim.compare_exchange_strong(c, make_claim(claim_gen(c), 1, QUEUED, 0), SEQ)) {
          if (!ring(x.queue.load(ACQ)).push(t)) queue(x.queue.load(ACQ)).overflow = 1;
          wake(x.queue.load(ACQ));
        }
      }
      break;
    case DONE:
      if (claim_worker(c) == p) publish(make_key(t, claim_gen(c)), true);
      break;
    default:
      break;
  }
  // If p was ending t's lane, t is kept by p's lane_hold, and only p (now we) may advance the
  // successor.
  u64 h = proc(p).lane_hold.load(ACQ);
  if (h && hold_slot(h) == t) {
    u32 u = x.succ.fetch_or(CLOSED, SEQ) & INDEX;
    u64 st = u ? claim_state(slot(u).claim.load(ACQ)) : 0;
    if (st == HELD || st == CANCELLED) {
      set_turn(u, me + 1);
      if (Spec* next = spec(u)) next->predecessor.store(0, SEQ);
      proc(me).task_op.store(make_task_op(TASK_ADVANCE, u), SEQ);
      advance(u);
    }
  }
  proc(me).task_op.store(0, REL);
}

void Memory::finish_task_op(u32 p) {
  Proc& r = proc(p);
  u64 op = r.task_op.load(ACQ);
  u32 s = u32(op >> 32) & 0x0fffffff, node = u32(op);
  switch (op >> 60) {
    case TASK_BUILD: {
      // Never visible to anybody: undo. The spec's content is valid once the claim says HELD.
      u64 c = slot(s).claim.load(ACQ);
      if (claim_state(c) == HELD && claim_gen(c) == slot(s).gen.load(ACQ)) {
        cleanup(make_key(s, claim_gen(c)));
      } else if (u64 o = slot(s).spec.load(ACQ); o && block_is(o, s)) {
        free_block(o, 0, s);
        slot(s).spec.store(0, REL);
      }
      break;
    }
    case TASK_ADVANCE:
      settle(p, s);
      break;
    case TASK_FIRE: {
      bool is_head = slot(s).watch.load(ACQ) == (CLOSED | node);
      if (node & NODE_TAG) {
        Node& n = at<Node>(off.nodes)[node & INDEX & ~NODE_TAG];
        if (is_head)
          fire_node(s, node);
        else if (n.key.load(RLX) == make_key(s, slot(s).gen.load(RLX)) &&
                 proc(n.proc.load(RLX)).epoch.load() == n.epoch.load(RLX)) {
          u32 q = n.proc.load(RLX);  // popped, perhaps not told: tell it (again)
          if (n.state.load(ACQ) == 1) n.state.store(2, REL);  // nobody else would
          if (!completions(q).push((node & INDEX & ~NODE_TAG) + 1)) proc(q).rescan.store(1, SEQ);
          tell_completion(q);
        }
        break;
      }
      if (is_head) {
        proc(me).task_op.store(make_task_op(TASK_FIRE, s, node), SEQ);
        fire_node(s, node);
        proc(me).task_op.store(0, REL);
      } else {
        settle(p, node);
      }
      break;
    }
    default:
      break;
  }
  r.task_op.store(0, REL);
  if (u64 h = r.lane_hold.load(ACQ)) hold(hold_slot(h), -1, false, &r.lane_hold);
  work_cascade();
}

}  // namespace shoal
