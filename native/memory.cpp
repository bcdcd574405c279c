// Mapping, leased chunks, queues, process records, events.
#include "memory.hpp"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace shoal {

static u64 up(u64 x, u64 to) { return (x + to - 1) / to * to; }

static Offsets make_offsets(u32 extents) {
  Offsets o;
  u64 p = up(sizeof(Header), 4096);
  auto take = [&](u64 bytes) {
    u64 r = p;
    p = up(p + bytes, 4096);
    return r;
  };
  o.procs = take(sizeof(Proc) * u64(MAX_PROCS));
  o.running = take(u64(MAX_PROCS) * RUNNING_MAX * 8);
  o.queues = take(sizeof(Queue) * u64(QUEUES));
  o.rings = take((u64(CLASS_QUEUES) << CLASS_CELLS_LOG | 0) * 8 +
                 (u64(ACTOR_QUEUES) << ACTOR_CELLS_LOG) * 8);
  o.inbox = take(8ull << INBOX_LOG);
  o.comps = take((8ull << COMPLETION_LOG) * MAX_PROCS);
  o.owners = take(3ull * CHUNKS * 4);
  o.slots = take(u64(CHUNKS) * SLOTS_PER_CHUNK * sizeof(Slot));
  o.ledger = take(u64(CHUNKS) * LEDGER_PER_CHUNK * 8);
  o.nodes = take(u64(CHUNKS) * NODES_PER_CHUNK * sizeof(Node));
  o.events = take(u64(MAX_PROCS) * EVENTS_PER_PROC * sizeof(Event));
  o.extents = take(u64(extents) * 8);
  o.warm = take(extents);
  o.hints = take(u64(extents) * 4);
  o.holders = take(u64(extents) * HOLDERS_PER_EXTENT * 4);
  p = up(p, EXTENT);
  o.data = take(u64(extents) * EXTENT);
  o.end = up(p, EXTENT);
  return o;
}

void Memory::map_tables() {
  off = header().off;
  node_id = header().node_id;
  slots = at<Slot>(off.slots);
  procs = at<Proc>(off.procs);
  queues = at<Queue>(off.queues);
  mine = running_of(me);
  reset_hints();
}

// Hints are reserved here so that no operation grows a vector between an intent and its clearing.
void Memory::reset_hints() {
  classes.assign(SIZE_CLASSES, {});
  for (auto& c : classes) c.freed.reserve(64);
  free_slots.reserve(SLOTS_PER_CHUNK * 4);
  free_ledger.reserve(LEDGER_PER_CHUNK * 4);
  if (side_by_side) left_places.reserve(RUNNING_MAX);
  listed.clear();
}

Memory* Memory::create(u64 capacity, u32 cores, u64 node_id, u32 max_extents) {
  u64 n = std::max<u64>(up(capacity, EXTENT) / EXTENT, 8);
  u32 extents = max_extents ? max_extents : static_cast<u32>(std::max<u64>(n * 8, 1024));
  Offsets o = make_offsets(extents);
  auto* m = new Memory;
  m->size = o.end;
  m->fd = platform::make_memory_file(m->size);
  m->bell = platform::make_bell();
  m->rw = static_cast<u8*>(platform::map_file(m->fd, m->size, true));
  m->ro = static_cast<u8*>(platform::map_file(m->fd, m->size, false));
  platform::keep_from_children(m->rw, m->size);
  Header& h = m->header();
  h.node_id = node_id;
  h.capacity = n * EXTENT;
  h.cores = std::max(1u, cores);
  h.n_extents = extents;
  h.off = o;
  h.layout = layout_hash();
  h.proc_high = 1;
  m->map_tables();
  m->procs[0].kind = DAEMON;
  m->slots[0].gen = 0;
  std::atomic_thread_fence(SEQ);
  h.magic = MAGIC;
  return m;
}

Memory* Memory::attach(int fd, int bell, u32 index) {
  Header probe;
  if (pread(fd, &probe, sizeof probe, 0) != ssize_t(sizeof probe) || probe.magic != MAGIC)
    throw std::runtime_error("the descriptor is not node memory");
  if (probe.layout != layout_hash())
    throw std::invalid_argument("node memory has layout " + std::to_string(probe.layout) +
                                ", this build of shoal has " + std::to_string(layout_hash()));
  const Offsets expected = make_offsets(probe.n_extents);
  struct stat file;
  if (std::memcmp(&expected, &probe.off, sizeof expected) != 0 || fstat(fd, &file) != 0 ||
      u64(file.st_size) != expected.end)
    throw std::invalid_argument("the header of node memory is damaged");
  if (index >= MAX_PROCS) throw std::invalid_argument("process index out of range");
  auto* m = new Memory;
  m->size = probe.off.end;
  m->fd = fd;
  m->bell = bell;
  m->me = index;
  m->rw = static_cast<u8*>(platform::map_file(fd, m->size, true));
  m->ro = static_cast<u8*>(platform::map_file(fd, m->size, false));
  platform::keep_from_children(m->rw, m->size);
  platform::explain_writes(m->ro, m->size);
  m->map_tables();
  return m;
}

