// Waiting: spin a little for free, a little longer if that pays, then sleep on one word.
//
// Everyone may spin 3 us (a hand-over between cores takes 0.3 to 2.3 us, a futex wake-up 30 to 50).
// Longer only if it was quicker than sleeping of late (`Patience`), and with one of a bounded
// number of tokens (half the cores, at least one): a token is an entry of a table that names its
// holder, so that repair can take it back. Sleepers on a slot set its WAITERS bit; workers sleep on
// their own doorbell.
//
// A push wakes nobody while somebody promises to look, and else one sleeper. Should just that
// worker be stopped, by SIGSTOP or because its core is taken away, the task would stand in the ring
// beside workers who sleep. So whoever waits doubts: it looks for such queues after 0.3 ms, when
// each promise that was made before has passed, and then after ever longer times (`Doubt`).
//
// These functions run without the GIL and touch only atomic words; what is private to the process
// (the watched map) is touched by drain_completions and watch alone, which their callers call with
// it.
#include <algorithm>

#include "memory.hpp"

namespace shoal {

u32 Memory::lookers() { return std::min<u32>(MAX_TOKENS, std::max<u32>(1, header().cores / 2)); }
int Memory::take_token() {
  Header& h = header();
  for (u32 i = 0, limit = lookers(); i < limit; i++) {
    u32 none = 0;
    if (h.tokens[i].load(RLX) == 0 && h.tokens[i].compare_exchange_strong(none, me + 1))
      return int(i);
  }
  return -1;
}
void Memory::give_token(int token) {
  if (token >= 0) header().tokens[token].store(0, REL);
}

bool Memory::spin(const std::function<bool()>& done, u64 ns) {
  const u64 end = platform::now_ns() + ns;
  do {
    for (int i = 0; i < 24; i++) {
      if (done()) return true;
      platform::pause();
    }
  } while (platform::now_ns() < end);
  return done();
}

bool Memory::spin_on(Patience& patience, const std::function<bool()>& done) {
  const u64 window = patience.window(platform::now_ns());
  if (!window) return false;
  const int token = take_token();
  if (token < 0) {
    patience.is_spinning = false;
    return false;
  }
  const bool hit = spin(done, window);
  give_token(token);
  return hit;
}

// A promise to look at a queue until then: pushes wake nobody and ask the daemon for nobody
// meanwhile. Only made where they would (somebody sleeps, or the daemon could attach another
// worker). A time, not a flag: a stopped searcher blocks nobody for longer. Ended before the
// promiser sleeps.
void Memory::promise(u32 q, u64& until) {
  Queue& x = queue(q);
  if (until) return;
  bool matters = x.hungry.load(RLX);
  for (u32 w = 0, n = (header().proc_high.load(RLX) + 63) / 64; w < n && !matters; w++)
    matters = x.idle[w].load(RLX) != 0;
  if (!matters) return;
  const u64 now = platform::now_ns();
  u64 old = x.searching.load(SEQ);
  if (old < now && x.searching.compare_exchange_strong(old, now + Patience::LONGEST + 5000, SEQ))
    until = now + Patience::LONGEST + 5000;
}
// True if something was pushed meanwhile: whoever will not look at it now must wake somebody.
bool Memory::end_promise(u32 q, u64& until) {
  if (!until) return false;
  u64 mine = until;
  queue(q).searching.compare_exchange_strong(mine, 0, SEQ);
  until = 0;
  u64 h;
  u32 v;
  return ring(q).peek(h, v);
}

Memory::Wait Memory::sleep_on(atom<u32>& word, u32 value, u64 deadline_ns, u64 slice_ns) {
  if (closed.load(ACQ)) return Wait::Closed;
  u64 left = 0;
  if (deadline_ns) {
    u64 now = platform::now_ns();
    if (now >= deadline_ns) return Wait::Timeout;
    left = deadline_ns - now;
  }
  if (slice_ns && (!left || left > slice_ns)) left = slice_ns;
  platform::futex_wait(word, value, left);
  if (closed.load(ACQ)) return Wait::Closed;
  return Wait::Interrupted;  // look again: woken, a signal, or the end of a slice
}

// Wake somebody for each class queue that has work, and everybody who sleeps there without an idle
// bit: some waker chose it, and may have been stopped before it rang the door. (An actor's queue
// has one worker: if that one is stopped there is nobody else to wake.)
void Memory::wake_forgotten() {
#ifndef SHOAL_BREAK_DOUBT  // test/stopped.cpp must see what is then left in the ring
  u64 h;
  u32 v;
  for (u32 q = 1, n = header().queue_high[0].load(RLX); q < n; q++) {
    if (!queue(q).used.load(RLX) || !ring(q).peek(h, v)) continue;
    wake(q);
    for (u32 p = 1, high = header().proc_high.load(RLX); p < high; p++) {
      Proc& r = proc(p);
      if (!r.sleeping.load(SEQ) || r.attached.load(RLX) != q) continue;
      if (queue(q).idle[p / 64].load(SEQ) >> (p % 64) & 1) continue;
      r.door.fetch_add(1, SEQ);
      platform::futex_wake(r.door);
    }
  }
#endif
}

// Sleep as `sleep_on` does, and look around when the doubt comes first.
Memory::Wait Memory::doubt_on(atom<u32>& word, u32 value, u64 deadline_ns, u64 slice_ns,
                              Doubt& doubt) {
  const bool first = !slice_ns || doubt.after_ns < slice_ns;
  const Wait w = sleep_on(word, value, deadline_ns, first ? doubt.after_ns : slice_ns);
  if (w != Wait::Interrupted || word.load(ACQ) != value) return w;
  wake_forgotten();
  if (!first) return w;
  doubt.after_ns *= Doubt::GROWTH;
  return Wait::Doubted;
}

Memory::Wait Memory::wait_slot(u32 s, u32 gen, u64 deadline_ns, u64 slice_ns, Doubt& doubt) {
  Slot& x = slot(s);
  u32 v = x.state.load(ACQ);
  for (;;) {
    // Also of a FREE slot, whose next key somebody guessed: its state must stay FREE.
    if (x.gen.load(ACQ) != gen || (v & ~WAITERS) != PENDING) return Wait::Sealed;
    if ((v & WAITERS) || x.state.compare_exchange_weak(v, v | WAITERS, SEQ)) break;
  }
  // What runs already needs nobody to be woken.
  if (const u64 st = claim_state(x.claim.load(ACQ)); st != HELD && st != QUEUED)
    return sleep_on(x.state, PENDING | WAITERS, deadline_ns, slice_ns);
  return doubt_on(x.state, PENDING | WAITERS, deadline_ns, slice_ns, doubt);
}

// The task in this worker waits (or goes on): its CPU may be used by others meanwhile.
void Memory::lend(bool blocked) {
  Proc& r = proc(me);
  if (r.depth.load(RLX) == 0) return;
  r.blocked.store(blocked, SEQ);
  // Also when the daemon has just moved this worker: it counts on a queue that nobody serves.
  if (blocked && (header().starving.load(SEQ) || r.assign.load(SEQ) != r.attached.load(SEQ)))
    ring_daemon();
}

// Which task would a waiter for `s` have to run? QUEUED: itself. HELD: its first unsealed
// dependency, and so on. Nobody keeps these specs for us: what was read of one counts only if the
// claim has not moved since. (So the thread sanitizer, which sees a race here, is right and is told
// not to look.)
__attribute__((no_sanitize("thread"))) u64 Memory::helpable(u32 s) {
  Proc& r = proc(me);
  const u32 q = r.attached.load(RLX);
  if (r.depth.load(RLX) == 0 || r.depth.load(RLX) > 16) return 0;
  // If this process dies while it helps, the waiting task is run again: it must be one that may be,
  // and it waits then. Helping again, a task that kills its process would take this one along for
  // ever: nobody is charged but the child, and each attempt here submits another one.
  const u32 top = key_slot(running_top());
  Spec* waiting = spec(top);
  if (!waiting || waiting->max_retries == 0 || !(waiting->flags & F_HELP)) return 0;
  if (claim_attempt(slot(top).claim.load(RLX)) > 1) return 0;
  for (int k = 0; k < 64; k++) {
    Slot& x = slot(s);
    const u64 c = x.claim.load(ACQ);
    auto stands = [&] {
      std::atomic_thread_fence(ACQ);
      return x.claim.load(RLX) == c;
    };
    Spec* t = spec(s);
    if (!t) return 0;
    if (claim_state(c) == QUEUED) {
      const bool mine = x.queue.load(ACQ) == q && (t->flags & F_HELP);
      return mine && stands() ? make_key(s, claim_gen(c)) : 0;
    }
    if (claim_state(c) != HELD) return 0;
    const u32 i = t->next.load(ACQ), n = t->n_dependencies;
    if (i >= n || !stands()) return 0;
    const u64 e = t->holds()[i].load(ACQ);
    if (!e || !stands()) return 0;
    s = hold_slot(e);
  }
  return 0;
}

// Tell this process when the slot is sealed: one node per (process, slot), once. False if it is
// sealed already.
bool Memory::watch(u64 key, u64 tok) {
  Slot& x = slot(key_slot(key));
  if (is_ready(key) || !is_live(key)) return false;
  auto it = watched.find(key);
  if (it != watched.end()) {
    if (tok) it->second.token = tok;
    return true;
  }
  auto* nodes = at<Node>(off.nodes);
  if (free_nodes.empty()) {
    u32 c = lease_chunk(2);
    if (c == ~0u) return true;  // no node: the caller's wait falls back to its slice
    for (u32 i = NODES_PER_CHUNK; i-- > 0;) {
      Node& n = nodes[c * NODES_PER_CHUNK + i];
      // Of a former owner: linked still, unless the slot itself is gone (or was never reached: the
      // owner died between marking the node and linking it).
      if (n.state.load(RLX) == 1 && is_live(n.key.load(RLX))) continue;
      n.state.store(0, RLX);
      free_nodes.push_back(c * NODES_PER_CHUNK + i);
    }
  }
  u32 i = free_nodes.back();
  Node& n = nodes[i];
  n.proc.store(me, RLX);
  n.epoch.store(proc(me).epoch.load(RLX), RLX);
  n.key.store(key, RLX);
  u32 w = x.watch.load(SEQ);
  do {
    if (w & CLOSED) return false;
    n.next.store(w, RLX);
    n.state.store(1, REL);
  } while (!x.watch.compare_exchange_weak(w, NODE_TAG | i, SEQ));
  free_nodes.pop_back();
  watched[key] = {tok, i};
  return true;
}

// Mine again, if whoever sealed the slot has popped it, or its slot was gone before it was sealed;
// it is given back once.
void Memory::give_node(u32 node, bool is_slot_gone) {
  auto& state = at<Node>(off.nodes)[node].state;
  u32 fired = 2, linked = 1;
  if (state.compare_exchange_strong(fired, 0, SEQ) ||
      (is_slot_gone && state.compare_exchange_strong(linked, 0, SEQ)))
    free_nodes.push_back(node);
}

void Memory::drain_completions() {
  auto* nodes = at<Node>(off.nodes);
  auto done = [&](u64 key) {
    auto it = watched.find(key);
    if (it == watched.end() || (is_live(key) && !is_ready(key))) return;
    if (it->second.token) ready.push_back(it->second.token);
    give_node(it->second.node, !is_live(key));
    watched.erase(it);
  };
  RingView r = completions(me);
  u32 v;
  while (r.pop(v)) {
    Node& n = nodes[v - 1];
    const u64 key = n.key.load(RLX);
    done(key);
    // Nobody has watched it any more: of a call that was given up before it ended, or looked at
    // (`rescan`) while it was being popped. An entry may be of who had this ring before us.
    auto it = watched.find(key);
    const bool is_mine = n.proc.load(RLX) == me && n.epoch.load(RLX) == proc(me).epoch.load(RLX);
    if (is_mine && (it == watched.end() || it->second.node != v - 1)) give_node(v - 1, false);
  }
  if (proc(me).rescan.exchange(0)) {
    std::vector<u64> keys;
    for (auto& w : watched) keys.push_back(w.first);
    for (u64 k : keys) done(k);
  }
}

void Memory::close() {
  closed.store(true, SEQ);
  for (auto* w : sleeping_on) platform::futex_wake(*w);
  if (forked) return;
  Proc& r = proc(me);
  r.door.fetch_add(1);
  platform::futex_wake(r.door);
  r.cdoor.fetch_add(1);
  platform::futex_wake(r.cdoor);
  platform::futex_wake(header().space);
}

}  // namespace shoal
