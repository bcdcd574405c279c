// Recounting node memory from what names it, and the tables of `shoal.state`.
//
// The audit reads slots, holder words, ledgers, specs and tables, and none of the counters that it
// checks. It is exact while nothing else runs; meanwhile it may see a count between its two halves.
#include <algorithm>
#include <tuple>
#include <unordered_map>

#include "memory.hpp"

namespace shoal {

Memory::Audit Memory::audit() {
  Audit a;
  Header& h = header();
  struct Count {
    u64 refs = 0, pins = 0;
  };
  std::unordered_map<u32, Count> want;
  auto count = [&](u64 record) {
    if (!record) return;
    Count& c = want[hold_slot(record)];
    (record & HOLD_PIN ? c.pins : c.refs)++;
  };
  auto* owners = at<atom<u32>>(off.owners) + CHUNKS;
  for (u32 c = 0; c < h.chunk_high[1].load(); c++)
    if (owners[c].load())
      for (u32 i = 0; i < LEDGER_PER_CHUNK; i++)
        count(at<atom<u64>>(off.ledger)[u64(c) * LEDGER_PER_CHUNK + i].load());
  for (u32 p = 0; p < h.proc_high.load(); p++) count(proc(p).lane_hold.load());
  const u32 end = h.chunk_high[0].load() * SLOTS_PER_CHUNK;
  std::unordered_map<u64, u32> named;  // offsets that a live slot names
  for (u32 s = 1; s < end; s++) {
    Slot& x = slot(s);
    if (x.state.load(ACQ) == FREE) continue;
    a.slots++;
    if (u64 b = block_of(x.block.load()); b && block_is(b, s)) {
      named[b] = s;
      if (x.flags.load() & HAS_TABLE) {
        auto* v = at<ValueHeader>(b);
        for (u32 i = 0; i < v->n_contained; i++)
          count(reinterpret_cast<atom<u64>*>(v + 1)[i].load());
      }
    }
    if (Spec* t = spec(s)) {
      named[x.spec.load()] = s;
      a.specs++;
      for (u32 i = 0; i < t->n_holds(); i++) count(t->holds()[i].load());
    }
  }
  for (u32 s = 1; s < end; s++) {
    if (slot(s).state.load(ACQ) == FREE) continue;
    u64 w = slot(s).life.load();
    auto it = want.find(s);
    Count c = it == want.end() ? Count{} : it->second;
    if (!is_ending(w) && ((w & REFS) != c.refs || (w & PINS) >> 24 != c.pins)) a.wrong_counts++;
  }
  auto* words = at<atom<u64>>(off.extents);
  for (u32 e = 0; e < h.extent_high.load(); e++) {
    u64 w = words[e].load();
    u64 base = off.data + u64(e) * EXTENT;
    if (extent_kind(w) == EXT_HEAD) {
      a.bytes += u64(extent_arg(w)) * EXTENT;
      if (!named.count(base)) a.leaked_blocks++;
    } else if (extent_kind(w) == EXT_SMALL) {
      u64 bytes = class_bytes(extent_arg(w));
      auto* holders = at<atom<u32>>(off.holders) + u64(e) * HOLDERS_PER_EXTENT;
      for (u32 i = 0; i < EXTENT / bytes; i++)
        if (const u32 holder = holders[i].load(); holder && holder != HOLE) {
          a.bytes += bytes;
          if (!named.count(base + i * bytes)) a.leaked_blocks++;
        }
    }
  }
  return a;
}

std::vector<Memory::TaskRow> Memory::list_tasks(u64 limit) {
  std::vector<TaskRow> rows;
  const u32 end = header().chunk_high[0].load() * SLOTS_PER_CHUNK;
  for (u32 s = 1; s < end && rows.size() < limit; s++) {
    Slot& x = slot(s);
    u64 c = x.claim.load(ACQ);
    u64 st = claim_state(c);
    if (st != HELD && st != QUEUED && st != RUNNING) continue;
    if (x.gen.load(ACQ) != claim_gen(c) || x.state.load(ACQ) == FREE) continue;
    Spec* t = spec(s);
    if (!t) continue;
    TaskRow row{make_key(s, claim_gen(c)),
                st,
                claim_attempt(c),
                claim_worker(c),
                event_of(*t),
                t->queue,
                t->job,
                t->parent,
                t->caller(),
                x.job.load(RLX)};
    if (x.claim.load(ACQ) == c) rows.push_back(row);  // unchanged: the spec was this task's
  }
  return rows;
}

std::vector<Memory::ObjectRow> Memory::list_objects(u64 limit) {
  std::vector<ObjectRow> rows;
  const u32 end = header().chunk_high[0].load() * SLOTS_PER_CHUNK;
  auto* owners = at<atom<u32>>(off.owners);
  for (u32 s = 1; s < end && rows.size() < limit; s++) {
    Slot& x = slot(s);
    u64 head = x.head().load(ACQ), w = x.life.load(ACQ);
    u32 st = u32(head);
    if (st == FREE || is_ending(w) || x.kind.load(RLX) == RECIPE) continue;
    u64 n = x.size.load(RLX);
    u32 owner = owners[s / SLOTS_PER_CHUNK].load(RLX);
    rows.push_back({make_key(s, u32(head >> 32)), (st & ~WAITERS) == SEALED ? x.kind.load() : 0u,
                    is_turn(n) ? 0 : n, w & REFS, (w & PINS) >> 24,
                    w & OWNER ? i64(owner) - 1 : -1});
  }
  return rows;
}

// Times that were not looked at lie between others: a submit's before what comes next of its
// process, a take's not before its submit, both before all else about the task, a free's after it.
static void place_near(std::vector<Memory::EventRow>& rows, const std::vector<u64>& near) {
  struct Bounds {
    u64 submitted = 0, first = ~0ull, last = 0;  // `first`: of what was looked at and came later
  };
  std::unordered_map<u64, Bounds> about;
  std::vector<bool> is_near(rows.size());
  for (u64 i : near) {
    about[rows[i].key];
    is_near[i] = true;
  }
  auto look = [&] {
    for (u64 i = 0; i < rows.size(); i++) {
      const auto at = about.find(rows[i].key);
      if (at == about.end()) continue;
      if (rows[i].kind == EV_SUBMIT)
        at->second.submitted = rows[i].time;
      else if (rows[i].kind != EV_FREE && !is_near[i])
        at->second.first = std::min(at->second.first, rows[i].time);
      if (rows[i].kind != EV_FREE) at->second.last = std::max(at->second.last, rows[i].time);
    }
  };
  look();
  for (u64 k = 0; k < near.size();) {  // those of one look at the clock stand in a row
    u64 end = k;
    while (end < near.size() && rows[near[end]].kind == EV_SUBMIT &&
           near[end] - near[k] == end - k && rows[near[end]].time == rows[near[k]].time)
      end++;
    if (end == k) {
      k++;
      continue;
    }
    const u64 begun = rows[near[k]].time, next = near[end - 1] + 1, n = end - k + 1;
    const bool has_next = next < rows.size() && rows[next].process == rows[near[k]].process;
    const u64 spread = has_next && rows[next].time > begun ? rows[next].time - begun : 0;
    for (u64 i = 1; k < end; k++, i++) {
      auto& row = rows[near[k]];
      row.time = std::min(begun + spread * i / n, std::max(begun, about[row.key].first));
    }
  }
  look();
  for (u64 i : near)
    if (rows[i].kind == EV_TAKE)
      rows[i].time = std::max(rows[i].time, about[rows[i].key].submitted);
  look();
  for (u64 i : near)
    if (rows[i].kind == EV_FREE) rows[i].time = std::max(rows[i].time, about[rows[i].key].last);
}

std::vector<Memory::EventRow> Memory::list_events(u64 limit) {
  std::vector<EventRow> rows;
  std::vector<u64> near;
  for (u32 p = 0; p < header().proc_high.load(); p++) {
    const u64 n = proc(p).event_seq.load(ACQ);
    u64 freed_at = 0;  // of the records EV_FREE_MORE that follow
    for (u64 k = n < EVENTS_PER_PROC ? 0 : n - EVENTS_PER_PROC + 1; k < n; k++) {
      Event& e = at<Event>(off.events)[u64(p) * EVENTS_PER_PROC + k % EVENTS_PER_PROC];
      const u64 t = e.time.load(ACQ), what = e.what.load(ACQ), key = e.key.load(ACQ),
                about = e.about.load(ACQ);
      if (proc(p).event_seq.load(ACQ) >= k + EVENTS_PER_PROC) continue;  // overwritten, maybe
      const bool by_actor = (what & EV_BY_ACTOR) != 0;
      if (const u32 kind = event_kind(what); kind == EV_FREE || kind == EV_FREE_MORE) {
        if (kind == EV_FREE)
          rows.push_back({freed_at = t, p, EV_FREE, key, 0, 0, what >> 48, by_actor});
        for (u64 also : {kind == EV_FREE ? 0 : key, about, kind == EV_FREE ? 0 : t}) {
          if (!also || !freed_at) continue;  // or the first of them is overwritten
          near.push_back(rows.size());
          rows.push_back({freed_at, p, EV_FREE, also, 0, 1, what >> 48, by_actor});
        }
        continue;
      }
      if (what & EV_NEAR) near.push_back(rows.size());
      rows.push_back(
          {t, p, event_kind(what), key, about, what >> 32 & 0xffff, what >> 48, by_actor});
      if (!(what & EV_ENDED)) continue;
      const u64 by = about & EV_METHOD ? about | u64(NO_METHOD) << 22 : 0;
      rows.push_back(
          {t + event_took(what), p, EV_SEAL, key, by, event_format(what), what >> 48, by_actor});
    }
  }
  place_near(rows, near);
  auto key = [](const EventRow& row) {  // at the same time: submitted first, freed last
    return std::tuple(row.time, row.kind == EV_SUBMIT ? 0 : row.kind == EV_FREE ? 2 : 1);
  };
  std::stable_sort(rows.begin(), rows.end(), [&](auto& a, auto& b) { return key(a) < key(b); });
  if (rows.size() > limit) rows.erase(rows.begin(), rows.end() - i64(limit));
  return rows;
}

}  // namespace shoal
