// Slots and holds: making, counting, freeing.
//
// Counts change in two ways only. A *hold* (+1 or -1 ref or pin) is recorded at an address (a
// ledger entry, a spec's argument, an entry of a value's table) and is one stamped swap of the life
// word: (who, seq) of the last writer stay in the word, and whoever overwrites a foreign stamp
// first sets the done bit in that process's intent. So after a death "did the swap happen?" is a
// fact (PROTOCOL 3.3). The *owner* and *task* bits are cleared by fetch_and and are repaired by
// looking: nobody but their holder clears them.
//
// Freeing belongs to whoever swaps a life word with zero counts to FREEING|me. Zero is final (a
// hold may be taken only through a hold), so everybody who sees it may try and one wins. The winner
// puts the slot on its `freeing` stack (linked through succ) and works the stack: contained holds
// first, then the block, then {FREE, gen+1} in one store. life stays FREEING|p in a free slot: a
// repair that finds the top of the stack FREE, or its life changed, knows that it was done and goes
// on with freeing_next.
#include "memory.hpp"

namespace shoal {

static u64 pack_record(u64 address, u64 kind, int d, bool pin) {
  return address << 8 | kind << 2 | u64(d > 0) << 1 | u64(pin);
}

// Set the done bit of the process that stamped `life`, if its present intent is that very stamp.
void Memory::tell(u64 life, u32 s) {
  u32 q = life_who(life);
  if (q == me) return;
  u64 o = proc(q).op.load(ACQ);
  if (o && static_cast<u32>(o) == s && !(o & OP_DONE) && (o >> 32 & 0xfff) == life_seq(life))
    proc(q).op.compare_exchange_strong(o, o | OP_DONE);
}

// The intent. Its number is never the one that I last stamped on this slot, else repair would take
// the old stamp for the new one.
u64 Memory::begin_op(u32 s, u64 kind, u64 address, int d, bool pin, u64 life) {
  op_number++;
  if (life_who(life) == me && life_seq(life) == (op_number & 0xfff)) op_number++;
  if ((op_number & 0x7fffffff) == 0) op_number++;
  Proc& r = proc(me);
  r.op_record.store(pack_record(address, kind, d, pin), REL);
  r.op.store(make_op(s, op_number), SEQ);
  return op_number;
}

bool Memory::hold(u32 s, int d, bool pin, atom<u64>* record) {
  Slot& x = slot(s);
  u64 w = x.life.load(ACQ);
  u64 n = begin_op(s, OP_HOLD, reinterpret_cast<u8*>(record) - rw, d, pin, w);
  const u64 one = pin ? PIN_ONE : REF_ONE, all = pin ? PINS : REFS;
  u64 next;
  do {
    if (is_ending(w) ||
        (d > 0 ? (w & all) == all - (pin ? PIN_ONE : 0) - (pin ? 0 : 1) : (w & all) == 0)) {
      proc(me).op.store(0, REL);
      return false;
    }
    tell(w, s);
    next = ((w & COUNTS) + (d > 0 ? one : 0) - (d > 0 ? 0 : one)) | stamp(me, n);
  } while (!x.life.compare_exchange_strong(w, next, std::memory_order_acq_rel, ACQ));
  record->store(d > 0 ? (u64(s) + 1) | (pin ? HOLD_PIN : 0) : 0, REL);
  if ((next & COUNTS) == 0)
    claim_free(s);
  else if (d < 0 && (x.flags.load(RLX) & ADOPTED) && (next & (COUNTS & ~TASK)) == 0) {
    if (!inbox().push(s)) header().inbox_full = 1;
    ring_daemon();
  }
  proc(me).op.store(0, REL);
  if (proc(me).freeing.load(RLX) && !working) work_freeing();
  return true;
}

bool Memory::hold_key(u64 key, bool pin, atom<u64>*& record) {
  record = ledger_take();
  if (!record) return false;
  u32 s = key_slot(key);
  // The key may be stale (a state table, a weak handle): the generation is looked at before and
  // after.
  if (s != 0 && is_live(key) && slot(s).state.load(ACQ) != FREE && hold(s, 1, pin, record)) {
    if (is_live(key)) return true;
    hold(s, -1, pin, record);
  }
  ledger_return(record);
  record = nullptr;
  return false;
}

atom<u64>* Memory::ledger_take() {
  if (free_ledger.empty()) {
    u32 c = lease_chunk(1);
    if (c == ~0u) return nullptr;
    auto* e = at<atom<u64>>(off.ledger) + u64(c) * LEDGER_PER_CHUNK;
    free_ledger.reserve(free_ledger.capacity() + LEDGER_PER_CHUNK);
    for (u32 i = LEDGER_PER_CHUNK; i-- > 0;)
      if (e[i].load(RLX) == 0) free_ledger.push_back(e + i);
    if (free_ledger.empty()) return nullptr;
  }
  auto* e = free_ledger.back();
  free_ledger.pop_back();
  return e;
}
void Memory::ledger_return(atom<u64>* e) { free_ledger.push_back(e); }

void Memory::drop(atom<u64>* e) {
  u64 v = e->load(RLX);
  if (v) hold(hold_slot(v), -1, v & HOLD_PIN, e);
  ledger_return(e);
}

void Memory::clear_bits(u32 s, u64 bits) {
  u64 left = slot(s).life.fetch_and(~bits) & ~bits & COUNTS;
  if (left == 0) {
    claim_free(s);
    if (!working) work_freeing();
  } else if ((slot(s).flags.load(RLX) & ADOPTED) && (left & ~TASK) == 0) {
    if (!inbox().push(s)) header().inbox_full = 1;
    ring_daemon();
  }
}

// Counts are zero. The intent says which slot, so that a death between the swap and the link is
// repaired. When this runs inside a hold, the hold's own intent is replaced: its record is written
// and its swap is known to have happened.
void Memory::claim_free(u32 s) {
  Slot& x = slot(s);
  Proc& r = proc(me);
  u64 w = x.life.load(ACQ);
  if ((w & COUNTS) != 0 || x.state.load(ACQ) == FREE) return;
  begin_op(s, OP_FREE, 0, 0, false, w);
  tell(w, s);
  if (x.life.compare_exchange_strong(w, freeing(me), std::memory_order_acq_rel)) {
    x.succ.store(r.freeing.load(RLX), REL);
    r.freeing.store(s, REL);
  }
  r.op.store(0, REL);
}

void Memory::work_freeing() {
  Proc& r = proc(me);
  working = true;  // nested drops only push on the stack
  while (u32 s = r.freeing.load(RLX)) {
    Slot& x = slot(s);
    const u64 word = x.block.load(RLX), block = block_of(word);
    if (block && (x.flags.load(RLX) & HAS_TABLE) && block_is(block, s)) {
      auto* v = at<ValueHeader>(block);
      auto* table = reinterpret_cast<atom<u64>*>(v + 1);
      bool again = false;
      for (u32 i = 0; i < v->n_contained && !again; i++)
        if (u64 e = table[i].load(RLX)) {
          hold(hold_slot(e), -1, false, &table[i]);
          again = r.freeing.load(RLX) != s;  // something inside was freed too: it is on top now
        }
      if (again) continue;
    }
    if (block && x.kind.load(RLX) == RECIPE) forget_cost(s);
    if (block) free_block(block, x.size.load(RLX), s);
    event_freed(make_key(s, x.gen.load(RLX)));
    const bool has_record = is_away(word) || (word && is_spillable(x.size.load(RLX)) &&
                                              header().spills.load(RLX) == SPILLS_RECORDS);
    u32 next = x.succ.load(RLX), gen = x.gen.load(RLX);
    r.freeing_next.store(next, REL);
    x.head().store(u64(gen + 1) << 32 | FREE, REL);
    r.freeing.store(next, REL);
    if (has_record) ask_back(s);  // maybe: the daemon looks, and lets go of it
    if (at<atom<u32>>(off.owners)[s / SLOTS_PER_CHUNK].load(RLX) == me + 1 && s < listed.size() &&
        !listed[s] && free_slots.size() < free_slots.capacity()) {
      listed[s] = true;
      free_slots.push_back(s);
    }
  }
  working = false;
}

// A slot of a chunk that I lease, with `bits` as its first counts. Only the lessee takes slots out
// of FREE, so there is no swap: life first (a sweep after my death clears it), then the rest, then
// state.
u32 Memory::new_slot(u64 bits) {
  if (free_slots.empty() && !refill_slots()) return 0;
  u32 s = free_slots.back();
  free_slots.pop_back();
  listed[s] = false;
  Slot& x = slot(s);
  u32 gen = x.gen.load(RLX);
  if (gen == 0) gen = 1;
  x.life.store(bits | stamp(me, ++op_number), REL);
  x.claim.store(make_claim(gen, 0, NO_CLAIM, 0), RLX);
  x.block.store(0, RLX);
  x.size.store(0, RLX);
  x.spec.store(0, RLX);
  x.watch.store(0, RLX);
  x.succ.store(0, RLX);
  x.queue.store(0, RLX);
  x.job.store(0, RLX);
  x.kind.store(0, RLX);
  x.flags.store(0, RLX);
  x.head().store(u64(gen) << 32 | PENDING, REL);
  return s;
}

// Slots that others freed in my chunks, else a new chunk.
bool Memory::refill_slots() {
  auto collect = [&](u32 c) {
    u32 n = 0;
    if (listed.size() < u64(c + 1) * SLOTS_PER_CHUNK) listed.resize(u64(c + 1) * SLOTS_PER_CHUNK);
    for (u32 i = SLOTS_PER_CHUNK; i-- > 0;) {
      u32 s = c * SLOTS_PER_CHUNK + i;
      if (s != 0 && !listed[s] && slot(s).state.load(ACQ) == FREE) {
        listed[s] = true;
        free_slots.push_back(s);
        n++;
      }
    }
    return n;
  };
  free_slots.reserve(SLOTS_PER_CHUNK * 4);
  u32 found = 0;
  for (size_t k = 0; k < my_chunks.size() && k < 8; k++) {
    scan_chunk = (scan_chunk + 1) % my_chunks.size();
    found += collect(my_chunks[scan_chunk]);
    if (found >= SLOTS_PER_CHUNK / 4) return true;
  }
  if (found >= 32) return true;
  u32 c = lease_chunk(0);
  if (c == ~0u) {
    for (u32 m : my_chunks) found += collect(m);
    return found != 0;
  }
  my_chunks.push_back(c);
  return collect(c) + found != 0 || refill_slots();
}

// ---- repair's half

// An adopted slot that has only the daemon's own hold left: say so (again; the daemon looks).
void Memory::tell_if_last(u32 s) {
  Slot& x = slot(s);
  const u64 left = x.life.load(ACQ) & COUNTS;
  if (left != TASK || !(x.flags.load(ACQ) & ADOPTED)) return;
  if (!inbox().push(s)) header().inbox_full = 1;
  ring_daemon();
}

// The dead process's hold or free, finished. The daemon alone runs this, and only for the dead.
void Memory::finish_op(u32 p) {
  Proc& r = proc(p);
  u64 op = r.op.load(ACQ);
  if (!op) return;
  u64 rec = r.op_record.load(ACQ);
  u64 kind = rec >> 2 & 0x3f;
  u32 s = static_cast<u32>(op);
  Slot& x = slot(s);
  if (kind == OP_HOLD) {
    bool plus = rec >> 1 & 1, pin = rec & 1;
    u64 w = x.life.load(ACQ);
    // Order matters: the stamp first, the done bit second. Whoever overwrites the stamp sets the
    // bit before.
    bool done =
        (life_who(w) == p && life_seq(w) == (op >> 32 & 0xfff)) || (r.op.load(ACQ) & OP_DONE);
    at<atom<u64>>(rec >> 8)->store(plus == done ? (u64(s) + 1) | (pin ? HOLD_PIN : 0) : 0, REL);
    if (x.state.load(ACQ) != FREE && (x.life.load(ACQ) & COUNTS) == 0) claim_free(s);
    if (!plus) tell_if_last(s);
  } else if (kind == OP_FREE) {
    if (x.life.load(ACQ) == freeing(p) && x.state.load(ACQ) != FREE) {
      bool linked = false;
      for (u32 f = r.freeing.load(ACQ); f && !linked; f = slot(f).succ.load(ACQ)) linked = f == s;
      if (!linked) {
        x.succ.store(r.freeing.load(ACQ), REL);
        r.freeing.store(s, REL);
      }
    } else if ((x.life.load(ACQ) & COUNTS) == 0) {
      claim_free(s);
    }
  } else {
    finish_alloc(p, op, rec);
  }
  r.op.store(0, REL);
}

// Take over the dead's stack, slot by slot, onto the daemon's own. The top may have been freed
// already: its state is FREE, or (reused since) its life is not FREEING|p; state is read before
// life, since new_slot writes life first.
void Memory::finish_freeing(u32 p) {
  Proc& r = proc(p);
  u32 s = r.freeing.load(ACQ);
  if (!s) return;
  bool is_free = slot(s).state.load(ACQ) == FREE;
  if (is_free || slot(s).life.load(ACQ) != freeing(p)) s = r.freeing_next.load(ACQ);
  while (s) {
    Slot& x = slot(s);
    u32 next = x.succ.load(ACQ);
    x.life.store(freeing(me), REL);
    x.succ.store(proc(me).freeing.load(RLX), REL);
    proc(me).freeing.store(s, REL);
    s = next;
  }
  r.freeing.store(0, REL);
  work_freeing();
}

}  // namespace shoal
