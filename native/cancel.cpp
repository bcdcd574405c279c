// Ending tasks on request, and how long they took so far.
//
// What has not started is sealed here, by the daemon, with the record that fits its stage: the swap
// of the claim decides against whoever takes it at the same moment. What runs is only marked and
// named: its process has the right to write the result, so it must be asked, or end first.
//
// A call of an actor is marked GIVEN_UP too: waiting for it raises at once, as the actor is never
// ended for a call (RULES Q-3), and the process that runs it finds CANCELLED_ when it seals.
#include <unordered_map>

#include "memory.hpp"

namespace shoal {

// The earlier of its own and its parent's, 0: none.
u64 Memory::deadline_for(const Call& c, u64 parent) {
  u64 deadline = c.timeout ? platform::now_ns() + c.timeout : 0;
  if (!parent || !is_live(parent)) return deadline;
  Spec* p = spec(key_slot(parent));
  if (!p || !(p->flags & F_TIMED)) return deadline;
  const u64 inherited = p->times()->deadline;
  return deadline ? std::min(deadline, inherited) : inherited;
}

// What can be known of a task that has not ended; any process may ask.
bool Memory::stages(u64 key, Stages& out) {
  Slot& x = slot(key_slot(key));
  const u64 c = x.claim.load(ACQ);
  const u64 state = claim_state(c);
  if (claim_gen(c) != key_gen(key) || !is_live(key)) return false;
  if (state != HELD && state != QUEUED && state != RUNNING) return false;
  const u64 at_spec = x.spec.load(ACQ);
  Spec* t = spec(key_slot(key));
  if (!t) return false;
  out = {state, claim_attempt(c), claim_worker(c), t->flags, 0, 0, 0};
  // The task may end while it is read, and its spec be somebody else's bytes: no offset may lead
  // outside, and what was read counts only if the claim is the same afterwards.
  const u64 payload = t->payload_offset;
  if ((out.flags & F_TIMED) && payload >= sizeof(Spec) && payload < EXTENT &&
      at_spec + payload < off.end) {
    Times& times = *reinterpret_cast<Times*>(rw + at_spec + payload - sizeof(Times));
    const u64 now = platform::now_ns(), queued = times.queued.load(RLX);
    out.held = (state == HELD ? now : queued) - times.submitted;
    const u64 taken = times.taken.load(RLX);
    if (state != HELD) out.queued = (state == RUNNING && taken ? taken : now) - queued;
    if (state == RUNNING && taken) out.running = now - taken;
  }
  return x.claim.load(SEQ) == c;
}

bool Memory::is_running(u64 key, u32 attempt) {
  const u64 c = slot(key_slot(key)).claim.load(ACQ);
  return claim_gen(c) == key_gen(key) && claim_state(c) == RUNNING && claim_attempt(c) == attempt &&
         is_live(key);
}

// `root` and every task below it that has not ended: children of children, as their specs say.
std::vector<u64> Memory::family(u64 root) {
  std::unordered_multimap<u64, u64> children;
  const u32 end = header().chunk_high[0].load() * SLOTS_PER_CHUNK;
  for (u32 s = 1; s < end; s++) {
    const u64 c = slot(s).claim.load(ACQ);
    if (claim_state(c) != HELD && claim_state(c) != QUEUED && claim_state(c) != RUNNING) continue;
    const u64 key = make_key(s, claim_gen(c));
    Spec* t = spec(s);
    if (!t || !has_task(key)) continue;
    const u64 parent = t->parent;
    if (parent && slot(s).claim.load(ACQ) == c) children.emplace(parent, key);
  }
  std::vector<u64> found{root};
  for (size_t i = 0; i < found.size(); i++) {
    auto [from, to] = children.equal_range(found[i]);
    for (auto it = from; it != to; ++it) found.push_back(it->second);
    children.erase(from, to);
  }
  return found;
}

// Seal it if it has not started; else say who runs it.
void Memory::cancel(u64 key, Bytes held, Bytes queued, bool is_late,
                    std::vector<Attempt>& running) {
  Slot& x = slot(key_slot(key));
  for (;;) {
    const u64 c = x.claim.load(ACQ);
    const u64 state = claim_state(c);
    if (claim_gen(c) != key_gen(key) || !is_live(key) || !has_task(key)) return;
    if (state == HELD || state == QUEUED) {
      if (fail(key, state == HELD ? held : queued)) return;
      continue;
    }
    if (state != RUNNING) return;
    Spec* t = spec(key_slot(key));
    if (!t) return;
    const u32 flags = t->flags;
    if (x.claim.load(SEQ) != c) continue;
    running.push_back({key, claim_attempt(c), claim_worker(c), flags});
    x.flags.fetch_or(CANCELLED_ | (is_late ? LATE : 0));
    if (!(flags & F_ACTOR)) return;
    // Only the daemon frees specs of what others run, and only after their death: this one may end
    // at any moment, so its other returns are looked at as strangers.
    const u32 n = std::min<u32>(t->n_returns, 65535);
    for (u32 i = 0; i < n; i++) {
      const u64 r = t->returns()[i];
      if (key_slot(r) - 1 >= SLOTS - 1 || x.claim.load(SEQ) != c) return;
      if (!has_task(r)) continue;
      slot(key_slot(r)).flags.fetch_or(GIVEN_UP | (is_late ? LATE : 0));
      platform::futex_wake(slot(key_slot(r)).state);
    }
    return;
  }
}

// Calls were given up: whoever watches one looks again. (Their lists of watchers can not be taken
// apart yet: that is the right of who seals them.)
void Memory::tell_given_up() {
  end_dependents();
  for (u32 p = 1; p < header().proc_high.load(); p++) {
    Proc& r = proc(p);
    if (r.kind.load(RLX) == NO_PROC) continue;
    r.rescan.store(1, SEQ);
    r.cdoor.fetch_add(1, SEQ);
    platform::futex_wake(r.cdoor);
  }
}

Bytes Memory::given_up_record(u64 key) {
  static const char cancelled[] = "\x92\xb2TaskCancelledError\x81\xa5stage\xa7running";
  static const char late[] =
      "\x92\xb5"
      "DeadlineExceededError\x81\xa5stage\xa7running";
  if (slot(key_slot(key)).flags.load(ACQ) & LATE) return {late, sizeof late - 1};
  return {cancelled, sizeof cancelled - 1};
}

// What waits for a call that was given up can not run: it fails as waiting for the call does. What
// is submitted from now on, its submitter tells us of.
void Memory::end_dependents() {
  const u32 end = header().chunk_high[0].load() * SLOTS_PER_CHUNK;
  for (u32 s = 1; s < end; s++) {
    const u64 c = slot(s).claim.load(SEQ);
    if (claim_state(c) != HELD) continue;
    Spec* t = spec(s);
    const u64 key = make_key(s, claim_gen(c));
    if (!t || !has_task(key)) continue;
    const u32 n = t->n_dependencies;
    for (u32 i = t->next.load(ACQ); i < n; i++) {
      const u64 e = t->holds()[i].load(ACQ);
      // It may end while it is read: what was read counts only if the claim is the same.
      if (slot(s).claim.load(SEQ) != c) break;
      if (!e || hold_slot(e) >= SLOTS || !is_given_up(hold_slot(e))) continue;
      fail(key, given_up_record(hold_slot(e)));
      break;
    }
  }
}

}  // namespace shoal
