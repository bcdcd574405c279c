// Making shared blocks and channels, and the steps of a channel's writer and readers. What is in
// which word, and why the steps stand in this order: channel.hpp.
#include "channel.hpp"

#include <bit>
#include <cstring>

namespace shoal {

static u64 align(u64 x, u64 to) { return (x + to - 1) & ~(to - 1); }

Memory::Wait sleep_at(Memory& m, Bell& bell, const std::function<bool()>& done, u64 deadline_ns,
                      u64 slice_ns, Doubt& doubt) {
  bell.sleepers.fetch_add(1, SEQ);
  const u32 seen = bell.rung.load(SEQ);
  Memory::Wait w = Memory::Wait::Interrupted;
  if (!done()) w = m.doubt_on(bell.rung, seen, deadline_ns, slice_ns, doubt);
  bell.sleepers.fetch_sub(1, SEQ);
  return w;
}

// A block of the value for `bytes` that begin at a line of their own, and a table of `holds`. The
// table is empty before the flag says that there is one: a death leaves nothing to drop.
static Status new_shared(Memory& m, u32 s, u64 bytes, u32 holds, u8 flag, u8 kind) {
  u64 offset;
  const u64 before = align(sizeof(ValueHeader) + 8ull * holds, 64) + sizeof(Bell) * WORD_BELLS;
  const Status st = m.new_block(before + 64 + bytes, s, false, false, offset);
  if (st != Status::Ok) return st;
  Slot& x = m.slot(s);
  auto* h = m.at<ValueHeader>(offset);
  h->n_contained = holds;
  h->n_buffers = 0;
  h->data_offset = align(offset + before, 128) - offset;
  h->data_size = bytes;
  auto* table = reinterpret_cast<atom<u64>*>(h + 1);
  for (u32 i = 0; i < holds; i++) table[i].store(0, RLX);
  x.size.store(before + 64 + bytes, RLX);
  x.kind.store(kind, RLX);
  x.flags.fetch_or(u8(flag | (holds ? HAS_TABLE : 0)), REL);
  return Status::Ok;
}

static u8* shared_bytes(Memory& m, u32 s, u64& size) {
  const u64 block = m.slot(s).block.load(ACQ);
  auto* h = m.at<ValueHeader>(block);
  size = h->data_size;
  return m.rw + block + h->data_offset;
}

static bool has_flag(Memory& m, u32 s, u8 flag) {
  return (m.slot(s).state.load(ACQ) & ~WAITERS) == SEALED && m.slot(s).flags.load(ACQ) & flag;
}

// ---- shared blocks

// Zeroing is left to the caller, who may do it without the GIL.
Status SharedBlock::create(Memory& m, u32 s, u64 bytes) {
  const Status st = new_shared(m, s, bytes, 0, SHARED, BYTES);
  if (st != Status::Ok) return st;
  SharedBlock b;
  b.open(m, s);
  for (u32 i = 0; i < WORD_BELLS; i++) b.bell(i).reset();
  return Status::Ok;
}

bool SharedBlock::is_one(Memory& m, u32 s) { return has_flag(m, s, SHARED); }

void SharedBlock::open(Memory& memory, u32 s) {
  m = &memory;
  data = shared_bytes(memory, s, size);
}

// ---- channels: made and opened

Status Channel::create(Memory& m, u32 s, u64 capacity, u32 slots, u32 readers) {
  const u64 area = align(capacity + 1024, 64);  // what pickles say of an array is not its bytes
  const u64 words = sizeof(ChannelHead) + readers * sizeof(ReaderWords) + slots * sizeof(Message);
  const Status st = new_shared(m, s, words + slots * area, slots + 1, CHANNEL, NONE);
  if (st != Status::Ok) return st;
  u64 size;
  auto* h = reinterpret_cast<ChannelHead*>(shared_bytes(m, s, size));
  std::memset(static_cast<void*>(h), 0, words);
  h->arrived.reset();
  h->freed.reset();
  h->capacity = capacity;
  h->area = area;
  h->slots = slots;
  h->readers = readers;
  h->order_mask = std::bit_ceil(2 * slots) - 1;
  Channel c;
  c.open(m, s);
  for (u32 i = 0; i < slots; i++) c.message(i).number.store(~0u, RLX);
  return Status::Ok;
}

bool Channel::is_one(Memory& m, u32 s) { return has_flag(m, s, CHANNEL); }

void Channel::open(Memory& memory, u32 s) {
  u64 size;
  m = &memory;
  head = reinterpret_cast<ChannelHead*>(shared_bytes(memory, s, size));
  table = reinterpret_cast<atom<u64>*>(memory.at<ValueHeader>(memory.slot(s).block.load(ACQ)) + 1);
  capacity = head->capacity;
  area = head->area;
  slots = head->slots;
  readers = head->readers;
  order_mask = head->order_mask;
  everybody = readers == 64 ? ~0ull : (1ull << readers) - 1;
  reader_line = reinterpret_cast<ReaderWords*>(head + 1);
  messages = reinterpret_cast<Message*>(reader_line + readers);
  areas = reinterpret_cast<u8*>(messages + slots);
}

// ---- rights: one writer, one process for each reader

u64 Channel::me() { return u64(m->proc(m->me).epoch.load(RLX)) << 32 | (m->me + 1); }

// The right to write, or to be reader r. It is taken over from the dead, whose place in the table
// of processes is empty or somebody else's.
bool Channel::take_right(atom<u64>& right, bool& taken_over) {
  u64 old = 0;
  taken_over = false;
  if (right.compare_exchange_strong(old, me(), SEQ)) return true;
  const Proc& p = m->proc((u32(old) - 1) % MAX_PROCS);
  if (p.kind.load(ACQ) != NO_PROC && p.epoch.load(ACQ) == u32(old >> 32)) return false;
  taken_over = true;
  return right.compare_exchange_strong(old, me(), SEQ);
}

// ---- writing

int Channel::free_place() {
  for (u32 i = 0; i < slots; i++)
    if (message(i).owed.load(SEQ) == 0) return int(i);
  return -1;
}

bool Channel::begin() {
  bool taken_over;
  if (!take_right(head->writing, taken_over)) return false;
  if (taken_over) {  // what the dead had filled and not published is free
    const u32 n = head->published.load(ACQ);
    for (u32 i = 0; i < slots; i++)
      if (message(i).number.load(ACQ) == n) message(i).owed.store(0, SEQ);
    head->arrived.ring_always();  // perhaps the dead had not
  }
  return true;
}

static u64 lay_out(const ValueParts& v, std::vector<u64>* places, u64& data_offset) {
  if (v.buffers.empty() && v.data.size <= INLINE_BYTES) return 0;
  u64 p = 16 * v.buffers.size();
  data_offset = p;
  p += v.data.size;
  for (auto& b : v.buffers) {
    p = align(p, 64);
    if (places) places->push_back(p);
    p += b.size;
  }
  return p;
}

u64 Channel::parts_size(const ValueParts& v) {
  u64 data_offset;
  return lay_out(v, nullptr, data_offset);
}

// False if the object to be carried cannot be held (it is being freed, or held too often).
bool Channel::fill(u32 place, const ValueParts& v, u32 carried,
                   const std::function<void(void*, const void*, u64)>& copier) {
  Message& x = message(place);
  atom<u64>& record = hold_of(place);
  if (u64 e = record.load(RLX)) m->hold(hold_slot(e), -1, false, &record);  // of a dead writer
  if (head->kept.load(RLX) >> place & 1) head->kept.fetch_and(~(1ull << place), SEQ);
  if (carried && !m->hold(carried, 1, false, &record)) return false;
  x.format = carried ? CARRIED : v.format;
  x.n_buffers = u32(v.buffers.size());
  x.data_size = v.data.size;
  u64 data_offset = 0;
  if (!v.buffers.empty() || v.data.size > INLINE_BYTES) {
    std::vector<u64> places;
    lay_out(v, &places, data_offset);
    u8* to = area_of(place);
    auto* buffers = reinterpret_cast<u64*>(to);
    for (size_t i = 0; i < places.size(); i++) {
      buffers[2 * i] = places[i];
      buffers[2 * i + 1] = v.buffers[i].size;
    }
    copier(to + data_offset, v.data.data, v.data.size);
    for (size_t i = 0; i < places.size(); i++)
      copier(to + places[i], v.buffers[i].data, v.buffers[i].size);
  } else if (v.data.size) {
    std::memcpy(x.inline_bytes, v.data.data, v.data.size);
  }
  x.data_offset = data_offset;
  return true;
}

void Channel::publish(u32 place) {
  Message& x = message(place);
  const u32 n = head->published.load(RLX);
  x.number.store(n, REL);
  x.owed.store(everybody, REL);
  head->order[n & order_mask].store(u8(place), RLX);
  head->published.store(n + 1, SEQ);  // the commit
  head->arrived.ring();
  end_write();  // last: whoever takes the right over from the dead rings again
}

// ---- reading

bool Channel::begin_read(u32 reader) {
  bool taken_over;
  if (!take_right(reader_words(reader).reading, taken_over)) return false;
  if (taken_over) head->freed.ring_always();
  return true;
}

// The place of the next message for `reader`, if there is one. A message that a dead predecessor
// has acknowledged, or dropped the object of, is passed over; `owed` is looked at first, since a
// writer stores it last.
bool Channel::next(u32 reader, u32& place) {
  for (;;) {
    const u32 n = reader_words(reader).position.load(RLX);
    if (n == head->published.load(SEQ)) return false;
    place = head->order[n & order_mask].load(RLX) % CHANNEL_SLOTS;
    if (place >= slots) return false;  // the mapping was let go
    Message& x = message(place);
    if ((x.owed.load(ACQ) >> reader & 1) && x.number.load(ACQ) == n) {
      if (x.format != CARRIED || hold_of(place).load(ACQ)) return true;
      acknowledge(reader, place);  // as a dead predecessor was about to do
    }
    move_on(reader);
  }
}

// At most half of the places are kept for arrays, by all readers together, so that values which
// somebody keeps for ever leave the writer enough. A bit counts while its place is owed to anybody.
bool Channel::keep(u32 place) {
  u64 k = head->kept.load(SEQ);
  for (;;) {
    u32 n = 1;
    for (u32 i = 0; i < slots; i++)
      n += i != place && (k >> i & 1) && message(i).owed.load(SEQ) != 0;
    if (2 * n > slots) return false;
    if (k >> place & 1) return true;
    if (head->kept.compare_exchange_weak(k, k | 1ull << place, SEQ)) return true;
  }
}

void Channel::acknowledge(u32 reader, u32 place) {
  Message& x = message(place);
  const u64 bit = 1ull << reader;
  u64 w = x.owed.load(ACQ);
  for (;;) {
    if (!(w & bit)) return;
    if (w == bit) {  // nobody else can change it
      atom<u64>& record = hold_of(place);
      if (u64 e = record.load(ACQ)) m->hold(hold_slot(e), -1, false, &record);
      x.owed.store(0, SEQ);
      head->freed.ring();
      return;
    }
    if (x.owed.compare_exchange_weak(w, w & ~bit, SEQ)) return;
  }
}

// ---- closing

// Whoever writes the cause has the right to it for ever: if it dies meanwhile, the next one closes
// without. The first cause stays.
void Channel::close(u32 cause_slot) {
  u32 open = CHANNEL_OPEN, nobody = 0;
  if (cause_slot && head->closed.load(SEQ) == CHANNEL_OPEN &&
      head->causing.compare_exchange_strong(nobody, m->me + 1, SEQ) &&
      m->hold(cause_slot, 1, false, &cause()))
    head->closed.compare_exchange_strong(open, CHANNEL_CAUSED, SEQ);
  open = CHANNEL_OPEN;
  head->closed.compare_exchange_strong(open, CHANNEL_CLOSED, SEQ);
  head->arrived.ring_always();
  head->freed.ring_always();
}

}  // namespace shoal
