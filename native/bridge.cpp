// Bridging: tasks and values of other nodes, made to look as those of this one.
//
// Only the daemon does this, so nothing here needs repair: a node does not outlive its daemon.
//
//   proxy       the slot of an object whose home is another node. No task is named by it, and it
//   has
//               no owner: the daemon's own hold (TASK, ADOPTED: as a function's or an actor's)
//               keeps it, so the inbox says when nobody else on this node has it. It is an ordinary
//               PENDING slot otherwise: whoever waits for it sleeps on its state, a task that is
//               given it is HELD, and the daemon seals it when home has told the value.
//   elsewhere   a sealed value whose bytes are in the memory of another node: block word SPILLED |
//               ELSEWHERE | BARE, or of a result of ours that holds something here (refs in it, its
//               recipe) the offset of a stub, as a spilled value's. Who looks at it does what it
//               does for a spilled value: takes a pin, asks (the slot goes into the inbox) and
//               sleeps until it is here. The daemon pulls it into a block that nobody knows yet
//               (`begin_restore`), and `arrive` makes it known.
//   lent        a task that another node runs is RUNNING by process 0, and stands in the daemon's
//               table of what it runs. That is all that LENT has to mean: nobody else may take,
//               seal or retry it, cancelling marks it and names its process, and the daemon writes
//               its results, commits it, or puts it back. Which node has it, the daemon remembers.
//   image       the bytes of a value as they stand in its block: header, table of contained refs,
//               table of buffers, data, buffers, all places relative to the block. Moved as they
//               are, but for the table of contained refs: those are slots of the node that wrote
//               it. Who gets the image gets a list of its own refs with it, one for each entry but
//               the last (a recipe, which stays where it is): what has no ref is 0. A large result
//               of a task that ran for another node has a last entry that is empty (F_PLACE): when
//               it comes home its recipe stands there.
//
// A copy holds the refs that its value contains on its own node, as the value at home does there.
#include <cstring>
#include <unordered_set>

#include "memory.hpp"

