// Channels and shared blocks for the instruction tests: what victims do with them, and what must
// hold for everybody else afterwards, whoever has died at whichever instruction.
#pragma once
#include "channel.hpp"
#include "worlds.hpp"

namespace shoal {

// Every byte of a message says the same, so that half a one is seen.
struct Ends {
  Actor& a;
  Channel c;
  explicit Ends(Actor& actor) : a(actor) {
    atom<u64>* held;
    if (!a.m.hold_key(a.w.channel, false, held)) _exit(7);
    c.open(a.m, key_slot(a.w.channel));
  }
  // Made by another process than the victim, and kept by it.
  static void make(Actor& a, u32 slots, u32 readers) {
    const u32 s = a.m.new_slot(OWNER);
    if (Channel::create(a.m, s, 200, slots, readers) != Status::Ok) _exit(7);
    a.m.seal_mine(s);
    a.w.channel = a.key_of(s);
  }
  void write(u8 mark, u64 size, bool carried = false) {
    if (!c.begin()) _exit(7);
    std::string data(size, char(mark)), one(70, char(mark)), two(10, char(mark));
    ValueParts v;
    v.format = PICKLE;
    v.data = {data.data(), data.size()};
    if (size > 100) v.buffers = {{one.data(), 70}, {two.data(), 10}};
    const u32 object = carried ? a.put(100) : 0;
    const int place = c.free_place();
    if (place < 0 || !c.fill(u32(place), carried ? ValueParts{} : v, object, platform::copy))
      _exit(7);
    c.publish(u32(place));
    if (carried) a.drop(object);
  }
  void read(u32 reader, bool keeps = false) {
    u32 place;
    if (!c.begin_read(reader)) _exit(7);
    if (c.next(reader, place)) {
      const bool kept = keeps && c.keep(place);
      if (!kept) c.acknowledge(reader, place);
      c.move_on(reader);
      if (kept) c.acknowledge(reader, place);
    }
    c.end_read(reader);
  }
};

inline const char* whole(Memory& m, Channel& c, u32 place) {
  const Message& x = c.message(place);
  if (x.format == CARRIED) {
    const u64 e = c.hold_of(place).load();
    if (!e || m.slot(hold_slot(e)).state.load() == FREE) return "what a message carries is gone";
    return nullptr;
  }
  const u8* area = c.area_of(place);
  const u8* data =
      x.n_buffers || x.data_size > INLINE_BYTES ? area + x.data_offset : x.inline_bytes;
  for (u64 i = 0; i < x.data_size; i++)
    if (data[i] != data[0]) return "half a message";
  auto* table = reinterpret_cast<const u64*>(area);
  for (u32 b = 0; b < x.n_buffers; b++)
    for (u64 i = 0; i < table[2 * b + 1]; i++)
      if (area[table[2 * b] + i] != data[0]) return "half of an array";
  return nullptr;
}

// Asked of process `p` after the victim's repair: what is unread is whole, somebody else can go on
// as writer and as each reader, and closing lets everybody out.
inline const char* judge_channel(Memory& m, u64 key) {
  if (!m.is_live(key)) return nullptr;
  Channel c;
  c.open(m, key_slot(key));
  u32 place;
  auto read_all = [&](u32& n) -> const char* {
    for (u32 r = 0; r < c.readers; r++) {
      if (!c.begin_read(r)) return "the dead still reads";
      for (; c.next(r, place); n++) {
        if (const char* e = whole(m, c, place)) return e;
        c.acknowledge(r, place);
        c.move_on(r);
      }
      c.end_read(r);
      if (c.unread(r)) return "a message that nobody gets";
    }
    return nullptr;
  };
  u32 n = 0;
  if (const char* e = read_all(n)) return e;
  if (c.closed() == CHANNEL_CAUSED && !c.cause().load()) return "closed for a reason that is gone";
  if (!c.begin()) return "the dead still writes";
  const int free_place = c.free_place();
  if (free_place < 0) return "no place is free any more";
  const u32 object = m.new_slot(OWNER);  // held by the message alone
  m.write_inline(object, INT, "resultAB", 8);
  m.seal_mine(object);
  c.fill(u32(free_place), {}, object, platform::copy);
  c.publish(u32(free_place));
  m.clear_bits(object, OWNER);
  for (u32 r = 0; r < c.readers; r++) {
    if (!c.begin_read(r) || !c.next(r, place)) return "a message was lost";
    if (const char* e = whole(m, c, place)) return e;
    c.acknowledge(r, place);
    c.move_on(r);
    c.end_read(r);
  }
  c.close(0);
  for (u32 r = 0; r < c.readers; r++)
    if (!c.can_read(r) || !c.can_write() || !c.closed()) return "closing lets nobody out";
  return nullptr;
}

}  // namespace shoal
