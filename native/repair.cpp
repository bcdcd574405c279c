// What only the daemon does: finish what the dead began, fail what cannot run, end queues and jobs.
//
// repair(p) may be called once p's pidfd says that all its threads are gone. Each step is
// idempotent and looks only at words that belong to the dead; the daemon's own operations inside it
// carry the daemon's own intents. (If the daemon itself dies, the session ends.)
#include <algorithm>
#include <cstring>
#include <unordered_set>
#include <vector>

#include "memory.hpp"

namespace shoal {

void Memory::repair(u32 p, std::vector<RunningTask>& running) {
  Proc& r = proc(p);
  event(EV_REPAIR, p);
  finish_op(p);
  finish_freeing(p);
  r.epoch.fetch_add(1);  // its rights are free, before anybody can hear of its death
  // The cascade's links stand in slots that the steps below may free: note the keys first.
  std::vector<u64> sealed;
  for (u32 t = r.cascade.load(ACQ); t; t = slot(t).queue.load(ACQ)) {
    u64 c = slot(t).claim.load(ACQ);
    if (claim_state(c) != DONE || claim_worker(c) != p) break;  // taken off the list already
    sealed.push_back(make_key(t, claim_gen(c)));
  }
  r.cascade.store(0, REL);
  finish_task_op(p);
  for (u64 key : sealed) publish(key, true);
  auto* table = running_of(p);
  std::unordered_set<u64> seen;
  for (u32 i = r.depth.load(ACQ) + 1;
       i-- > 0;) {  // one beyond: the push of `running` may have been cut short
    if (i >= RUNNING_MAX) continue;
    u64 key = table[i].load(ACQ);
    if (!key) continue;
    Slot& x = slot(key_slot(key));
    u64 c = x.claim.load(ACQ);
    if (claim_gen(c) != key_gen(key) || claim_worker(c) != p) continue;
    if (!has_task(key)) {
      if (claim_state(c) == DONE) end_return(key);
      continue;
    }
    if (claim_state(c) == DONE) publish(key, true);
    if (claim_state(c) == RUNNING) {
      Spec* t = spec(key_slot(key));
      if (!t) continue;
      // Twice in the table: it was put back after an exception, and taken again.
      if (!seen.insert(key).second) continue;
      for (u32 k = 0; k < t->n_returns; k++) discard_value(key_slot(t->returns()[k]));
      running.push_back(
          {key, claim_attempt(c), t->max_retries, t->charged.load(), t->flags, t->queue});
    }
    table[i].store(0, REL);
  }
  r.depth.store(0, REL);
  work_cascade();
  // Children of the dead may still look at what it looked at: that stays until `release_pins`.
  sweep_ledger(p, r.forked.load(ACQ) != 0);
  sweep_chunks(p);
  if (proc(me).freeing.load(RLX)) work_freeing();
  Header& h = header();
  for (auto& t : h.tokens) {
    u32 mine = p + 1;
    t.compare_exchange_strong(mine, 0);
  }
  each_queue([&](u32 q) {
    queue(q).idle[p / 64].fetch_and(~(1ull << (p % 64)));
    queue(q).searching.store(
        0, SEQ);  // a promise of the dead is worth nothing; of the living, one wake-up
  });
  // A call pushed to a dead queue by a caller that died before it looked: drained like any late
  // one.
  each_queue([&](u32 q) {
    if (queue(q).dead.load() && ring(q).entries()) ring_daemon();
  });
  ring_all();
}

void Memory::release_pins(u32 p) {
  proc(p).forked.store(0, REL);
  sweep_ledger(p, false);
  if (proc(me).freeing.load(RLX)) work_freeing();
}

void Memory::sweep_ledger(u32 p, bool keep_pins) {
  auto* owners = at<atom<u32>>(off.owners) + CHUNKS;
  for (u32 c = 0; c < header().chunk_high[1].load(); c++) {
    if (owners[c].load(ACQ) != p + 1) continue;
    auto* e = at<atom<u64>>(off.ledger) + u64(c) * LEDGER_PER_CHUNK;
    bool kept = false;
    for (u32 i = 0; i < LEDGER_PER_CHUNK; i++) {
      u64 v = e[i].load(ACQ);
      if (v && keep_pins && (v & HOLD_PIN))
        kept = true;
      else if (v)
        hold(hold_slot(v), -1, v & HOLD_PIN, &e[i]);
    }
    if (!kept) owners[c].store(0, REL);
  }
  auto* nodes = at<atom<u32>>(off.owners) + 2 * CHUNKS;
  for (u32 c = 0; c < header().chunk_high[2].load(); c++) {
    u32 mine = p + 1;
    nodes[c].compare_exchange_strong(mine, 0);
  }
}

void Memory::sweep_chunks(u32 p) {
  auto* owners = at<atom<u32>>(off.owners);
  for (u32 c = 0; c < header().chunk_high[0].load(); c++) {
    if (owners[c].load(ACQ) != p + 1) continue;
    for (u32 i = 0; i < SLOTS_PER_CHUNK; i++) {
      u32 s = c * SLOTS_PER_CHUNK + i;
      Slot& x = slot(s);
      if (s == 0 || x.state.load(ACQ) == FREE) continue;
      u64 w = x.life.load(ACQ);
      if (is_ending(w)) continue;
      if (w & OWNER)
        clear_bits(s, OWNER);
      else if ((w & COUNTS) == 0)
        claim_free(s);
      else
        tell_if_last(s);  // it may have cleared the owner bit, and died before it told us
    }
    if (proc(me).freeing.load(RLX)) work_freeing();
    owners[c].store(0, REL);
  }
}

void Memory::close_process(u32 p) {
  Proc& r = proc(p);
  r.epoch.fetch_add(1);
  u32 turn = p + 1;
  if (header().turn.compare_exchange_strong(turn, 0, SEQ)) platform::futex_wake(header().turn);
  r.leased.store(0, SEQ);
  r.kind.store(NO_PROC, SEQ);
}

// Whoever waits for something that the dead may have owed it. A sleeper of `door` waits for exactly
// what is asked here (`take`), so one that has nothing would look, find nothing and sleep again:
// with a thousand actors that die together this would be a million wake-ups. What somebody alive
// brings after we have looked, he announces himself.
void Memory::ring_all() {
  std::atomic_thread_fence(SEQ);
  // (If the table of nodes is full, somebody may watch without one.)
  std::vector<bool> watches(MAX_PROCS, header().chunk_high[2].load() == CHUNKS);
  auto* nodes = at<atom<u32>>(off.owners) + 2 * CHUNKS;
  for (u32 c = 0; c < header().chunk_high[2].load(); c++)
    if (u32 owner = nodes[c].load(ACQ)) watches[owner - 1] = true;
  for (u32 p = 1; p < header().proc_high.load(); p++) {
    Proc& r = proc(p);
    if (r.kind.load(RLX) == NO_PROC) continue;
    const u32 a = r.assign.load(SEQ);
    bool has_work = a != r.attached.load(SEQ);
    u64 h;
    u32 s;
    if (a != 0 && a < QUEUES && !has_work) {
      has_work = ring(a).peek(h, s) || queue(a).redo.load(SEQ);
      // A sleeper without its idle bit was chosen by a waker, perhaps by the dead before it rang.
      // Of who sleeps for several queues (2) we know only one.
      const bool is_idle = queue(a).idle[p / 64].load(SEQ) >> (p % 64) & 1;
      has_work = has_work || r.sleeping.load(SEQ) > u32(is_idle);
    }
    if (has_work) {
      r.door.fetch_add(1, SEQ);
      platform::futex_wake(r.door);
    }
    // A worker that has never watched an object has no node, and hears of no completion.
    if (r.kind.load(RLX) == WORKER && !watches[p]) continue;
    r.cdoor.fetch_add(1, SEQ);
    platform::futex_wake(r.cdoor);
  }
}

u32 bare_record(u8 format, Bytes error, u8* out) {
  // msgpack: an array of two, a name of up to 31 bytes, a map.
  auto* p = static_cast<const u8*>(error.data);
  const u32 head = error.size > 2 && p[0] == 0x92 && p[1] >> 5 == 5 ? 2 + (p[1] & 31) : 0;
  if (format != ERROR_RECORD || !head || head >= error.size) {
    std::memcpy(out, FULL_RECORD, sizeof FULL_RECORD);
    return sizeof FULL_RECORD;
  }
  std::memcpy(out, p, head);
  out[head] = 0x80;
  return head + 1;
}

// An error can always be sealed: in a block (results' reserve included), else inline, cut to a bare
// record.
void Memory::seal_error(u32 s, Bytes record, const std::vector<u32>& kept) {
  ValueParts v;
  v.contained = kept;
  v.format = ERROR_RECORD;
  v.data = record;
  Status st = write_value(s, v, true, platform::copy);
  if (st == Status::NeedMemory && me == 0) {  // the daemon is the one who would give it
    u64 done;
    bool more;
    header().want.store(std::max(header().want.load(), asked_extents));
    populate(asked_extents * EXTENT, ~0ull, done, more);
    st = write_value(s, v, true, platform::copy);
  }
  if (st == Status::Ok) return;
  u8 bare[INLINE_BYTES];
  write_inline(s, ERROR_RECORD, bare, bare_record(ERROR_RECORD, record, bare));
}

bool Memory::requeue(u64 key, bool charged, bool front) {
  u32 s = key_slot(key);
  Slot& x = slot(s);
  u64 c = x.claim.load(ACQ);
  Spec* t = spec(s);
  if (!t || claim_gen(c) != key_gen(key) || claim_state(c) != RUNNING) return false;
  for (u32 i = 0; i < t->n_returns; i++) discard_value(key_slot(t->returns()[i]));
  if (charged) t->charged.fetch_add(1);
  u32 attempt = claim_attempt(c) == 255 ? 1 : claim_attempt(c) + 1;
  u32 q = t->queue;
  x.queue.store(q, REL);
  if (!x.claim.compare_exchange_strong(c, make_claim(claim_gen(c), attempt, QUEUED, 0), SEQ))
    return false;
  u32 none = 0;
  if (front && queue(q).redo.compare_exchange_strong(none, s)) {
  } else if (!ring(q).push(s)) {
    queue(q).overflow = 1;
  }
  wake(q);
  return true;
}

// What runs is failed only where the caller knows that its worker is dead: a worker may take what
// was QUEUED a moment ago, and is then alone with it.
bool Memory::fail(u64 key, Bytes record, bool is_worker_dead, const std::vector<u32>& kept) {
  u32 s = key_slot(key);
  Slot& x = slot(s);
  for (;;) {
    u64 c = x.claim.load(ACQ);
    if (!is_live(key) || claim_gen(c) != key_gen(key)) return false;
    u64 st = claim_state(c);
    if (st != HELD && st != QUEUED && !(st == RUNNING && is_worker_dead)) return false;
    Spec* t = spec(s);
    if (!t) return false;
    // Once a HELD task says CANCELLED, whoever has its turn may drop its spec and its task bits: so
    // the returns are named and held before the swap.
    const u64 about = event_of(*t);
    std::vector<u64> returns;
    std::vector<atom<u64>*> holds;
    for (u32 i = 0; i < t->n_returns; i++) returns.push_back(t->returns()[i]);
    if (st == HELD)
      for (u64 r : returns) {
        atom<u64>* e;
        if (hold_key(r, false, e)) holds.push_back(e);
      }
    u64 next = make_claim(claim_gen(c), claim_attempt(c), st == HELD ? CANCELLED : RUNNING, me);
    if (holds.size() != (st == HELD ? returns.size() : 0) ||
        !x.claim.compare_exchange_strong(c, next, SEQ)) {
      for (auto* e : holds) drop(e);
      continue;
    }
    for (u64 k : returns) {
      discard_value(key_slot(k));
      keep_turn = st == HELD && k == key;
      seal_error(key_slot(k), record, kept);
      keep_turn = false;
    }
    note_failed(key, about, ERROR_RECORD, record);
    if (st == HELD) {
      // The result is there now; who has the turn, or pops the node, finds CANCELLED and drops the
      // arguments.
      for (u64 k : returns) {
        u32 old = slot(key_slot(k)).state.exchange(SEALED, SEQ);
        if (old & WAITERS) platform::futex_wake(slot(key_slot(k)).state);
        fire(key_slot(k));
      }
      ring_daemon();
    } else {
      x.claim.store(make_claim(claim_gen(c), claim_attempt(c), DONE, me), SEQ);
      publish(key, true);
    }
    work_cascade();
    for (auto* e : holds) drop(e);
    return true;
  }
}

u32 Memory::kill_queue(u32 qi, Bytes record) {
  Queue& q = queue(qi);
  q.dead.store(1, SEQ);
  std::atomic_thread_fence(SEQ);  // callers push, then look at `dead`; we set it, then drain
  u32 n = 0;
  if (u32 s = q.redo.exchange(0)) n += fail(make_key(s, slot(s).gen.load()), record);
  RingView r = ring(qi);
  u64 h;
  u32 s;
  while (r.peek(h, s)) {
    u64 c = slot(s).claim.load(ACQ);
    if (claim_state(c) == QUEUED && slot(s).queue.load(ACQ) == qi)
      n += fail(make_key(s, claim_gen(c)), record);
    r.remove(h, s);
  }
  return n;
}

// As `kill_queue`, but the queue lives on: what comes later is tried. At most what was there at the
// beginning is failed, so that callers who go on pushing do not keep the daemon here.
u32 Memory::fail_queued(u32 qi, Bytes record) {
  u32 n = 0;
  if (u32 s = queue(qi).redo.exchange(0)) n += fail(make_key(s, slot(s).gen.load()), record);
  RingView r = ring(qi);
  u64 h;
  u32 s;
  for (u64 left = r.entries(); left > 0 && r.peek(h, s); left--) {
    u64 c = slot(s).claim.load(ACQ);
    if (claim_state(c) == QUEUED && slot(s).queue.load(ACQ) == qi)
      n += fail(make_key(s, claim_gen(c)), record);
    r.remove(h, s);
  }
  return n;
}

u32 Memory::end_job(u32 job, Bytes record) {
  u32 n = 0, end = header().chunk_high[0].load() * SLOTS_PER_CHUNK;
  for (u32 s = 1; s < end; s++) {
    u64 c = slot(s).claim.load(ACQ);
    if (claim_state(c) != HELD && claim_state(c) != QUEUED) continue;
    if (slot(s).state.load(ACQ) == FREE) continue;
    Spec* t = spec(s);
    if (t && t->job == job && has_task(make_key(s, claim_gen(c))))
      n += fail(make_key(s, claim_gen(c)), record);
  }
  return n;
}

// Tasks that a dead attempt had submitted and nobody else can ever ask for (RULES S-20). Called
// after repair(p), which has dropped the dead's own refs.
u32 Memory::end_children(std::vector<u64> parents, Bytes record) {
  std::sort(parents.begin(), parents.end());
  u32 n = 0, end = header().chunk_high[0].load() * SLOTS_PER_CHUNK;
  for (u32 s = 1; s < end; s++) {
    u64 c = slot(s).claim.load(ACQ);
    if (claim_state(c) != HELD && claim_state(c) != QUEUED) continue;
    const u64 key = make_key(s, claim_gen(c));
    Spec* t = spec(s);
    if (!t || !has_task(key) || !std::binary_search(parents.begin(), parents.end(), t->parent))
      continue;
    bool wanted = false;
    for (u32 i = 0; i < t->n_returns; i++) wanted = wanted || handles(t->returns()[i]) != 0;
    if (!wanted) n += fail(key, record);
  }
  return n;
}

// The daemon's own hold on a function or an actor is the task bit of its slot, which objects do not
// use otherwise.
bool Memory::adopt(u64 key) {
  u32 s = key_slot(key);
  if (s == 0 || !is_live(key) || slot(s).state.load(ACQ) == FREE) return false;
  if (claim_state(slot(s).claim.load(ACQ)) != NO_CLAIM)
    return false;  // a task needs its bit itself
  slot(s).flags.fetch_or(ADOPTED);
  slot(s).life.fetch_or(TASK, SEQ);
  return true;
}
void Memory::release(u64 key) {
  if (!has_task(key) || !(slot(key_slot(key)).flags.load(ACQ) & ADOPTED)) return;
  slot(key_slot(key)).flags.fetch_and(u8(~ADOPTED));
  clear_bits(key_slot(key), TASK);
}
u32 Memory::handles(u64 key) {
  if (!is_live(key)) return 0;
  u64 w = slot(key_slot(key)).life.load(ACQ);
  if (is_ending(w)) return 0;
  return u32(w & REFS) + u32((w & PINS) >> 24) + u32((w & OWNER) != 0);
}

}  // namespace shoal
