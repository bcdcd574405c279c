// Pending slots: futures that a process makes first and seals later, without a task of their own.
//
// A streaming task has one return (its end) and a chain of *cells*: a cell is a pending slot whose
// value will hold the item's ref and the next cell. Whoever holds a cell holds all that follow, so
// what nobody can reach any more is freed by the counts, as anything else.
//
// One process may seal a pending slot: for a cell the one that runs the task. Sealing is the end
// of a task that has no spec: the value is written while nobody else may look, then the slot is
// named on the stack of running tasks, the claim says DONE, the task bit is set, and `publish`
// does the rest; repair finds the name and publishes again. Killed before the task bit is set the
// slot is PENDING with a value, which the next attempt discards.
//
// Where the chain stands is noted in the task's spec, in its last two holds: one of them names a
// cell that is not behind the first unsealed one by more than one item, at every moment.
#include "memory.hpp"

namespace shoal {

u32 Memory::new_pending(u32 number) {
  const u32 s = new_slot(OWNER);
  if (!s) return 0;
  Slot& x = slot(s);
  x.kind.store(NONE, RLX);
  x.queue.store(number, RLX);
  x.flags.store(IS_CELL, REL);
  return s;
}

// Whether `key` names a pending slot that is not sealed yet.
bool Memory::is_pending(u64 key) {
  Slot& x = slot(key_slot(key));
  return is_live(key) && (x.flags.load(ACQ) & IS_CELL) && (x.state.load(ACQ) & ~WAITERS) == PENDING;
}

// The value is written; nobody else seals this slot.
void Memory::seal_pending(u64 key) {
  Slot& x = slot(key_slot(key));
  const u32 place = running_push(key);
  x.claim.store(make_claim(key_gen(key), 1, DONE, me), SEQ);
  x.life.fetch_or(TASK, std::memory_order_acq_rel);
  publish(key, false);
  running_pop(place);
  work_cascade();
}

// The two places of a streaming task's spec that say where its chain stands.
atom<u64>* Memory::stream_places(u32 s) {
  Spec* t = spec(s);
  if (!t || !(t->flags & F_STREAM) || t->n_contained < 2) return nullptr;
  return t->holds() + t->n_dependencies + t->n_contained - 2;
}

// The chain has come to `cell`: hold it instead of the one before. One place after the other.
bool Memory::advance_stream(u32 s, u32 cell) {
  atom<u64>* places = stream_places(s);
  if (!places) return false;
  for (int i = 0; i < 2; i++) {
    if (u64 e = places[i].load(RLX)) hold(hold_slot(e), -1, false, &places[i]);
    if (!hold(cell, 1, false, &places[i])) return false;
  }
  return true;
}

// A cell of the chain of `s`, from which the first unsealed one is reached; 0 if it has none.
u32 Memory::stream_place(u32 s) {
  atom<u64>* places = stream_places(s);
  if (!places) return 0;
  const u64 first = places[0].load(ACQ), second = places[1].load(ACQ);
  return first ? hold_slot(first) : second ? hold_slot(second) : 0;
}

}  // namespace shoal