Memory* Memory::share(const Memory& other, u32 index) {
  auto* m = new Memory;
  m->size = other.size;
  m->fd = other.fd;
  m->bell = other.bell;
  m->me = index;
  m->rw = other.rw;
  m->ro = other.ro;
  m->owns_mapping = false;
  m->map_tables();
  return m;
}

Memory::~Memory() {
  if (!owns_mapping) return;
  if (rw && !forked) platform::unmap(rw, size);
  if (mark) platform::unmap(mark, platform::MARK_BYTES);
  if (ro) platform::unmap(ro, size);
}

// The session is over for this process: private zero pages take the place of node memory, so that a
// thread which is still inside a wait finds nothing and leaves, and the kernel gets the memory
// back. `keep` are values that Python still looks at (begin and end of read-only bytes): they
// become private copies.
void Memory::let_go(std::vector<std::pair<u64, u64>> keep) {
  const u64 page = 4096;
  if (mark) platform::unmap(mark, platform::MARK_BYTES);  // later children see nothing of ours
  mark = nullptr;
  std::vector<std::pair<u64, u64>> ranges;
  std::sort(keep.begin(), keep.end());
  for (auto [b, e] : keep) {
    b &= ~(page - 1);
    e = up(e, page);
    if (!ranges.empty() && b <= ranges.back().second)
      ranges.back().second = std::max(ranges.back().second, e);
    else
      ranges.emplace_back(b, e);
  }
  // Of both mappings: drafts and shared blocks are seen, and may be written, through the writable
  // one.
  for (u8* base : {ro, rw}) {
    u64 at = reinterpret_cast<u64>(base);
    const u64 end = at + size;
    for (auto [b, e] : ranges) {
      if (b < at || e > end) continue;
      if (!platform::make_private(reinterpret_cast<void*>(b), reinterpret_cast<void*>(e),
                                  base == rw))
        return;
      if (b > at) platform::blank(reinterpret_cast<void*>(at), b - at);
      at = e;
    }
    if (end > at) platform::blank(reinterpret_cast<void*>(at), end - at);
  }
  ::close(fd);
  ::close(bell);
  fd = bell = -1;
}

RingView Memory::ring(u32 q) {
  u64 cells = q < CLASS_QUEUES ? u64(q) << CLASS_CELLS_LOG
                               : (u64(CLASS_QUEUES) << CLASS_CELLS_LOG) +
                                     (u64(q - CLASS_QUEUES) << ACTOR_CELLS_LOG);
  return {queue(q).ring, at<atom<u64>>(off.rings + cells * 8),
          q < CLASS_QUEUES ? CLASS_CELLS_LOG : ACTOR_CELLS_LOG};
}
RingView Memory::inbox() { return {header().inbox, at<atom<u64>>(off.inbox), INBOX_LOG}; }
RingView Memory::completions(u32 p) {
  return {proc(p).completions, at<atom<u64>>(off.comps + (u64(p) * 8 << COMPLETION_LOG)),
          COMPLETION_LOG};
}

void Memory::begin_fork() {
  if (me == 0) return;
  if (!mark) mark = platform::map_mark(fd, fork_mark(me));
  proc(me).forked.store(1, SEQ);
}

// A chunk of slots (0), ledger entries (1) or watch nodes (2) for me. The owner word is the whole
// lease: what is in use inside a chunk says so itself, so a chunk of the dead can be leased again
// at once.
u32 Memory::lease_chunk(int table) {
  auto* owners = at<atom<u32>>(off.owners) + u64(table) * CHUNKS;
  for (u32 c = 0; c < CHUNKS; c++) {
    if (owners[c].load(RLX) != 0) continue;
    u32 none = 0;
    // The high-water mark is raised before the lease, so that a sweep never misses a leased chunk.
    auto& high = header().chunk_high[table];
    for (u32 h = high.load(); h < c + 1 && !high.compare_exchange_weak(h, c + 1);) {
    }
    if (owners[c].compare_exchange_strong(none, me + 1)) return c;
  }
  return ~0u;
}

