// Blocks and extents: where the bytes of values and specs live.
//
//   extent word   FREE | SMALL(class) | HEAD(n, slot) | TAIL(n, slot) | CLOSING
//   holder word   slot + 1 of the block's owner, or 0
//
// A small block is allocated and freed by one swap of its holder word, whoever does it: nothing is
// adopted or recounted when a process dies. After the swap the allocator looks at the extent word
// once more, since the extent may just have been closed (both sides seq_cst: either the closer sees
// the holder or the allocator sees CLOSING). A run of whole extents is claimed word by word in
// order and undone backwards on conflict; every word of it names the owner, so an undo after a
// death touches nothing of others.
//
// Which extent to try next is a private hint: first what this process freed itself (warm for it),
// then its current extent per class within a small moving window, then other extents of the class
// with many frees since somebody last looked, then a free extent. Only the daemon backs extents
// with memory (a full memfd is not ENOSPC but the kernel's OOM killer), so an allocation may answer
// NeedMemory: the caller then sleeps without any intent until the daemon gave or refused.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "memory.hpp"

namespace shoal {

static constexpr u32 CLASS_SIZES[SIZE_CLASSES] = {
    128,   192,   256,    384,    512,    768,    1024,   1536,   2048,
    3072,  4096,  6144,   8192,   12288,  16384,  24576,  32768,  49152,
    65536, 98304, 131072, 196608, 262144, 393216, 524288, 699008, 1048576};

u32 size_class(u64 bytes) {
  for (u32 c = 0; c < SIZE_CLASSES; c++)
    if (bytes <= CLASS_SIZES[c]) return c;
  return SIZE_CLASSES;
}
u64 class_bytes(u32 cls) { return CLASS_SIZES[cls]; }

// So many blocks freed in an extent of `per` that looking at each of them is worth it.
static u32 many_of(u32 per) { return std::max(1u, per / 8); }

static u64 extent_of(const Offsets& o, u64 offset) { return (offset - o.data) / EXTENT; }

u64 Memory::block_bytes(u64 offset) {
  u64 e = extent_of(off, offset);
  u64 w = at<atom<u64>>(off.extents)[e].load(ACQ);
  if (extent_kind(w) == EXT_SMALL) return class_bytes(extent_arg(w));
  return u64(extent_arg(w)) * EXTENT;
}

bool Memory::block_is(u64 offset, u32 s) {
  if (offset < off.data || offset >= off.end) return false;
  u64 e = extent_of(off, offset);
  u64 w = at<atom<u64>>(off.extents)[e].load(ACQ);
  if (extent_kind(w) == EXT_HEAD) return extent_owner(w) == s + 1;
  if (extent_kind(w) != EXT_SMALL || extent_arg(w) >= SIZE_CLASSES) return false;
  u64 i = (offset - off.data) % EXTENT / class_bytes(extent_arg(w));
  return at<atom<u32>>(off.holders)[e * HOLDERS_PER_EXTENT + i].load(ACQ) == s + 1;
}

bool Memory::try_block(u64 e, u32 i, u32 cls, u32 s, bool is_spec, u64& offset) {
  atom<u32>& holder = at<atom<u32>>(off.holders)[e * HOLDERS_PER_EXTENT + i];
  if (holder.load(RLX) != 0) return false;
  atom<u64>& word = at<atom<u64>>(off.extents)[e];
  offset = off.data + e * EXTENT + u64(i) * class_bytes(cls);
  begin_op(s, OP_ALLOC, (e * HOLDERS_PER_EXTENT + i) << 5 | cls, 0, false, slot(s).life.load(RLX));
  u32 none = 0;
  bool mine = holder.compare_exchange_strong(none, s + 1, SEQ);
  if (mine && word.load(SEQ) != make_extent(EXT_SMALL, cls, 0)) {
    holder.store(0, SEQ);
    mine = false;
  }
  if (mine) (is_spec ? slot(s).spec : slot(s).block).store(offset, REL);
  proc(me).op.store(0, REL);
  return mine;
}

bool Memory::alloc_small(u32 cls, u32 s, bool is_spec, u64& offset) {
  SizeClass& c = classes[cls];
  while (!c.freed.empty()) {
    u64 o = c.freed.back();
    c.freed.pop_back();
    u64 e = extent_of(off, o);
    if (at<atom<u64>>(off.extents)[e].load(RLX) == make_extent(EXT_SMALL, cls, 0) &&
        try_block(e, u32((o - off.data) % EXTENT / class_bytes(cls)), cls, s, is_spec, offset))
      return true;
  }
  const u32 per = u32(EXTENT / class_bytes(cls));
  auto* hints = at<atom<u32>>(off.hints);
  auto* words = at<atom<u64>>(off.extents);
  auto try_extent = [&](u32 e, u32 tries) {
    for (u32 k = 0; k < tries; k++) {
      if (c.cursor >= per) c.cursor = 0;
      if (try_block(e, c.cursor++, cls, s, is_spec, offset)) return true;
    }
    return false;
  };
  if (c.extent != ~0u && words[c.extent].load(RLX) == make_extent(EXT_SMALL, cls, 0)) {
    // Mostly the next block is free: the cursor goes round and finds what others freed a lap ago. A
    // full round at once is paid only after many frees.
    if (try_extent(c.extent, std::min(per, 64u))) return true;
    if (hints[c.extent].load(RLX) >= many_of(per)) {
      hints[c.extent].store(0, RLX);
      if (try_extent(c.extent, per)) return true;
    }
  }
  u32 high = header().extent_high.load(ACQ);
  for (u32 e = 0; e < high; e++)
    if (e != c.extent && words[e].load(RLX) == make_extent(EXT_SMALL, cls, 0) &&
        hints[e].load(RLX) >= many_of(per)) {
      hints[e].store(0, RLX);
      c.extent = e;
      c.cursor = 0;
      if (try_extent(e, per)) return true;
    }
  return false;
}

// An extent of SMALL blocks with no holder left becomes free again.
bool Memory::close_extent(u64 e) {
  atom<u64>& word = at<atom<u64>>(off.extents)[e];
  u64 w = word.load(ACQ);
  if (extent_kind(w) != EXT_SMALL || extent_arg(w) >= SIZE_CLASSES) return false;
  auto* holders = at<atom<u32>>(off.holders) + e * HOLDERS_PER_EXTENT;
  const u32 per = u32(EXTENT / class_bytes(extent_arg(w)));
  for (u32 i = 0; i < per; i++)
    if (holders[i].load(RLX)) return false;
  begin_op(0, OP_CLOSE, e << 8 | extent_arg(w), 0, false, 0);
  // Op words need a non-zero low half or number; the number is never 0.
  bool done = false;
  if (word.compare_exchange_strong(w, make_extent(EXT_CLOSING, extent_arg(w), me + 1), SEQ)) {
    bool empty = true;
    for (u32 i = 0; i < per && empty; i++) empty = holders[i].load(SEQ) == 0;
    word.store(empty ? make_extent(EXT_FREE, 0, 0) : w, SEQ);
    done = empty;
    if (done) header().extents_used.fetch_sub(1, RLX);
  }
  proc(me).op.store(0, REL);
  return done;
}

// `n` neighbouring free extents with memory behind them: where the first is. No claim yet.
Status Memory::find_extents(u32 n, bool reserve, u32& first) {
  Header& h = header();
  auto* words = at<atom<u64>>(off.extents);
  auto* warm = at<atom<u8>>(off.warm);
  const u64 whole = h.capacity / EXTENT, cap = all_extents();
  if (n > whole) return Status::TooBig;
  // The last 5 % are for results: a put must not stop a task from finishing. Where values may
  // leave, the last extent is the daemon's: for stubs and for records of what went wrong.
  const bool spills = h.spills.load(RLX) != SPILLS_NOT;
  const u64 most = cap - (spills && (me != 0 || spares_last) ? 1 : 0);
  const u64 limit = reserve ? most : std::min(most, cap - whole / 20);
  if (limit < cap && h.extents_used.load(RLX) + n > limit && h.extents_used.load(RLX) + n > 4) {
    u64 used = 0;
    for (u32 e = 0; e < h.extent_high.load(); e++)
      used += extent_kind(words[e].load(RLX)) != EXT_FREE;
    h.extents_used.store(used, RLX);
    if (used + n > limit) {
      for (u32 e = 0; e < h.extent_high.load(); e++) close_extent(e);
      if (h.extents_used.load(RLX) + n > limit) {
        if (!spills) return Status::Full;
        asked_extents = n;
        asked_room = !reserve;
        return Status::NeedMemory;
      }
    }
  }
  u32 high = h.extent_high.load(ACQ);
  for (int pass = 0; pass < 2; pass++) {
    u32 run = 0;
    for (u32 k = 0; k < high; k++) {
      u32 e = n == 1 && extent_hint < high ? (extent_hint + k) % high : k;
      bool ok = warm[e] && extent_kind(words[e].load(ACQ)) == EXT_FREE;
      if (ok && n == 1) {
        first = e;
        return Status::Ok;
      }
      run = ok ? run + 1 : 0;
      if (run == n) {
        first = e + 1 - n;
        return Status::Ok;
      }
    }
    if (pass == 0 && h.populated.load(RLX) >= cap) {
      bool any = false;
      for (u32 e = 0; e < high; e++) any = close_extent(e) || any;
      if (!any) break;
    } else {
      break;
    }
  }
  asked_extents = n;
  asked_room = false;
  return Status::NeedMemory;
}

Status Memory::alloc_run(u32 n, u32 s, bool is_spec, bool reserve, u64& offset) {
  auto* words = at<atom<u64>>(off.extents);
  auto* warm = at<atom<u8>>(off.warm);
  for (int tries = 0; tries < 64; tries++) {
    u32 first;
    Status st = find_extents(n, reserve, first);
    if (st != Status::Ok) return st;
    offset = off.data + u64(first) * EXTENT;
    begin_op(s, OP_RUN, u64(first) << 24 | n, 0, false, slot(s).life.load(RLX));
    u32 got = 0;
    for (; got < n; got++) {
      u64 free_word = make_extent(EXT_FREE, 0, 0);
      if (!words[first + got].compare_exchange_strong(
              free_word, make_extent(got ? EXT_TAIL : EXT_HEAD, n, s + 1), SEQ))
        break;
    }
    // It may have been taken, cooled and given back since it was found.
    bool is_warm = got == n;
    for (u32 i = 0; i < got && is_warm; i++) is_warm = warm[first + i].load(SEQ) != 0;
    if (is_warm) {
      (is_spec ? slot(s).spec : slot(s).block).store(offset, REL);
      proc(me).op.store(0, REL);
      header().extents_used.fetch_add(n, RLX);
      return Status::Ok;
    }
    while (got-- > 0) words[first + got].store(make_extent(EXT_FREE, 0, 0), SEQ);
    proc(me).op.store(0, REL);
  }
  return Status::Full;
}

Status Memory::new_block(u64 bytes, u32 s, bool is_spec, bool reserve, u64& offset) {
  u32 cls = size_class(bytes);
  if (cls >= SIZE_CLASSES)
    return alloc_run(u32((bytes + EXTENT - 1) / EXTENT), s, is_spec, reserve, offset);
  for (int tries = 0; tries < 64; tries++) {
    if (alloc_small(cls, s, is_spec, offset)) return Status::Ok;
    u32 e;
    Status st = find_extents(1, reserve, e);
    if (st != Status::Ok) {
      // Before giving up: any free block in any extent of the class. The daemon, which waits for
      // nobody, takes a larger one: what went wrong has to be said where there is no room, too.
      u32 high = header().extent_high.load(ACQ);
      for (u32 c = cls; c < (me == 0 ? SIZE_CLASSES : cls + 1); c++)
        for (u32 x = 0; x < high; x++)
          if (at<atom<u64>>(off.extents)[x].load(RLX) == make_extent(EXT_SMALL, c, 0))
            for (u32 i = 0; i < u32(EXTENT / class_bytes(c)); i++)
              if (try_block(x, i, c, s, is_spec, offset)) return Status::Ok;
      return st;
    }
    u64 free_word = make_extent(EXT_FREE, 0, 0);
    at<atom<u32>>(off.hints)[e].store(0, RLX);
    if (at<atom<u64>>(off.extents)[e].compare_exchange_strong(
            free_word, make_extent(EXT_SMALL, cls, 0), SEQ)) {
      header().extents_used.fetch_add(1, RLX);
      // Cooled since it was found, and others may use it already: it gets its memory by being
      // written to, and is counted for that.
      u8 cold = 0;
      if (at<atom<u8>>(off.warm)[e].compare_exchange_strong(cold, 1, SEQ))
        header().populated.fetch_add(1);
    }
    extent_hint = e;
    classes[cls].extent = e;
    classes[cls].cursor = 0;
  }
  return Status::Full;
}

// Idempotent: the slot cannot be reused before its freeing ends, so a second swap finds another
// holder or 0.
void Memory::free_block(u64 offset, u64, u32 s) {
  u64 e = extent_of(off, offset);
  auto* words = at<atom<u64>>(off.extents);
  u64 w = words[e].load(ACQ);
  if (extent_kind(w) == EXT_SMALL && extent_arg(w) < SIZE_CLASSES) {
    u32 cls = extent_arg(w);
    u32 mine = s + 1;
    u64 i = (offset - off.data) % EXTENT / class_bytes(cls);
    if (at<atom<u32>>(off.holders)[e * HOLDERS_PER_EXTENT + i].compare_exchange_strong(mine, 0,
                                                                                       SEQ)) {
      // Counted up to where it is asked for: beyond that every free would change a shared word.
      atom<u32>& freed = at<atom<u32>>(off.hints)[e];
      if (freed.load(RLX) < many_of(u32(EXTENT / class_bytes(cls)))) freed.fetch_add(1, RLX);
      SizeClass& c = classes[cls];
      if (c.freed.size() < c.freed.capacity()) c.freed.push_back(offset);
    }
  } else if (extent_kind(w) == EXT_HEAD && extent_owner(w) == s + 1) {
    u32 n = extent_arg(w);
    for (u32 k = n; k-- > 0;) {  // HEAD last: a repeated free still finds the length
      u64 mine = make_extent(k ? EXT_TAIL : EXT_HEAD, n, s + 1);
      words[e + k].compare_exchange_strong(mine, make_extent(EXT_FREE, 0, 0), SEQ);
    }
    header().extents_used.fetch_sub(n, RLX);
  } else {
    return;
  }
  Header& h = header();
  if (h.space_waiters.load(SEQ)) {
    h.space.fetch_add(1);
    platform::futex_wake(h.space);
  }
}

// The block of a spec is given back, and `origin` takes its place in the slot. Between the two the
// block is nobody's, as it is while it is made: the same intent lets repair give it back.
void Memory::replace_spec(u32 s, u64 origin) {
  const u64 offset = slot(s).spec.load(RLX);
  const u64 e = extent_of(off, offset);
  const u64 w = at<atom<u64>>(off.extents)[e].load(ACQ);
  const u64 life = slot(s).life.load(RLX);
  if (extent_kind(w) == EXT_SMALL) {
    const u64 i = (offset - off.data) % EXTENT / class_bytes(extent_arg(w));
    begin_op(s, OP_ALLOC, (e * HOLDERS_PER_EXTENT + i) << 5 | extent_arg(w), 0, false, life);
  } else {
    begin_op(s, OP_RUN, e << 24 | extent_arg(w), 0, false, life);
  }
  slot(s).spec.store(origin, SEQ);
  free_block(offset, 0, s);
  proc(me).op.store(0, REL);
}

void Memory::finish_alloc(u32 p, u64 op, u64 rec) {
  u64 kind = rec >> 2 & 0x3f, arg = rec >> 8;
  u32 s = static_cast<u32>(op);
  if (kind == OP_ALLOC) {
    // The holder word is given back whatever the extent is by now: it may have been closed and used
    // for another class before the dead looked at it again.
    const u64 index = arg >> 5;
    const u64 e = index / HOLDERS_PER_EXTENT, i = index % HOLDERS_PER_EXTENT;
    const u64 offset = off.data + e * EXTENT + i * class_bytes(u32(arg & 31));
    if (slot(s).block.load(ACQ) != offset && slot(s).spec.load(ACQ) != offset) {
      u32 mine = s + 1;
      at<atom<u32>>(off.holders)[index].compare_exchange_strong(mine, 0, SEQ);
    }
  } else if (kind == OP_RUN) {
    u32 first = u32(arg >> 24), n = u32(arg & 0xffffff);
    u64 offset = off.data + u64(first) * EXTENT;
    if (slot(s).block.load(ACQ) == offset || slot(s).spec.load(ACQ) == offset) return;
    for (u32 k = n; k-- > 0;) {
      u64 mine = make_extent(k ? EXT_TAIL : EXT_HEAD, n, s + 1);
      at<atom<u64>>(off.extents)[first + k].compare_exchange_strong(
          mine, make_extent(EXT_FREE, 0, 0), SEQ);
    }
  } else if (kind == OP_CLOSE) {
    u64 e = arg >> 8, cls = arg & 0xff;
    atom<u64>& word = at<atom<u64>>(off.extents)[e];
    u64 w = word.load(ACQ);
    // Only the closer's own word is undone, back to SMALL: closing again costs nothing.
    if (extent_kind(w) == EXT_CLOSING && extent_owner(w) == p + 1)
      word.compare_exchange_strong(w, make_extent(EXT_SMALL, cls, 0), SEQ);
  }
}

// ---- memory behind the extents: the daemon only

// Sleep until the daemon gave memory or refused. No intent is set here.
Status Memory::wait_memory(u64 deadline_ns) {
  Header& h = header();
  u32 refused = h.refused.load(ACQ);
  atom<u32>& want = asked_room ? h.want_room : h.want;
  for (u32 w = want.load(); w < asked_extents && !want.compare_exchange_weak(w, asked_extents);) {
  }
  u32 seen = h.space.load(SEQ);
  h.space_waiters.fetch_add(1);
  ring_daemon();
  u64 now = platform::now_ns();
  bool in_time = now < deadline_ns &&
                 (want.load() == 0 ||
                  platform::futex_wait(h.space, seen, std::min<u64>(deadline_ns - now, 500000000)));
  h.space_waiters.fetch_sub(1);
  if (closed.load()) return Status::Gone;
  if (h.refused.load(ACQ) != refused) return Status::Full;
  return in_time || platform::now_ns() < deadline_ns ? Status::Ok : Status::Full;
}

void Memory::count_extents(u64& used_bytes, u64& populated) {
  Header& h = header();
  auto* words = at<atom<u64>>(off.extents);
  used_bytes = 0;
  for (u32 e = 0; e < h.extent_high.load(); e++) {
    u64 w = words[e].load(ACQ);
    if (extent_kind(w) == EXT_HEAD || extent_kind(w) == EXT_TAIL) used_bytes += EXTENT;
    if (extent_kind(w) == EXT_SMALL && extent_arg(w) < SIZE_CLASSES) {
      auto* holders = at<atom<u32>>(off.holders) + u64(e) * HOLDERS_PER_EXTENT;
      u64 bytes = class_bytes(extent_arg(w));
      for (u32 i = 0; i < EXTENT / bytes; i++)
        if (const u32 s = holders[i].load(RLX); s && s != HOLE) used_bytes += bytes;
    }
  }
  populated = (h.populated.load() - h.hollow.load()) * EXTENT;
}

// What the store may have, on a machine that gives `headroom` bytes more than we have now.
u64 Memory::extents_to_have(u64 headroom) {
  Header& h = header();
  return std::min(all_extents(), h.populated.load() + headroom / EXTENT);
}

// So many free extents are kept warm: a quarter of the store, an eighth of what is free on the
// machine, at most 1 GiB, so that a first large value meets memory that is there.
static u32 warm_reserve(u64 cap, u64 headroom) {
  const u64 most = std::max<u64>(2, std::min(cap / 4, headroom / (8 * EXTENT)));
  return u32(std::min<u64>(WARM_RESERVE, most));
}

// Give the memory of one extent back, if nobody uses it.
bool Memory::cool(u32 e) {
  atom<u64>& word = at<atom<u64>>(off.extents)[e];
  atom<u8>& warm = at<atom<u8>>(off.warm)[e];
  if (extent_kind(word.load(ACQ)) == EXT_SMALL) close_extent(e);
  u64 free_word = make_extent(EXT_FREE, 0, 0);
  if (!warm || !word.compare_exchange_strong(free_word, make_extent(EXT_CLOSING, 0, 1), SEQ))
    return false;
  warm = 0;
  platform::punch(fd, off.data + u64(e) * EXTENT, EXTENT);
  header().populated.fetch_sub(1);
  word.store(make_extent(EXT_FREE, 0, 0), SEQ);
  return true;
}

// Others need memory: what is free and warm beyond the reserve goes; how many bytes that were.
u64 Memory::give_back(u64 headroom) {
  Header& h = header();
  const u32 reserve = warm_reserve(extents_to_have(headroom), headroom);
  u32 free_warm = 0;
  u64 given = 0;
  for (u32 e = 0; e < h.extent_high.load(); e++) {
    const u64 kind = extent_kind(at<atom<u64>>(off.extents)[e].load(ACQ));
    if (!at<atom<u8>>(off.warm)[e] || (kind != EXT_FREE && kind != EXT_SMALL)) continue;
    if (kind == EXT_FREE && free_warm < reserve)
      free_warm++;  // the first ones are taken first
    else if (cool(e))
      given += EXTENT;
  }
  return given;
}

// Populate what is asked for (a run of `want` extents), or keep the reserve. Free extents elsewhere
// are given back when the budget is used up by fragments.
void Memory::populate(u64 budget, u64 headroom, u64& done, bool& more) {
  Header& h = header();
  auto* words = at<atom<u64>>(off.extents);
  auto* warm = at<atom<u8>>(off.warm);
  const u64 cap = extents_to_have(headroom);
  done = 0;
  u32 want = h.want.load(SEQ);
  u32 high = h.extent_high.load(), free_warm = 0, best = 0, run = 0, longest = 0;
  for (u32 e = 0; e < high; e++) {
    bool ok = warm[e] && extent_kind(words[e].load(ACQ)) == EXT_FREE;
    free_warm += ok;
    run = ok ? run + 1 : 0;
    if (run > longest) longest = run;
  }
  auto answer = [&](bool refuse) {
    h.want.store(0, SEQ);
    if (refuse) h.refused.fetch_add(1);
    h.space.fetch_add(1);
    platform::futex_wake(h.space);
  };
  if (want && longest >= want) {
    answer(false);
    want = 0;
  }
  const u32 reserve = warm_reserve(cap, headroom);
  more = false;
  if (!want && (free_warm >= reserve || h.populated.load() >= cap)) return;
  u32 need = want ? want : u32(std::min<u64>({8, reserve - free_warm, cap - h.populated.load()}));
  // The first run of `need` extents that are free; warm ones in it cost nothing.
  u32 cost = 0;
  bool found = false;
  for (;;) {
    run = 0;
    for (u32 e = 0; e < h.n_extents && !found; e++) {
      bool ok = extent_kind(words[e].load(ACQ)) == EXT_FREE && (want || !warm[e]);
      run = ok ? run + 1 : 0;
      if (run == need) {
        best = e + 1 - need;
        found = true;
      }
    }
    if (found || want || need == 1) break;
    need = 1;
  }
  for (u32 k = 0; found && k < need; k++) cost += !warm[best + k];
  // Over the budget: give back free extents outside the run.
  for (u32 e = 0; found && want && e < high && h.populated.load() + cost > cap; e++)
    if (e < best || e >= best + need) cool(e);
  if (!found || h.populated.load() + cost > cap) {
    if (want) answer(true);
    return;
  }
  // Nobody uses an extent before it is warm; steps are bounded by the budget.
  for (u32 k = 0; k < need;) {
    const u32 e = best + k;
    if (warm[e]) {
      k++;
      continue;
    }
    u32 n = 0;
    while (k + n < need && !warm[e + n] && done + (n + 1) * EXTENT <= budget) n++;
    if (!n) {
      more = true;
      return;
    }
    const u8 state = back(e, n);
    if (!state) {
      if (want) answer(true);
      return;
    }
    h.populated.fetch_add(n);
    if (e + n > h.extent_high.load()) h.extent_high.store(e + n);
    std::atomic_thread_fence(SEQ);
    for (u32 i = 0; i < n; i++)
      if (warm[e + i].exchange(state, SEQ)) h.populated.fetch_sub(1);  // it was written to
    done += n * EXTENT;
    k += n;
  }
  if (want) answer(false);
  more = !want && free_warm + need < reserve;
}

// Have one extent ready for what the daemon itself is about to write: its own need comes before
// what others have asked for, which this leaves as it is.
bool Memory::ready_extent(u64 headroom) {
  Header& h = header();
  auto* words = at<atom<u64>>(off.extents);
  auto* warm = at<atom<u8>>(off.warm);
  u32 cold = h.n_extents;
  for (u32 e = 0; e < h.n_extents; e++) {
    if (extent_kind(words[e].load(ACQ)) != EXT_FREE) continue;
    if (warm[e]) return true;
    if (cold == h.n_extents) cold = e;
  }
  if (cold == h.n_extents || h.populated.load() + 1 > extents_to_have(headroom)) return false;
  const u8 state = back(cold, 1);
  if (!state) return false;
  h.populated.fetch_add(1);
  if (cold + 1 > h.extent_high.load()) h.extent_high.store(cold + 1);
  std::atomic_thread_fence(SEQ);
  warm[cold] = state;
  return true;
}

// Give memory to n extents; how warm they are then, 0 if there is none to be had.
//
// As huge pages where the kernel makes them: one small page each, and one MADV_COLLAPSE over all of
// them (each call waits for a bit of work on every core, so never one per extent). That clears
// memory at 14 GB/s; `fallocate` finds it at 3.4 GB/s, and then every process pays 0.4 us per page
// at its first write. A few extents are not worth the waiting.
u8 Memory::back(u32 first, u32 n) {
  const u64 begin = off.data + u64(first) * EXTENT;
  if (n >= 4 && makes_huge_pages) {
    for (u32 i = 0; i < n; i++)
      if (!platform::populate(fd, begin + i * EXTENT, 4096)) return 0;
    const bool done = platform::collapse(rw + begin, n * EXTENT);
    if (!done && errno == EINVAL) makes_huge_pages = false;
    platform::forget(rw + begin, n * EXTENT);
    if (done) return 2;
  }
  return platform::populate(fd, begin, n * EXTENT) ? 1 : 0;
}

// Huge pages for extents that are free now: afterwards the first write by any process is as fast as
// a later one.
bool Memory::collapse(u32 budget) {
  Header& h = header();
  auto* words = at<atom<u64>>(off.extents);
  auto* warm = at<atom<u8>>(off.warm);
  for (u32 e = 0; e < h.extent_high.load(); e++) {
    if (warm[e] != 1) continue;
    u64 free_word = make_extent(EXT_FREE, 0, 0);
    if (!words[e].compare_exchange_strong(free_word, make_extent(EXT_CLOSING, 0, 1), SEQ)) continue;
    u8* p = rw + off.data + u64(e) * EXTENT;
    *reinterpret_cast<volatile u8*>(p) = *reinterpret_cast<volatile u8*>(p);
    warm[e] = platform::collapse(p, EXTENT) ? 2 : 3;  // 3: this kernel will not; do not ask again
    platform::forget(p, EXTENT);
    words[e].store(make_extent(EXT_FREE, 0, 0), SEQ);
    if (--budget == 0) return true;
  }
  return false;
}

}  // namespace shoal
