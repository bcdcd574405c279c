// What explanations look at: one object or task, one process, and who holds what.
//
// Nobody keeps for us what is read here. What was read of a spec counts only if the claim has not
// moved meanwhile, and no offset that was read may lead outside. Nothing is written.
#include <map>
#include <tuple>

#include "memory.hpp"

namespace shoal {

// Of the task whose claim is `c`; false: it moved on while it was read.
static bool sight_of_task(Memory& m, u32 s, u64 c, Memory::Sight& out) {
  Slot& x = m.slot(s);
  const u64 at_spec = x.spec.load(ACQ);
  Spec* t = m.spec(s);
  if (!t) return false;
  out.task = make_key(s, claim_gen(c));
  out.state = claim_state(c);
  out.attempt = claim_attempt(c);
  out.worker = claim_worker(c);
  out.flags = t->flags;
  out.about = Memory::event_of(*t);
  out.queue = t->queue;
  out.job = t->job;
  out.parent = t->parent;
  const u32 next = t->next.load(ACQ), n = t->n_dependencies, before = t->predecessor.load(ACQ);
  if (out.state == HELD && next < n && at_spec + sizeof(Spec) + u64(next) * 8 + 8 < m.off.end) {
    const u64 e = t->holds()[next].load(ACQ);
    if (e && hold_slot(e) < SLOTS)
      out.dependency = make_key(hold_slot(e), m.slot(hold_slot(e)).gen.load(ACQ));
  } else if (out.state == HELD && before && before < SLOTS) {
    out.predecessor = make_key(before, m.slot(before).gen.load(ACQ));
  }
  const u64 payload = t->payload_offset;
  if ((out.flags & F_TIMED) && payload >= sizeof(Spec) && payload < EXTENT &&
      at_spec + payload < m.off.end)
    out.deadline = reinterpret_cast<Times*>(m.rw + at_spec + payload - sizeof(Times))->deadline;
  return x.claim.load(SEQ) == c;
}

__attribute__((no_sanitize("thread"))) bool Memory::sight(u64 key, Sight& out) {
  for (int tries = 0; tries < 100; tries++) {
    out = Sight{};
    const u32 s = key_slot(key);
    Slot& x = slot(s);
    const u64 head = x.head().load(ACQ), life = x.life.load(ACQ);
    if (u32(head >> 32) != key_gen(key) || u32(head) == FREE || is_ending(life)) return false;
    out.owner =
        life & OWNER ? i64(at<atom<u32>>(off.owners)[s / SLOTS_PER_CHUNK].load(RLX)) - 1 : -1;
    const u64 size = x.size.load(RLX);
    out.size = is_turn(size) ? 0 : size;
    out.is_cell = (x.flags.load(ACQ) & IS_CELL) != 0;
    if (!ancestry(key, out.from)) return false;
    if ((u32(head) & ~WAITERS) == SEALED) {
      out.format = x.kind.load(ACQ);
      return true;
    }
    if (out.is_cell) return true;
    // Later returns of a task name its first one, whose slot has the claim.
    const u64 task = out.from.task;
    if (!out.from.index || !names_task(task)) return true;
    const u64 c = slot(key_slot(task)).claim.load(ACQ);
    const u64 state = claim_state(c);
    if (claim_gen(c) != key_gen(task)) return true;
    if (state != HELD && state != QUEUED && state != RUNNING) {
      platform::pause();  // DONE, and its returns are about to be flipped
      continue;
    }
    if (!sight_of_task(*this, key_slot(task), c, out)) continue;
    const u32 processes = std::min<u32>(header().proc_high.load(), 256);
    for (u32 p = 0; p < processes; p++) {
      const u64 n = proc(p).event_seq.load(ACQ);
      for (u64 k = n < EVENTS_PER_PROC ? 0 : n - EVENTS_PER_PROC + 1; k < n; k++) {
        Event& e = at<Event>(off.events)[u64(p) * EVENTS_PER_PROC + k % EVENTS_PER_PROC];
        if (e.key.load(ACQ) != out.task) continue;
        const u64 at = e.time.load(ACQ), kind = event_kind(e.what.load(ACQ));
        if (proc(p).event_seq.load(ACQ) >= k + EVENTS_PER_PROC) continue;  // overwritten, maybe
        if (kind == EV_SUBMIT) out.submitted = at;
        if (kind == EV_TAKE) out.taken = std::max(out.taken, at);
      }
    }
    if (out.taken) out.taken = std::max(out.taken, out.submitted);  // it may be a near one
    return true;
  }
  return true;
}

bool Memory::names_task(u64 key) { return key_slot(key) - 1 < SLOTS - 1 && is_live(key); }

Memory::ProcessSight Memory::process_sight(u32 p) {
  ProcessSight found{};
  Proc& r = proc(p);
  found.waits_for = r.waits_for.load(ACQ);
  found.waits_since = r.waits_since.load(RLX);
  found.events = r.event_seq.load(RLX);
  const u32 depth = std::min<u32>(r.depth.load(ACQ), 1024);
  for (u32 i = 0; i < depth; i++)
    if (u64 key = running_of(p)[i].load(ACQ)) found.running.push_back(key);
  auto* owners = at<atom<u32>>(off.owners) + 2 * CHUNKS;
  auto* nodes = at<Node>(off.nodes);
  for (u32 c = 0; c < header().chunk_high[2].load(); c++) {
    if (owners[c].load(RLX) != p + 1) continue;
    for (u32 i = 0; i < NODES_PER_CHUNK && found.watched.size() < 64; i++) {
      Node& n = nodes[u64(c) * NODES_PER_CHUNK + i];
      const u64 key = n.key.load(RLX);
      if (n.state.load(ACQ) != 1 || n.proc.load(RLX) != p) continue;
      if (n.epoch.load(RLX) == r.epoch.load(RLX) && names_task(key) && !is_ready(key))
        found.watched.push_back(key);
    }
  }
  return found;
}

// Rows (object, kind of holder, holder): 0 a process, 1 a task, 2 a value in which the ref stands.
std::vector<Memory::HoldRow> Memory::list_holds(u64 limit) {
  std::map<std::tuple<u64, u64, u64>, std::pair<u64, u64>> found;
  auto count = [&](u64 record, u64 kind, u64 holder) {
    if (!record || hold_slot(record) >= SLOTS || found.size() >= limit) return;
    const u32 s = hold_slot(record);
    const u64 head = slot(s).head().load(ACQ);
    if (u32(head) == FREE) return;
    auto& [refs, pins] = found[{make_key(s, u32(head >> 32)), kind, holder}];
    (record & HOLD_PIN ? pins : refs)++;
  };
  auto* owners = at<atom<u32>>(off.owners) + CHUNKS;
  for (u32 c = 0; c < header().chunk_high[1].load(); c++)
    if (const u32 p = owners[c].load())
      for (u32 i = 0; i < LEDGER_PER_CHUNK; i++)
        count(at<atom<u64>>(off.ledger)[u64(c) * LEDGER_PER_CHUNK + i].load(), 0, p - 1);
  const u32 end = header().chunk_high[0].load() * SLOTS_PER_CHUNK;
  for (u32 s = 1; s < end && found.size() < limit; s++) {
    Slot& x = slot(s);
    const u64 head = x.head().load(ACQ);
    if (u32(head) == FREE) continue;
    const u64 key = make_key(s, u32(head >> 32));
    const u64 word = x.block.load(), b = block_of(word);  // of a value in a file: its stub
    if (b && (x.flags.load() & HAS_TABLE) && block_is(b, s)) {
      auto* v = at<ValueHeader>(b);
      const u32 n = v->n_contained;
      for (u32 i = 0; i < n && b + sizeof(ValueHeader) + u64(i) * 8 < off.end; i++) {
        const u64 e = reinterpret_cast<atom<u64>*>(v + 1)[i].load(ACQ);
        if (x.block.load(SEQ) != word) break;
        count(e, 2, key);
      }
    }
    const u64 at_spec = x.spec.load(ACQ);
    if (Spec* t = spec(s)) {
      const u32 n = t->n_holds();
      for (u32 i = 0; i < n && at_spec + sizeof(Spec) + u64(i) * 8 < off.end; i++) {
        const u64 e = t->holds()[i].load(ACQ);
        if (x.spec.load(SEQ) != at_spec) break;
        count(e, 1, key);
      }
    }
    if (x.life.load(ACQ) & OWNER)
      if (const u32 p = at<atom<u32>>(off.owners)[s / SLOTS_PER_CHUNK].load())
        found[{key, 0, p - 1}].first++;
  }
  std::vector<HoldRow> rows;
  for (auto& [who, n] : found)
    rows.push_back({std::get<0>(who), std::get<1>(who), std::get<2>(who), n.first, n.second});
  return rows;
}

u64 Memory::events_lost() {
  u64 lost = 0;
  for (u32 p = 0; p < header().proc_high.load(); p++) {
    const u64 n = proc(p).event_seq.load(RLX);
    if (n >= EVENTS_PER_PROC) lost += n - EVENTS_PER_PROC + 1;
  }
  return lost;
}

}  // namespace shoal