bool Memory::new_queue(u32 kind, u32 job, u32& q, u32& gen) {
  u32 begin = kind == 1 ? 1 : CLASS_QUEUES, end = kind == 1 ? CLASS_QUEUES : QUEUES;
  for (u32 i = begin; i < end; i++) {
    Queue& x = queue(i);
    if (x.used.load()) continue;
    x.job = job;
    x.searching = 0;
    x.hungry = 0;
    x.redo = 0;
    x.overflow = 0;
    for (auto& w : x.idle) w.store(0, RLX);
    x.gen.fetch_add(1);
    x.dead = 0;
    auto& high = header().queue_high[kind - 1];
    if (high.load() < i + 1) high = i + 1;
    x.used = kind;
    q = i;
    gen = x.gen.load();
    return true;
  }
  return false;
}

// The queue's generation moves on first; whoever is inside a push has said so in its task_op before
// it looked at the generation (a hazard pointer), so "nobody names the queue" now means nobody ever
// will.
bool Memory::free_queue(u32 q) {
  Queue& x = queue(q);
  if (x.used.load() == 0) return true;
  x.dead = 1;
  std::atomic_thread_fence(SEQ);
  for (u32 p = 0; p < header().proc_high.load(); p++) {
    u64 op = proc(p).task_op.load(SEQ);
    if (!op) continue;
    Spec* s = spec(static_cast<u32>(op >> 32) & 0x0fffffff);
    if (!s || s->queue == q) return false;
  }
  RingView r = ring(q);
  u64 h;
  u32 v;
  while (r.peek(h, v)) {
    if (claim_state(slot(v).claim.load(ACQ)) == QUEUED && slot(v).queue.load(ACQ) == q)
      return false;
    r.remove(h, v);
  }
  x.gen.fetch_add(1);
  x.used = 0;
  return true;
}

i64 Memory::open_process(u32 kind) {
  for (u32 p = 1; p < MAX_PROCS; p++) {
    Proc& r = proc(p);
    if (r.kind.load() != NO_PROC) continue;
    r.op = 0;
    r.task_op = 0;
    r.freeing = r.freeing_next = r.cascade = 0;
    r.depth = 0;
    r.forked = 0;
    r.assign = r.attached = r.blocked = r.sleeping = r.rescan = r.leased = 0;
    r.waits_for = r.waits_since = 0;  // of a process that was killed in a wait
    RingView c = completions(p);
    u32 v;
    while (c.pop(v)) {
    }
    r.epoch.fetch_add(1);
    r.kind = kind;
    u32 high = header().proc_high.load();
    if (high < p + 1) header().proc_high = p + 1;
    return p;
  }
  return -1;
}

