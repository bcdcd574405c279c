// Spilling: a value's bytes leave node memory for a file, and come back when somebody wants them.
//
//   in memory    slot.block = offset of the block
//   in a file    slot.block = SPILLED | BARE | number of the record in the files
//                or, of a value with refs in it, SPILLED | offset of a stub: a header whose
//                data_offset is that number, and the table of contained refs
//
// Only the daemon moves values, so nothing here needs repair: a session does not outlive its
// daemon. What it moves it holds (a ref of its own), so that it is not freed meanwhile. The bytes
// are copied to the file first, while everybody reads them; what needs care is the moment at which
// the block goes. Who reads a value large enough to be spilled takes a pin first and looks at the
// block word afterwards; the daemon changes the block word first and looks at the pins afterwards
// (both in one order that all agree on). So either the reader sees SPILLED, or the daemon sees the
// pin and puts the block back. A reader that saw SPILLED asks (its slot goes into the inbox) and
// sleeps on `restored`, keeping its pin: what was put back or came back while it is pinned stays.
// A reader looks at the block word once: the daemon that finds its pin has changed the word for a
// moment before it puts it back.
//
// Tables of contained refs stay in node memory: a hold is a record at an address, and freeing must
// find it. Nobody writes a sealed value's table but who frees it, so the daemon may move it.
#include <algorithm>
#include <cstring>

#include "memory.hpp"

