// Memory inside extents that are in use, given back: so that one block that stays, because somebody
// looks at it, keeps its own bytes and not two megabytes.
//
//   a free block     holder word 0 -> HOLE, as an allocation would take it; then its pages go
//   behind a value   the pages of a run past the last byte of its value go
//
// What was given back counts for the store (`Header::hollow`, in extents), which may then use that
// many extents more: their numbers are only addresses, and there are eight times as many as memory.
// Only the daemon does this, and only where too few values can leave for what is asked: nothing
// here needs repair. Nobody takes a hollow extent before it is whole again: a small one has a HOLE
// in it (which no process closes or allocates), the end of a run is not warm when it becomes free.
// `sweep` ends those whose last block has gone.
//
// A value whose run is cut is held meanwhile, so that its run is no one else's.
#include "memory.hpp"

namespace shoal {

static constexpr u64 PAGE = 4096;

// The whole pages between two places go; how many, 0 if the kernel kept them.
u64 Memory::give_pages(u64 begin, u64 end) {
  begin = (begin + PAGE - 1) / PAGE * PAGE;
  end = end / PAGE * PAGE;
  if (begin >= end || !platform::punch(fd, begin, end - begin)) return 0;
  return platform::is_hole(fd, begin, end - begin) ? (end - begin) / PAGE : 0;
}

void Memory::set_holes(u64 e, u64 pages) {
  hole_pages += pages - holes[e];
  holes[e] = u32(pages);
  header().hollow.store(hole_pages * PAGE / EXTENT, SEQ);
}

void Memory::hollow_small(u64 e, u64 w) {
  const u64 bytes = class_bytes(extent_arg(w));
  const u32 per = u32(EXTENT / bytes);
  auto* holders = at<atom<u32>>(off.holders) + e * HOLDERS_PER_EXTENT;
  atom<u64>& word = at<atom<u64>>(off.extents)[e];
  std::vector<bool> fresh(per);
  bool any = false;
  for (u32 i = 0; i < per; i++) {
    u32 none = 0;
    fresh[i] = holders[i].load(RLX) == 0 && holders[i].compare_exchange_strong(none, HOLE, SEQ);
    any |= fresh[i];
  }
  if (!any) return;
  const bool is_ours = word.load(SEQ) == w;  // else it was closed meanwhile
  u64 pages = 0;
  for (u32 i = 0; i < per;) {
    u32 end = i;
    bool news = false;
    for (; end < per && holders[end].load(RLX) == HOLE; end++) news |= fresh[end];
    const u64 base = off.data + e * EXTENT;
    u64 got = 0;
    if (news && is_ours) got = give_pages(base + i * bytes, base + end * bytes);
    if (news && !got)
      for (u32 k = i; k < end; k++)
        if (fresh[k]) holders[k].store(0, SEQ);
    if (!news && end > i) got = end * bytes / PAGE - (i * bytes + PAGE - 1) / PAGE;
    pages += got;
    i = end + 1;
  }
  if (is_ours) set_holes(e, pages);
}

void Memory::hollow_run(u64 e, u64 w) {
  const u32 s = extent_owner(w) - 1;
  const u64 base = off.data + e * EXTENT, size = u64(extent_arg(w)) * EXTENT;
  atom<u64>* record;
  if (!hold_key(make_key(s, slot(s).gen.load(ACQ)), false, record)) return;
  Slot& x = slot(s);
  const u8 kind = x.kind.load(RLX);
  const u64 used = x.size.load(ACQ), last = e + extent_arg(w) - 1;
  const bool is_value = (x.state.load(ACQ) & ~WAITERS) == SEALED && x.block.load(SEQ) == base &&
                        (kind == BYTES || kind == PICKLE) &&
                        !(x.flags.load(RLX) & (SHARED | CHANNEL | IS_CELL));
  if (is_value && used <= size && size - used < EXTENT && !holes[last]) {
    atom<u8>& warm = at<atom<u8>>(off.warm)[last];
    const u8 was = warm;
    warm = 0;  // before it can become free
    std::atomic_thread_fence(SEQ);
    const u64 pages = give_pages(base + used, base + size);
    if (pages)
      set_holes(last, pages);
    else
      warm = was;
  }
  drop(record);
}

// Give memory back from inside extents, until `most` extents of it are won or no more is there.
void Memory::hollow_out(u64 most) {
  Header& h = header();
  if (holes.empty()) holes.resize(h.n_extents);
  auto* words = at<atom<u64>>(off.extents);
  const u64 enough = hole_pages + (most + 1) * (EXTENT / PAGE);
  for (u64 e = 0; e < h.extent_high.load() && hole_pages < enough; e++) {
    const u64 w = words[e].load(ACQ);
    if (extent_kind(w) == EXT_HEAD && extent_owner(w))
      hollow_run(e, w);
    else if (extent_kind(w) == EXT_SMALL && extent_arg(w) < SIZE_CLASSES &&
             is_spillable(class_bytes(extent_arg(w))))
      hollow_small(e, w);
  }
}

// The last block of a small extent with holes has gone: it is taken, and its holes with it.
bool Memory::take_hollow(u64 e, u64 w) {
  atom<u64>& word = at<atom<u64>>(off.extents)[e];
  auto* holders = at<atom<u32>>(off.holders) + e * HOLDERS_PER_EXTENT;
  const u32 per = u32(EXTENT / class_bytes(extent_arg(w)));
  auto is_empty = [&] {
    for (u32 i = 0; i < per; i++)
      if (const u32 s = holders[i].load(SEQ); s && s != HOLE) return false;
    return true;
  };
  if (!is_empty() || !word.compare_exchange_strong(w, make_extent(EXT_CLOSING, 0, 1), SEQ))
    return false;
  if (!is_empty()) {
    word.store(w, SEQ);
    return false;
  }
  for (u32 i = 0; i < per; i++) {
    u32 hole = HOLE;
    holders[i].compare_exchange_strong(hole, 0, SEQ);
  }
  header().extents_used.fetch_sub(1, RLX);
  return true;
}

// Hollow extents that nobody uses any more are extents without memory.
void Memory::sweep_hollow() {
  if (!hole_pages) return;
  Header& h = header();
  for (u64 e = 0; e < h.extent_high.load(); e++) {
    if (!holes[e]) continue;
    atom<u64>& word = at<atom<u64>>(off.extents)[e];
    u64 w = word.load(ACQ);
    const bool taken =
        extent_kind(w) == EXT_SMALL
            ? take_hollow(e, w)
            : extent_kind(w) == EXT_FREE &&
                  word.compare_exchange_strong(w, make_extent(EXT_CLOSING, 0, 1), SEQ);
    if (!taken) continue;
    at<atom<u8>>(off.warm)[e] = 0;
    platform::punch(fd, off.data + e * EXTENT, EXTENT);
    h.populated.fetch_sub(1);
    set_holes(e, 0);
    word.store(make_extent(EXT_FREE, 0, 0), SEQ);
  }
}

}  // namespace shoal
