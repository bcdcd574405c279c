// Values and tasks: write, submit, take, commit, publish.
//
//   build      slots and spec are mine alone; task_op = BUILD(s) so that a death undoes all of it
//   submit     task_op = ADVANCE(s) is the commit: from here on the task runs, whoever dies
//   take       running.push, then the claim QUEUED -> RUNNING(me) while the entry is still in the
//   ring, then
//              the entry is removed: a taken task is always named by somebody
//   commit     every return is written, then claim = DONE: one store commits all of them
//   publish    the slots flip, sleepers wake, dependents advance, arguments are dropped, task bits
//   cleared;
//              every step can be repeated, and repair repeats all of it for what a dead process had
//              DONE
#include <algorithm>
#include <cstring>

#include "memory.hpp"

namespace shoal {

// ---- values

void Memory::write_inline(u32 s, u8 format, const void* data, u32 n) {
  Slot& x = slot(s);
  std::memcpy(x.inline_bytes, data, n);
  if (!keep_turn) x.size.store(n, RLX);
  x.kind.store(format, RLX);
}

static u64 align(u64 x, u64 to) { return (x + to - 1) & ~(to - 1); }

// Layout of the block: header, contained, buffer table, data, buffers (each 64-byte aligned, as
// NumPy likes it).
Status Memory::write_value(u32 s, const ValueParts& v, bool reserve,
                           const std::function<void(void*, const void*, u64)>& copier) {
  if (v.buffers.empty() && v.contained.empty() && v.data.size <= INLINE_BYTES && !keep_turn) {
    write_inline(s, v.format, v.data.data, u32(v.data.size));
    return Status::Ok;
  }
  u64 p = sizeof(ValueHeader) + 8 * v.contained.size() + 16 * v.buffers.size();
  const u64 data_offset = p = align(p, v.data.size >= 4096 ? 64 : 16);
  p += v.data.size;
  std::vector<u64> places;
  for (auto& b : v.buffers) {
    p = align(p, 64);
    places.push_back(p);
    p += b.size;
  }
  u64 offset;
  Status st = new_block(p, s, false, reserve, offset);
  if (st != Status::Ok) return st;
  Slot& x = slot(s);
  auto* h = at<ValueHeader>(offset);
  h->n_contained = u32(v.contained.size());
  h->n_buffers = u32(v.buffers.size());
  h->data_offset = data_offset;
  h->data_size = v.data.size;
  auto* table = reinterpret_cast<atom<u64>*>(h + 1);
  for (size_t i = 0; i < v.contained.size(); i++) table[i].store(0, RLX);
  if (!v.contained.empty()) x.flags.fetch_or(HAS_TABLE, REL);
  for (size_t i = 0; i < v.contained.size(); i++)
    if (v.contained[i] && !hold(v.contained[i], 1, false, &table[i])) return Status::Gone;
  auto* buffers = reinterpret_cast<u64*>(table + v.contained.size());
  for (size_t i = 0; i < places.size(); i++) {
    buffers[2 * i] = places[i];
    buffers[2 * i + 1] = v.buffers[i].size;
  }
  if (!keep_turn) x.size.store(p, RLX);
  x.kind.store(v.format, RLX);
  copier(rw + offset + data_offset, v.data.data, v.data.size);
  for (size_t i = 0; i < places.size(); i++)
    if (v.buffers[i].data) copier(rw + offset + places[i], v.buffers[i].data, v.buffers[i].size);
  return Status::Ok;
}

Bytes Memory::data_in(u64 block, bool read_only) {
  auto* h = at<ValueHeader>(block);
  return {(read_only ? ro : rw) + block + h->data_offset, h->data_size};
}

Bytes Memory::value_bytes(u32 s, bool read_only) {
  Slot& x = slot(s);
  if (const u64 block = x.block.load(ACQ)) return data_in(block, read_only);
  u64 n = x.size.load(RLX);
  return {x.inline_bytes, is_turn(n) ? sizeof FULL_RECORD : n};
}

std::vector<u64> Memory::contained(u64 key) {
  const u32 s = key_slot(key);
  std::vector<u64> keys;
  if (!is_live(key)) return keys;
  auto add = [&](const atom<u64>* table, u32 n) {
    for (u32 i = 0; i < n; i++)
      if (const u64 e = table[i].load(ACQ))
        keys.push_back(make_key(hold_slot(e), slot(hold_slot(e)).gen.load(ACQ)));
  };
  if (Spec* t = is_ready(key) ? nullptr : spec(s)) {
    add(t->holds(), t->n_dependencies + t->n_contained);
  } else if (const u64 block = block_of(slot(s).block.load(ACQ));
             block && (slot(s).flags.load(ACQ) & HAS_TABLE) && block_is(block, s)) {
    auto* h = at<ValueHeader>(block);
    add(reinterpret_cast<atom<u64>*>(h + 1), h->n_contained);
  }
  return keys;
}

// What a dead or failed attempt had written: contained holds, then the block. Repeatable.
void Memory::discard_value(u32 s) {
  Slot& x = slot(s);
  const u64 word = x.block.load(ACQ), block = block_of(word);
  if (!word) return;
  if (block && block_is(block, s)) {
    if (x.flags.load(RLX) & HAS_TABLE) {
      auto* h = at<ValueHeader>(block);
      auto* table = reinterpret_cast<atom<u64>*>(h + 1);
      for (u32 i = 0; i < h->n_contained; i++)
        if (u64 e = table[i].load(RLX)) hold(hold_slot(e), -1, false, &table[i]);
    }
    free_block(block, 0, s);
  }
  x.flags.fetch_and(u8(~HAS_TABLE));
  x.block.store(0, REL);
}

void Memory::seal_mine(u32 s) {
  const u64 task = side_by_side ? current() : running_top();
  set_maker(s, task);
  slot(s).job.store(u16(job), RLX);
  if (own_actor) slot(s).spec.store(make_origin(own_actor, 0), RLX);
#ifdef SHOAL_BREAK_SEAL  // test/race.cpp must see it
  slot(s).state.store(SEALED, RLX);
#else
  slot(s).state.store(SEALED, REL);
#endif
  event(EV_PUT, make_key(s, slot(s).gen.load(RLX)),
        task || !own_actor ? task : method_event(own_actor, NO_METHOD));
}

// Only for slots that no task is named by: their queue and succ have no other use.
void Memory::set_maker(u32 s, u64 task) {
  slot(s).succ.store(key_slot(task), RLX);
  slot(s).queue.store(key_gen(task), RLX);
}

// Where an object is from; never changes while it lives. `out.task` 0: a value that was put where
// no task ran. False: it is gone.
bool Memory::ancestry(u64 key, Ancestry& out) {
  Slot& x = slot(key_slot(key));
  const bool is_cell = x.flags.load(ACQ) & IS_CELL;
  const bool is_first = !is_cell && claim_state(x.claim.load(ACQ)) != NO_CLAIM;
  const u64 maker = is_first ? key : make_key(x.succ.load(RLX), x.queue.load(RLX));
  out.task = !is_cell && key_slot(maker) ? maker : 0;
  out.job = x.job.load(RLX);
  for (;;) {
    const u64 word = x.spec.load(ACQ);
    out.actor = origin_actor(word);
    out.index = is_first ? 1 : origin_index(word);
    if (!is_first || (word & ORIGIN) || !word) break;
    // The spec may end while it is read. What was read counts if the block is still this slot's
    // afterwards; if it is not, the word has changed already, or will say 0: a plain task's.
    const Spec* t = spec(key_slot(key));
    const u64 actor = t ? t->callee() : 0;
    std::atomic_thread_fence(ACQ);
    if (t && spec(key_slot(key)) == t) {
      out.actor = actor;
      break;
    }
    if (x.spec.load(SEQ) == word) break;
  }
  return is_live(key);
}

// ---- submitting

Spec* Memory::spec(u32 s) {
  u64 o = slot(s).spec.load(ACQ);
  return o && block_is(o, s) ? at<Spec>(o) : nullptr;
}

// Full for a submitter while less than an eighth of the ring is free: the rest is for pushes that
// must not fail.
u32 Memory::room_needed(u32 q) { return u32(ring(q).size() / 8); }

// What stands at the head of a ring and was taken out of the middle, or has failed, since.
void Memory::drop_stale(u32 qi) {
  RingView r = ring(qi);
  u64 h;
  u32 v;
  while (r.peek(h, v)) {
    if (claim_state(slot(v).claim.load(ACQ)) == QUEUED && slot(v).queue.load(ACQ) == qi) break;
    r.remove(h, v);
  }
}

Status Memory::submit(const Call& c, Bytes payload, const std::vector<u32>& dependencies,
                      const std::vector<u32>& contained, std::vector<u32>& returns) {
  Queue& q = queue(c.queue);
  if (q.dead.load(ACQ) && !(c.flags & F_ACTOR)) return Status::Dead;
  RingView r = ring(c.queue);
  if (r.entries() + room_needed(c.queue) >= r.size()) {
    drop_stale(c.queue);  // before saying that the ring is full
    if (r.entries() + room_needed(c.queue) >= r.size()) return Status::Pending;
  }
  const u32 n = std::max(1u, c.n_returns);
  returns.clear();
  for (u32 i = 0; i < n; i++) {
    u32 s = new_slot(OWNER);
    if (!s) {
      for (u32 x : returns) clear_bits(x, OWNER);
      return Status::Full;
    }
    returns.push_back(s);
  }
  const u32 s = returns[0];
  Slot& x = slot(s);
  Proc& me_ = proc(me);
  me_.task_op.store(make_task_op(TASK_BUILD, s), REL);
  const u32 holds = u32(dependencies.size() + contained.size()) + 2;
  const u64 parent = side_by_side || (c.flags & F_REBUILD) ? c.parent : running_top();
  const u64 deadline = last_deadline = c.timeout || parent ? deadline_for(c, parent) : 0;
  const u64 payload_at =
      align(sizeof(Spec) + 8ull * holds + 8ull * n + (deadline ? sizeof(Times) : 0), 16);
  u64 offset;
  Status st = new_block(payload_at + payload.size, s, true, false, offset);
  if (st != Status::Ok) {
    me_.task_op.store(0, REL);
    for (u32 y : returns) clear_bits(y, OWNER);
    return st;
  }
  auto* t = at<Spec>(offset);
  t->function = c.flags & F_ACTOR ? own_actor : c.function;
  t->actor = c.flags & F_ACTOR ? c.actor : own_actor;
  t->parent = parent;
  t->queue = c.queue;
  t->job = c.job;
  t->method = c.method;
  t->flags = c.flags | (deadline ? F_TIMED : 0);
  t->max_retries = c.max_retries;
  t->charged.store(c.charged, RLX);
  t->n_returns = n;
  t->n_dependencies = u32(dependencies.size());
  t->n_contained = u32(contained.size());
  t->next.store(0, RLX);
  t->link.store(0, RLX);
  t->predecessor.store(0, RLX);
  t->limit = c.limit;
  t->payload_offset = payload_at;
  t->payload_size = payload.size;
  if (deadline) {
    const u64 now = platform::now_ns();
    Times& times = *t->times();
    times.deadline = deadline;
    times.submitted = now;
    times.queued.store(now, RLX);
    times.taken.store(0, RLX);
  }
  auto* hs = t->holds();
  for (u32 i = 0; i < holds; i++) hs[i].store(0, RLX);
  for (u32 i = 0; i < n; i++)
    t->returns()[i] = make_key(returns[i], slot(returns[i]).gen.load(RLX));
  if (payload.size) std::memcpy(reinterpret_cast<u8*>(t) + payload_at, payload.data, payload.size);
  x.queue.store(c.queue, RLX);
  const u32 gen = x.gen.load(RLX);
  set_turn(s, me + 1);
  x.claim.store(make_claim(gen, c.attempt, HELD, me), REL);
  bool ok = true;
  u32 k = 0;
  for (u32 d : dependencies) ok = ok && hold(d, 1, false, &hs[k++]);
  for (u32 d : contained) ok = ok && hold(d, 1, false, &hs[k++]);
  bool lane = false;
  if (c.flags & F_UNORDERED) {
    bool open = false;
    for (u32 d : dependencies) open = open || slot(d).state.load(ACQ) != SEALED;
    if (open && c.actor && is_live(c.actor))
      ok = ok && hold(key_slot(c.actor), 1, false, &hs[k + 1]);
  } else if (c.flags & F_ACTOR) {
    if (auto it = lanes.find(c.queue); it != lanes.end()) {
      const u32 last = key_slot(it->second);
      atom<u64>* held;
      if (!hold_key(it->second, false, held)) {  // done and gone, or no count is left for it
        // Who frees it links it by succ, so CLOSED is lost then. The generation is looked at last:
        // if it is the old one still, so was what was read before.
        const bool pushed =
            is_ending(slot(last).life.load(ACQ)) || slot(last).succ.load(SEQ) & CLOSED;
        ok = ok && (pushed || !is_live(it->second));
        lanes.erase(it);
      } else {
        if (slot(last).succ.load(SEQ) & CLOSED) {  // pushed meanwhile
          lanes.erase(it);
        } else {
          t->predecessor.store(last, RLX);
          ok = ok && hold(last, 1, false, &hs[k]);
          lane = true;
        }
        drop(held);
      }
    }
    bool open = false;
    for (u32 d : dependencies) open = open || slot(d).state.load(ACQ) != SEALED;
    lane = lane || open;
    if (lane) {
      t->flags |= F_LANE;
      // A call that is not pushed at once keeps its actor alive by itself.
      if (c.actor && is_live(c.actor)) ok = ok && hold(key_slot(c.actor), 1, false, &hs[k + 1]);
    }
  }
  // A stream whose refs are all gone is nobody's any more: the daemon cancels it.
  if (c.flags & F_STREAM) x.flags.store(ADOPTED, RLX);
  const u32 from_job = c.actor_job ? c.actor_job : c.job;
  for (u32 i = 0; i < n; i++) {
    Slot& y = slot(returns[i]);
    y.job.store(u16(from_job), RLX);
    if (i) {
      set_maker(returns[i], make_key(s, gen));
      y.spec.store(make_origin(t->callee(), i + 1), RLX);
    }
    y.life.fetch_or(TASK, std::memory_order_acq_rel);
  }
  if (!ok) {  // a count was full: undo everything
    for (u32 y : returns) clear_bits(y, OWNER);
    cleanup(make_key(s, gen));
    me_.task_op.store(0, REL);
    return Status::Gone;
  }
  event_submitted(make_key(s, gen), parent);
  if (lane) note_lane(c.queue, make_key(s, gen));
  me_.task_op.store(make_task_op(TASK_ADVANCE, s), SEQ);  // COMMIT: from here repair goes on for us
  if (lane || !dependencies.empty())
    advance(s);
  else
    push(s);
  me_.task_op.store(0, REL);
  work_cascade();
  return Status::Ok;
}

// The next call of this lane waits for this one, if this one is not pushed by then. Only its key is
// kept: until it is pushed it lives by itself, and its value is nobody's but its refs'.
void Memory::note_lane(u32 queue, u64 key) {
  lanes[queue] = key;
  if (lanes.size() < lanes_looked_at) return;
  std::erase_if(lanes, [&](auto& lane) { return !is_live(lane.second); });
  lanes_looked_at = 64 + 2 * lanes.size();
}

// HELD -> QUEUED, into the ring, wake. The caller's task_op names s.
bool Memory::push(u32 s) {
  Slot& x = slot(s);
  u64 c = x.claim.load(ACQ);
  const u32 q = x.queue.load(ACQ);
  if (claim_state(c) != HELD ||
      !x.claim.compare_exchange_strong(c, make_claim(claim_gen(c), claim_attempt(c) + 1, QUEUED, 0),
                                       SEQ))
    return false;
  if (!ring(q).push(s)) {  // only beyond the reserve: the daemon refills from the slots
    queue(q).overflow.store(1, SEQ);
    ring_daemon();
  }
  std::atomic_thread_fence(SEQ);
  if (queue(q).dead.load(SEQ))
    ring_daemon();  // nobody takes from it any more: the daemon drains late calls
  wake(q);
  return true;
}

// Wake one sleeping worker of the queue, unless somebody promised to look; ask the daemon for more
// workers if none is idle and it could attach more.
void Memory::wake(u32 qi) {
  Queue& q = queue(qi);
  u64 until = q.searching.load(SEQ);
  if (until && platform::now_ns() < until) return;
  u32 words = (header().proc_high.load(RLX) + 63) / 64;
  for (u32 w = 0; w < words; w++) {
    u64 bits;
    while ((bits = q.idle[w].load(SEQ)) != 0) {
      u64 bit = bits & -bits;
      if (!(q.idle[w].fetch_and(~bit) & bit)) continue;
      Proc& p = proc(w * 64 + u32(__builtin_ctzll(bit)));
      p.door.fetch_add(1, SEQ);
      if (p.sleeping.load(SEQ)) platform::futex_wake(p.door);
      return;
    }
  }
  if (q.hungry.load(SEQ) && q.hungry.exchange(0)) ring_daemon();
}

// Tasks that were QUEUED but found no cell: put every one of the queue in again. Doubles are
// harmless.
void Memory::refill(u32 q) {
  if (!queue(q).overflow.exchange(0)) return;
  u32 end = header().chunk_high[0].load() * SLOTS_PER_CHUNK;
  for (u32 s = 1; s < end; s++) {
    if (claim_state(slot(s).claim.load(ACQ)) != QUEUED || slot(s).queue.load(ACQ) != q) continue;
    if (!ring(q).contains(s) && !ring(q).push(s)) {
      queue(q).overflow = 1;
      break;
    }
  }
  wake(q);
}

// ---- running

u64 Memory::running_top() {
  u32 d = proc(me).depth.load(RLX);
  return d ? mine[d - 1].load(RLX) : 0;
}
u32 Memory::running_push(u64 key) {
  Proc& r = proc(me);
  const u32 d = r.depth.load(RLX);
  while (!left_places.empty()) {
    const u32 i = left_places.back();
    left_places.pop_back();
    if (i >= d || mine[i].load(RLX)) continue;
    mine[i].store(key, REL);
    return i;
  }
  mine[d].store(key, REL);
  r.depth.store(d + 1, REL);
  return d;
}
// Each push drops what is stale from `left_places` first, so it never has more than RUNNING_MAX.
void Memory::running_pop(u32 place) {
  if (!own_recipes.empty()) drop_recipe(mine[place].load(RLX));
  Proc& r = proc(me);
  u32 d = r.depth.load(RLX);
  if (place + 1 != d) {
    mine[place].store(0, REL);
    left_places.push_back(place);
    return;
  }
  do d--;
  while (d && !mine[d - 1].load(RLX));
  r.depth.store(d, REL);
}

// `goes_on`: nothing was waited for since this process ended a task: this one began then, or when
// it was submitted.
bool Memory::claim(u64 key, bool goes_on) {
  Slot& x = slot(key_slot(key));
  u64 c = x.claim.load(ACQ);
  if (claim_state(c) != QUEUED || claim_gen(c) != key_gen(key) ||
      proc(me).depth.load(RLX) >= RUNNING_MAX - 4)
    return false;
  const u32 place = running_push(key);
  if (x.claim.compare_exchange_strong(c, make_claim(claim_gen(c), claim_attempt(c), RUNNING, me),
                                      SEQ)) {
    const Spec* t = spec(key_slot(key));  // RUNNING by me: it stays
    event_taken(key, event_of(*t), claim_attempt(c), goes_on);
    claimed_place = place;
    return true;
  }
  running_pop(place);
  return false;
}

bool Memory::take(u32 qi, u64& key, bool goes_on) {
  if (!may_begin()) return false;
  Queue& q = queue(qi);
  if (u32 s = q.redo.load(ACQ)) {  // an actor's interrupted call goes before everything else
    key = make_key(s, slot(s).gen.load(ACQ));
    bool mine = slot(s).queue.load(ACQ) == qi && claim(key);
    q.redo.store(0, REL);
    if (mine) return true;
  }
  RingView r = ring(qi);
  u64 h;
  u32 s;
  while (r.peek(h, s)) {
    u64 c = slot(s).claim.load(ACQ);
    if (claim_state(c) == QUEUED && slot(s).queue.load(ACQ) == qi) {
      key = make_key(s, claim_gen(c));
      if (claim(key, goes_on)) {
        r.remove(h, s);
        if (q.searching.load(RLX)) q.searching.store(0, RLX);
        if (q.overflow.load(RLX) && r.entries() < r.size() / 2) ring_daemon();
        // A take that leaves work behind wakes the next; without it workers sleep beside queued
        // tasks.
        if (r.peek(h, s)) wake(qi);
        return true;
      }
    }
    r.remove(h, s);
  }
  return false;
}

void Memory::commit(u64 key, u32 place) {
  u32 s = key_slot(key);
  Slot& x = slot(s);
  u64 c = x.claim.load(RLX);
  // RUNNING by me: nobody else writes the claim. Everything written before is visible to whoever
  // sees DONE.
  x.claim.store(make_claim(claim_gen(c), claim_attempt(c), DONE, me), REL);
  event_sealed(key, x.kind.load(RLX));
  publish(key, false);
  running_pop(place);
  work_cascade();
}

// The bit of a live generation: the slot cannot be freed while it is set, and only who ends the
// task clears it.
bool Memory::has_task(u64 key) {
  u32 s = key_slot(key);
  if (!is_live(key)) return false;
  u64 w = slot(s).life.load(ACQ);
  return !is_ending(w) && (w & TASK) && is_live(key);
}

// Flip every return, wake its sleepers, advance its dependents. Everything here may be repeated by
// repair.
void Memory::publish(u64 key, bool unconditional) {
  if (!has_task(key)) return;
  const u32 s = key_slot(key);
  Spec* t = spec(s);
  const u32 n = t ? t->n_returns : 1;
  for (u32 i = 0; i < n; i++) {
    const u64 k = t ? t->returns()[i] : key;
    if (!has_task(k)) continue;
    Slot& x = slot(key_slot(k));
    u32 old = x.state.exchange(SEALED, SEQ);
    if ((old & WAITERS) || unconditional) platform::futex_wake(x.state);
    if (x.watch.load(SEQ) != CLOSED) fire(key_slot(k));
  }
  if (t && (t->flags & F_REBUILD)) ring_daemon();  // who asked for it
  cleanup(key);
}

// The task has ended: drop its arguments and its spec, clear its task bits. The order lets a repair
// repeat it: the other returns first (their names are in the spec), then the spec, then the first
// slot.
void Memory::cleanup(u64 key) {
  const u32 s = key_slot(key);
  Slot& x = slot(s);
  if (Spec* t = spec(s)) {
    auto* hs = t->holds();
    for (u32 i = 0, n = t->n_holds(); i < n; i++)
      if (u64 e = hs[i].load(RLX)) hold(hold_slot(e), -1, false, &hs[i]);
    for (u32 i = 1; i < t->n_returns; i++) end_return(t->returns()[i]);
    if (t->callee())
      replace_spec(s, make_origin(t->callee(), 1));
    else
      free_block(x.spec.load(RLX), 0, s);
  }
  if (!(x.spec.load(RLX) & ORIGIN)) x.spec.store(0, REL);
  end_return(key);
}

// The task lets go of a result. (Repeated by repair: its bit may be gone, and the dead have died
// before they saw that nothing else was left.)
void Memory::end_return(u64 key) {
  if (has_task(key)) return clear_bits(key_slot(key), TASK);
  if (me != 0 || !is_live(key)) return;
  claim_free(key_slot(key));
  if (!working) work_freeing();
}

}  // namespace shoal