#ifndef SHOAL_NO_EVENTS
// Fixed records in a ring of this process: four stores and a counter, no lock. The counter is
// written last; a reader looks at it again afterwards, and drops what may have been overwritten.
//
// A third of what a record costs is its time, a look at the core's counter. So a plain task looks
// three times: what a worker takes without having waited begins when its last one ended, and where
// nothing else happens in between, one record tells of both ends. Each has the line fetched that
// the next ones will need, which has left the caches since the ring was there last.
static void leave(Memory& m, u64 time, u64 kind, u64 key, u64 about, u32 n_of) {
  Proc& r = m.proc(m.me);
  const u64 n = r.event_seq.load(RLX);
  Event* ring = m.at<Event>(m.off.events) + u64(m.me) * EVENTS_PER_PROC;
  Event& e = ring[n % EVENTS_PER_PROC];
  const u64 job_of = m.slot(key_slot(key) < SLOTS ? key_slot(key) : 0).job.load(RLX);
  const u64 what = kind | (m.own_actor ? EV_BY_ACTOR : 0) | u64(n_of & 0xffff) << 32 | job_of << 48;
  // Each of them released: who reads one of them has seen the counter that came before it.
  e.time.store(time, REL);
  e.what.store(what, REL);
  e.key.store(key, REL);
  e.about.store(about, REL);
  r.event_seq.store(n + 1, REL);
  __builtin_prefetch(&ring[(n + 2) % EVENTS_PER_PROC], 1);
}
void Memory::event(u32 kind, u64 key, u64 about, u32 n) {
  sealed_at.store(0, RLX);
  leave(*this, event_clock.now(), kind, key, about, n);
}
void Memory::event_taken(u64 key, u64 about, u32 attempt, bool goes_on) {
  const u64 since = goes_on ? sealed_at.load(RLX) : 0;
  if (since)
    leave(*this, since, EV_TAKE | EV_NEAR, key, about, attempt);
  else
    event(EV_TAKE, key, about, attempt);
}
void Memory::event_sealed(u64 key, u32 format) {
  const u64 now = event_clock.now(), n = proc(me).event_seq.load(RLX);
  sealed_at.store(now, RLX);
  Event& e = at<Event>(off.events)[u64(me) * EVENTS_PER_PROC + (n - 1) % EVENTS_PER_PROC];
  const u64 what = e.what.load(RLX), took = now - e.time.load(RLX);
  if (e.key.load(RLX) == key && event_kind(what) == EV_TAKE && n && took <= TOOK_MOST &&
      format <= FORMAT_MOST && !(what & EV_ENDED))
    e.what.store(what | event_end(took, format), REL);
  else
    leave(*this, now, EV_SEAL, key, own_actor ? method_event(own_actor, NO_METHOD) : 0, format);
}
// A program that submits one task after the other looks at the clock once for several of them; who
// reads the records spreads them over the time between two looks. If it pauses meanwhile, it is at
// most a tick of the kernel's clock, some ms, by which a time is wrong.
void Memory::event_submitted(u64 key, u64 parent) {
  const u64 n = proc(me).event_seq.load(RLX);
  const u32 left = submits_untimed.load(RLX);
  if (left && n) {
    const Event& e = at<Event>(off.events)[u64(me) * EVENTS_PER_PROC + (n - 1) % EVENTS_PER_PROC];
    if (event_kind(e.what.load(RLX)) == EV_SUBMIT && platform::tick_ns() == submit_tick.load(RLX)) {
      submits_untimed.store(left - 1, RLX);
      sealed_at.store(0, RLX);
      leave(*this, submit_looked.load(RLX), EV_SUBMIT | EV_NEAR, key, parent, 0);
      return;
    }
  }
  const u64 now = event_clock.now(), since = now - submit_looked.load(RLX);
  const bool is_near = since <= SUBMITS_NEAR;
  submits_untimed.store(is_near ? SUBMITS_UNTIMED : 0, RLX);
  if (is_near) submit_tick.store(platform::tick_ns(), RLX);
  submit_looked.store(now, RLX);
  sealed_at.store(0, RLX);
  leave(*this, now, EV_SUBMIT, key, parent, 0);
}
// What is freed right after something else was freed stands in the same record, without a time of
// its own: all that matters of it is that it is gone.
void Memory::event_freed(u64 key) {
  const u64 n = proc(me).event_seq.load(RLX);
  const u32 left = freed_untimed.load(RLX);
  Event& e = at<Event>(off.events)[u64(me) * EVENTS_PER_PROC + (n - 1) % EVENTS_PER_PROC];
  const u64 what = e.what.load(RLX), kind = event_kind(what);
  const bool is_next = n && left && (kind == EV_FREE || kind == EV_FREE_MORE) &&
                       what >> 48 == slot(key_slot(key)).job.load(RLX);
  freed_untimed.store(is_next ? left - 1 : FREED_UNTIMED, RLX);
  if (!is_next)
    event(EV_FREE, key);
  else if (!e.about.load(RLX))
    e.about.store(key, REL);
  else if (kind == EV_FREE_MORE && !e.time.load(RLX))
    e.time.store(key, REL);
  else
    leave(*this, 0, EV_FREE_MORE, key, 0, 0);
}
#endif

// Text that belongs to a task, as events: each has eight bytes, and their place.
void Memory::note(u32 kind, u64 key, Bytes text) {
  const char* p = static_cast<const char*>(text.data);
  for (u32 i = 0; i < NOTE_PIECES && 8ull * i < text.size; i++) {
    u64 piece = 0;
    std::memcpy(&piece, p + 8 * i, std::min<u64>(8, text.size - 8 * i));
    event(kind, key, piece, i);
  }
}

// A task was failed without being run. The class is read where the error is a record: msgpack of
// [class name, fields].
void Memory::note_failed(u64 key, u64 about, u8 format, Bytes error) {
  event(EV_SEAL, key, about, format);
  const u8* p = static_cast<const u8*>(error.data);
  if (format != ERROR_RECORD || error.size < 3 || p[0] != 0x92) return;
  const bool is_short = (p[1] & 0xe0) == 0xa0;
  if (!is_short && p[1] != 0xd9) return;
  const u64 from = is_short ? 2 : 3, n = is_short ? p[1] & 31 : p[2];
  if (from + n <= error.size) note(EV_ERROR, key, {p + from, n});
}

}  // namespace shoal