namespace shoal {

// A slot of the daemon's for an object of another node. `id` (of ID_BYTES, or none): what that node
// calls it; it takes the second half of the inline bytes.
u32 Memory::new_proxy(u32 its_job, const u8* id) {
  const u32 s = new_slot(TASK);
  if (!s) return 0;
  Slot& x = slot(s);
  x.job.store(u16(its_job), RLX);
  if (id) {
    std::memcpy(x.inline_bytes + INLINE_BYTES - ID_BYTES, id, ID_BYTES);
    x.spec.store(FOREIGN, RLX);
  }
  x.flags.store(ADOPTED, REL);
  return s;
}

// Whether `key` is a proxy that has no value yet.
bool Memory::is_open_proxy(u64 key) {
  Slot& x = slot(key_slot(key));
  return is_live(key) && (x.state.load(ACQ) & ~WAITERS) == PENDING &&
         (x.flags.load(ACQ) & ADOPTED) && !(x.flags.load(ACQ) & IS_CELL) &&
         claim_state(x.claim.load(ACQ)) == NO_CLAIM && has_task(key);
}

// The value is written. Unlike a task that ends, the daemon keeps its hold.
void Memory::seal_proxy(u32 s) {
  Slot& x = slot(s);
  const u32 old = x.state.exchange(SEALED, SEQ);
  if (old & WAITERS) platform::futex_wake(x.state);
  if (x.watch.load(SEQ) != CLOSED) fire(s);
  work_cascade();
}

// What the object is called where its home is; false: its home is here.
bool Memory::foreign_id(u64 key, u8* out) {
  Slot& x = slot(key_slot(key));
  if (x.spec.load(ACQ) != FOREIGN) return false;
  std::memcpy(out, x.inline_bytes + INLINE_BYTES - ID_BYTES, ID_BYTES);
  return is_live(key);
}

// ---- images

static u64 tables_size(const ValueHeader& h) {
  return sizeof(ValueHeader) + 8ull * h.n_contained + 16ull * h.n_buffers;
}

// How many bytes the image of the value in this block has. (The size word of a task that failed
// while it was HELD says whose turn it is; its value has no buffers.)
u64 Memory::image_size(u32 s, u64 block) {
  const u64 size = slot(s).size.load(RLX);
  const auto* h = at<ValueHeader>(block);
  return is_turn(size) ? h->data_offset + h->data_size : size;
}

// What the entries of its table name: keys, 0 for what stays on this node.
std::vector<u64> Memory::image_table(u64 block) {
  auto* h = at<ValueHeader>(block);
  auto* table = reinterpret_cast<atom<u64>*>(h + 1);
  std::vector<u64> keys(h->n_contained);
  for (u32 i = 0; i < h->n_contained; i++) {
    const u64 e = table[i].load(ACQ);
    if (e && !is_recipe(hold_slot(e)))
      keys[i] = make_key(hold_slot(e), slot(hold_slot(e)).gen.load(ACQ));
  }
  return keys;
}

// Another node has sent it: nothing in it may lead outside of it.
bool Memory::is_image(u64 block, u64 size, u64 n_refs) {
  if (size < sizeof(ValueHeader)) return false;
  const auto* h = at<ValueHeader>(block);
  const u64 tables = tables_size(*h);
  auto fits = [&](u64 offset, u64 bytes) {
    return offset >= tables && offset <= size && bytes <= size - offset;
  };
  if (h->n_contained < n_refs || tables > size || !fits(h->data_offset, h->data_size)) return false;
  auto* buffers = at<u64>(block + sizeof(ValueHeader) + 8 * h->n_contained);
  for (u32 i = 0; i < h->n_buffers; i++)
    if (!fits(buffers[2 * i], buffers[2 * i + 1])) return false;
  return true;
}

// The refs of an image that has come here. False: a count is full, nothing is held.
bool Memory::hold_table(u32 s, u64 block, const std::vector<u32>& contained) {
  auto* table = reinterpret_cast<atom<u64>*>(at<ValueHeader>(block) + 1);
  for (u32 i = 0; i < at<ValueHeader>(block)->n_contained; i++) table[i].store(0, RLX);
  for (size_t i = 0; i < contained.size(); i++) {
    if (!contained[i] || hold(contained[i], 1, false, &table[i])) continue;
    for (size_t k = 0; k < i; k++)
      if (u64 e = table[k].load(RLX)) hold(hold_slot(e), -1, false, &table[k]);
    return false;
  }
  if (!contained.empty()) slot(s).flags.fetch_or(HAS_TABLE, REL);
  return true;
}

// Writes a value as another node had it into a slot that nobody may look at yet. `in_block`: it is
// an image; else it stood in its slot. Gone: it is damaged, or a count is full.
Status Memory::write_image(u32 s, u8 format, bool in_block, Bytes image,
                           const std::vector<u32>& contained) {
  Slot& x = slot(s);
  const bool is_named = x.spec.load(RLX) == FOREIGN;
  if (!in_block) {
    if (image.size <= INLINE_BYTES - (is_named ? ID_BYTES : 0)) {
      write_inline(s, format, image.data, u32(image.size));
      return Status::Ok;
    }
    ValueParts v;
    v.format = format;
    v.data = image;
    return write_whole(s, v);
  }
  u64 block;
  const Status st = new_block(image.size, s, false, true, block);
  if (st != Status::Ok) return st;
  std::memcpy(rw + block, image.data, image.size);
  if (!is_image(block, image.size, contained.size()) || !hold_table(s, block, contained)) {
    free_block(block, 0, s);
    x.block.store(0, REL);
    return Status::Gone;
  }
  x.size.store(image.size, RLX);
  x.kind.store(format, RLX);
  return Status::Ok;
}

// As `write_value`, never inline: the id of a proxy stands there.
Status Memory::write_whole(u32 s, const ValueParts& v) {
  Slot& x = slot(s);
  const u64 data_offset = 32, size = data_offset + v.data.size;  // aligned as `write_value` does
  u64 block;
  const Status st = new_block(size, s, false, true, block);
  if (st != Status::Ok) return st;
  *at<ValueHeader>(block) = {0, 0, data_offset, v.data.size};
  std::memcpy(rw + block + data_offset, v.data.data, v.data.size);
  x.size.store(size, RLX);
  x.kind.store(v.format, RLX);
  return Status::Ok;
}

// ---- values of which the bytes are on another node

// `contained`: what it holds here, its recipe last if it has one. Gone: a count is full.
Status Memory::write_elsewhere(u32 s, u8 format, u64 bytes, const std::vector<u32>& contained) {
  Slot& x = slot(s);
  u64 stub = 0;
  if (const u64 refs = contained.size()) {
    const Status st = new_block(sizeof(ValueHeader) + 8 * refs, s, false, true, stub);
    if (st != Status::Ok) return st;
    *at<ValueHeader>(stub) = {u32(refs), 0, ELSEWHERE, 0};
    if (!hold_table(s, stub, contained)) {
      free_block(stub, 0, s);
      x.block.store(0, REL);
      return Status::Gone;
    }
  }
  x.size.store(bytes, RLX);
  x.kind.store(format, RLX);
  x.block.store(SPILLED | ELSEWHERE | (stub ? stub : BARE), REL);
  return Status::Ok;
}

bool Memory::is_elsewhere(u32 s) {
  const u64 word = slot(s).block.load(ACQ);
  return slot(s).state.load(ACQ) != FREE && is_away(word);
}

// What its stub holds, its block holds instead: the refs as they stand, its recipe in the last
// entry. The block may have no entry for a recipe.
void Memory::take_table(u32 s, u64 offset, u64 stub) {
  auto *to = at<ValueHeader>(offset), *from = at<ValueHeader>(stub);
  auto *entries = reinterpret_cast<u64*>(to + 1), *held = reinterpret_cast<u64*>(from + 1);
  u32 refs = from->n_contained;
  const u64 recipe = is_recipe(hold_slot(held[refs - 1])) ? held[--refs] : 0;
  std::memset(entries, 0, 8ull * to->n_contained);
  std::memcpy(entries, held, 8ull * refs);
  if (recipe && refs < to->n_contained) {
    entries[to->n_contained - 1] = recipe;
    held[from->n_contained - 1] = 0;
  }
  std::memset(held, 0, 8ull * refs);
  drop_stub(s, stub);
}

// It is here, in the block at `offset` (from block_aside). False: it is damaged, or a count is
// full; then the block is still the caller's. What has a stub is given nothing else to hold.
bool Memory::arrive(u32 s, u64 offset, u64 bytes, const std::vector<u32>& contained) {
  const u64 stub = block_of(slot(s).block.load(ACQ));
  if (!stub) {
    if (!is_image(offset, bytes, contained.size()) || !hold_table(s, offset, contained))
      return false;
    restore(s, offset);
    return true;
  }
  const auto* h = at<ValueHeader>(stub);
  auto* table = reinterpret_cast<atom<u64>*>(at<ValueHeader>(stub) + 1);
  const bool has_recipe = is_recipe(hold_slot(table[h->n_contained - 1].load(RLX)));
  if (!contained.empty() || !is_image(offset, bytes, h->n_contained - has_recipe)) return false;
  // As in `restore`, but that the tables need not be of one size.
  slot(s).block.store(SPILLED | BARE | ELSEWHERE, SEQ);
  take_table(s, offset, stub);
  slot(s).block.store(offset, SEQ);
  event(EV_RESTORE, make_key(s, slot(s).gen.load(RLX)));
  tell_restored();
  return true;
}

// ---- queues

// Up to `most` tasks that wait in a queue, the oldest first. Each may be taken at any moment.
std::vector<u64> Memory::queued(u32 qi, u64 most) {
  std::vector<u64> keys;
  std::unordered_set<u32> seen;  // entries may be double
  auto add = [&](u32 s) {
    if (!s || s >= SLOTS || !seen.insert(s).second) return;
    const u64 c = slot(s).claim.load(ACQ);
    if (claim_state(c) == QUEUED && slot(s).queue.load(ACQ) == qi)
      keys.push_back(make_key(s, claim_gen(c)));
  };
  add(queue(qi).redo.load(ACQ));
  RingView r = ring(qi);
  const u64 end = r.r.tail.load(ACQ);
  for (u64 p = r.r.head.load(ACQ); p < end && keys.size() < most; p++) {
    const u64 cell = r.cells[p & r.mask()].load(ACQ);
    if (u32(cell >> 32) == r.lap(p)) add(u32(cell));
  }
  return keys;
}

}  // namespace shoal
