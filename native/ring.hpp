// The helping ring: bounded, many producers, many consumers, no lock.
//
// cell = {lap:32, value:32}; position p lives in cell p % N and is empty as {p / N, 0}. A cell goes
// {L,0} -> {L,v} -> {L+1,0} and nothing else, so one swap on the cell is the only commit of a push
// and of a removal. head and tail are hints: they pass a position only after its cell was emptied
// (head) or filled (tail), and whoever finds them lagging pushes them on. A process that dies or is
// stopped at any instruction therefore blocks nobody, and a swap delayed for a whole lap fails
// because the lap changed.
//
// Values are slot indexes (or node indexes), never 0. Entries are hints to their readers: a stale
// one just fails its claim.
#pragma once
#include "layout.hpp"

namespace shoal {

struct RingView {
  Ring& r;
  atom<u64>* cells;
  u32 log;

  u64 size() const { return 1ull << log; }
  u64 mask() const { return size() - 1; }
  u32 lap(u64 p) const { return static_cast<u32>(p >> log); }
  static u64 cell(u32 lap, u32 value) { return u64(lap) << 32 | value; }

  // False when the ring is full.
  bool push(u32 value) {
    for (;;) {
      u64 t = r.tail.load(ACQ);
      atom<u64>& c = cells[t & mask()];
      u64 x = c.load(ACQ);
      u32 L = lap(t);
      if (x == cell(L, 0)) {
        // seq_cst: the pusher looks at `searching` and `idle` afterwards, the sleeper sets its idle
        // bit and looks here.
        if (c.compare_exchange_strong(x, cell(L, value), SEQ)) {
          r.tail.compare_exchange_strong(t, t + 1);
          return true;
        }
      } else if (static_cast<std::int32_t>(static_cast<u32>(x >> 32) - L) >= 0) {
        r.tail.compare_exchange_strong(t, t + 1);  // filled, or filled and removed: tail lags
      } else if (r.tail.load(ACQ) == t && r.head.load(ACQ) + size() <= t) {
        return false;
      }
    }
  }
  // The oldest entry and its position; false when empty.
  bool peek(u64& h, u32& value) {
    for (;;) {
      h = r.head.load(ACQ);
      u64 x = cells[h & mask()].load(SEQ);
      u32 L = lap(h);
      if (x == cell(L, 0)) return false;
      if (static_cast<u32>(x >> 32) == L) {
        value = static_cast<u32>(x);
        return true;
      }
      u64 e = h;
      r.head.compare_exchange_strong(e, h + 1);  // removed already: head lags
    }
  }
  bool remove(u64 h, u32 value) {
    u64 x = cell(lap(h), value);
    bool mine = cells[h & mask()].compare_exchange_strong(x, cell(lap(h) + 1, 0),
                                                          std::memory_order_acq_rel);
    u64 e = h;
    r.head.compare_exchange_strong(e, h + 1);
    return mine;
  }
  bool pop(u32& value) {
    u64 h;
    while (peek(h, value))
      if (remove(h, value)) return true;
    return false;
  }
  u64 entries() const {
    u64 h = r.head.load(ACQ), t = r.tail.load(ACQ);
    return t > h ? t - h : 0;
  }
  // Is `value` in the ring now? Only repair asks, of an entry that cannot be removed meanwhile.
  bool contains(u32 value) const {
    u64 h = r.head.load(ACQ);
    for (u64 p = h; p < h + size(); p++) {
      u64 x = cells[p & mask()].load(ACQ);
      if (static_cast<u32>(x) == value) return true;
      if (p >= r.tail.load(ACQ) + 2 && static_cast<u32>(x) == 0) break;
    }
    return false;
  }
};

}  // namespace shoal