namespace shoal {

bool Memory::is_looked_at(u32 s) {
#ifdef SHOAL_BREAK_SPILL  // test/race.cpp must see it
  return false;
#endif
  return slot(s).life.load(SEQ) & PINS;
}

// Whether the value may leave: sealed, not an error, not writable, looked at by nobody.
bool Memory::may_spill(u32 s, u64 block) {
  Slot& x = slot(s);
  const u8 kind = x.kind.load(RLX);
  return (x.state.load(ACQ) & ~WAITERS) == SEALED && x.block.load(ACQ) == block &&
         (kind == BYTES || kind == PICKLE) && !(x.flags.load(RLX) & (SHARED | CHANNEL | IS_CELL)) &&
         is_spillable(x.size.load(RLX)) && !is_ending(x.life.load(ACQ)) && !is_looked_at(s);
}

// Memory that would be free if some values left: a large value, or blocks of an extent. Where
// something has to stay in it, the others are part of an extent (see hollow.cpp).
std::vector<Memory::Spillable> Memory::list_spillable() {
  std::vector<Spillable> out;
  auto* words = at<atom<u64>>(off.extents);
  const u32 high = header().extent_high.load(ACQ);
  for (u32 e = 0; e < high; e++) {
    const u64 w = words[e].load(ACQ);
    const u64 base = off.data + u64(e) * EXTENT;
    Spillable unit{e, 1, {}, 1469598103934665603ull};
    auto add = [&](u32 s, u64 block) {
      if (!may_spill(s, block)) return false;
      unit.keys.push_back(make_key(s, slot(s).gen.load(ACQ)));
      unit.mark = (unit.mark ^ slot(s).life.load(RLX)) * 1099511628211ull;
      return true;
    };
    if (extent_kind(w) == EXT_HEAD) {
      unit.n_extents = extent_arg(w);
      if (extent_owner(w) && add(extent_owner(w) - 1, base)) out.push_back(unit);
    } else if (extent_kind(w) == EXT_SMALL && extent_arg(w) < SIZE_CLASSES &&
               is_spillable(class_bytes(extent_arg(w)))) {
      const u64 bytes = class_bytes(extent_arg(w));
      auto* holders = at<atom<u32>>(off.holders) + u64(e) * HOLDERS_PER_EXTENT;
      bool all = true;
      for (u32 i = 0; i < EXTENT / bytes; i++)
        if (u32 h = holders[i].load(ACQ)) all &= h != HOLE && add(h - 1, base + i * bytes);
      if (!all) unit.n_extents = double(unit.keys.size() * bytes) / EXTENT;
      if (!unit.keys.empty()) out.push_back(unit);
    }
  }
  return out;
}

// How many extents have to become free before what is asked for can be given, where `headroom`
// bytes more than there are now can be had of the machine.
u32 Memory::shortage(u64 headroom) {
  Header& h = header();
  const u64 want = h.want.load(SEQ), room = h.want_room.load(SEQ);
  if (!want && !room) return 0;
  sweep_hollow();
  const u64 cap = extents_to_have(headroom);
  auto* words = at<atom<u64>>(off.extents);
  u64 used = 0;
  for (u32 e = 0; e < h.extent_high.load(); e++) {
    if (extent_kind(words[e].load(RLX)) == EXT_SMALL) close_extent(e);
    used += extent_kind(words[e].load(RLX)) != EXT_FREE;
  }
  h.extents_used.store(used, RLX);
  const u64 whole = all_extents(), most = std::min(cap, whole - 1);
  const u64 limit = std::min(most, whole - h.capacity / EXTENT / 20);
  u64 short_of = want && used + want > most ? used + want - most : 0;
  if (room && used + room > limit) short_of = std::max(short_of, used + room - limit);
  return u32(short_of);
}

// Those who must leave the reserve alone have room again; or (`is_given` false) nobody will have
// any.
void Memory::answer_room(bool is_given) {
  Header& h = header();
  bool is_asked = h.want_room.exchange(0, SEQ) != 0;
  if (!is_given) {
    is_asked |= h.want.exchange(0, SEQ) != 0;
    h.refused.fetch_add(1);
  }
  if (!is_asked) return;
  h.space.fetch_add(1);
  platform::futex_wake(h.space);
}

// A block for `s` that no reader can find yet: made for a slot of the daemon's own, then handed
// over.
Status Memory::block_aside(u64 bytes, u32 s, u64& offset) {
  const u32 own = new_slot(OWNER);
  if (!own) return Status::Full;
  const Status st = new_block(bytes, own, false, true, offset);
  if (st == Status::Ok) {
    give_to(offset, s);
    slot(own).block.store(0, REL);
  }
  clear_bits(own, OWNER);
  return st;
}

// The block at `offset` belongs to slot `s` from now on.
void Memory::give_to(u64 offset, u32 s) {
  auto* words = at<atom<u64>>(off.extents);
  const u64 e = (offset - off.data) / EXTENT, w = words[e].load(ACQ);
  if (extent_kind(w) == EXT_SMALL) {
    const u64 i = (offset - off.data) % EXTENT / class_bytes(extent_arg(w));
    at<atom<u32>>(off.holders)[e * HOLDERS_PER_EXTENT + i].store(s + 1, SEQ);
    return;
  }
  const u32 n = extent_arg(w);
  for (u32 k = 0; k < n; k++)
    words[e + k].store(make_extent(k ? EXT_TAIL : EXT_HEAD, n, s + 1), SEQ);
}

static void copy_table(ValueHeader* to, const ValueHeader* from) {
  to->n_contained = from->n_contained;
  std::memcpy(to + 1, from + 1, 8 * u64(from->n_contained));
}

// The value is in the files as `number`: let its block go, unless somebody looks at it. The caller
// has a hold. Answers how many bytes became free.
u64 Memory::spill(u32 s, u64 number) {
  Slot& x = slot(s);
  const u64 block = x.block.load(ACQ);
  if (!block || (block & SPILLED) || !may_spill(s, block)) return 0;
  auto* h = at<ValueHeader>(block);
  u64 offset = 0;
  if (const u64 refs = h->n_contained) {
    if (block_aside(sizeof(ValueHeader) + 8 * refs, s, offset) != Status::Ok) return 0;
    auto* stub = at<ValueHeader>(offset);
    copy_table(stub, h);
    stub->n_buffers = 0;
    stub->data_offset = number;
    stub->data_size = h->data_size;
  }
  x.block.store(SPILLED | (offset ? offset : BARE | number), SEQ);
  std::atomic_thread_fence(SEQ);
  if (is_looked_at(s)) {
    x.block.store(block, SEQ);
    if (offset) free_block(offset, 0, s);
    tell_restored();
    return 0;
  }
  const u64 bytes = block_bytes(block);
  free_block(block, 0, s);
  event(EV_SPILL, make_key(s, x.gen.load(RLX)));
  return bytes;
}

// Where the value of a spilled slot stands in the files; false: it is not spilled.
bool Memory::spilled(u32 s, u64& number, u64& size) {
  Slot& x = slot(s);
  const u64 block = x.block.load(ACQ);
  if (x.state.load(ACQ) == FREE || !(block & SPILLED)) return false;
  const u64 stub = block_of(block);
  number = stub ? at<ValueHeader>(stub)->data_offset : block & ~(SPILLED | BARE);
  size = x.size.load(RLX);
  return true;
}

// The value is back, at `offset` (from block_aside).
void Memory::restore(u32 s, u64 offset) {
  Slot& x = slot(s);
  const u64 stub = block_of(x.block.load(ACQ));
  if (stub) copy_table(at<ValueHeader>(offset), at<ValueHeader>(stub));
  x.block.store(offset, SEQ);
  if (stub) free_block(stub, 0, s);
  event(EV_RESTORE, make_key(s, x.gen.load(RLX)));
  tell_restored();
}

// It will not come back: its readers get the record.
void Memory::lose(u32 s, Bytes record) {
  Slot& x = slot(s);
  const u64 stub = block_of(x.block.load(ACQ));
  if (stub) {
    auto* h = at<ValueHeader>(stub);
    auto* table = reinterpret_cast<atom<u64>*>(h + 1);
    for (u32 i = 0; i < h->n_contained; i++)
      if (u64 e = table[i].load(RLX)) hold(hold_slot(e), -1, false, &table[i]);
  }
  x.flags.fetch_and(u8(~HAS_TABLE));
  // Written aside first: who sees the new block word sees the error.
  u64 offset = 0;
  if (record.size <= INLINE_BYTES) {
    std::memcpy(x.inline_bytes, record.data, record.size);
    x.size.store(record.size, RLX);
  } else if (block_aside(sizeof(ValueHeader) + record.size, s, offset) == Status::Ok) {
    auto* v = at<ValueHeader>(offset);
    *v = {0, 0, sizeof(ValueHeader), record.size};
    std::memcpy(v + 1, record.data, record.size);
    x.size.store(sizeof(ValueHeader) + record.size, RLX);
  } else {
    x.size.store(bare_record(ERROR_RECORD, record, x.inline_bytes), RLX);
  }
  x.kind.store(ERROR_RECORD, REL);
  x.block.store(offset, SEQ);
  if (stub) free_block(stub, 0, s);
  tell_restored();
}

// A block from block_aside that is not needed after all.
void Memory::drop_aside(u32 s, u64 offset) { free_block(offset, 0, s); }

void Memory::tell_restored() {
  header().restored.fetch_add(1, SEQ);
  platform::futex_wake(header().restored);
}

// Ask for a value that is not here; `restored` is bumped when there is news of any.
void Memory::ask_back(u32 s) {
  if (!inbox().push(s)) header().inbox_full = 1;
  ring_daemon();
}

}  // namespace shoal
