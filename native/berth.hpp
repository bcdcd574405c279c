// Where the participants of a graph wait: on the core of whoever begins a round, or anywhere.
//
// A round is one message into a graph and what it causes, until its result is read. Where it passes
// through more participants than may look for messages at once, most of them sleep, and to wake one
// on another core takes 30 to 55 us where that core is halted, as on a quiet machine every core is
// that nobody uses. So as long as one round is in flight at a time, the one who begins it chooses a
// way for all of them and says so in a word of the channel (`home`):
//
//   LOOK  look for messages for a while and give the core away between two looks: 2 us per hop,
//         but beside a busy process each look may take one of its slices, 3 ms
//   NEAR  sleep, and be woken on the core of who begins: 10 us, also beside busy processes
//   FAR   as everybody waits: what works for long, side by side, must not queue for one core
//
// Which is best is measured, by whole rounds, as only these say what one participant's way costs
// the others. What was worse is tried again when a sixty-fourth of the time since makes up for it.
//
// To be woken on a core a thread narrows its own affinity just before it sleeps and widens it again
// when it wakes. Nobody changes anybody else's, whoever dies in between dies with it, and a sleep
// that lasts (`LASTS`) goes on without: what somebody sets from outside is not lost.
#pragma once
#include <algorithm>

#include "platform.hpp"

namespace shoal {

// What stands in the word: 0 for FAR; else the core + 1, and for how many us to look.
struct Berth {
  static constexpr u64 LASTS = 20000000;
  u32 word = 0;
  u32 home() const { return word & 0xffff; }
  u64 look_ns() const { return u64(word >> 16) * 1000; }
};

// Which way the next round goes, learned from those before. For rounds that follow each other while
// all still look, and, apart from them, for those that begin when everybody sleeps.
class Rounds {
 public:
  enum Way : u32 { LOOK, NEAR, FAR, WAYS };
  static constexpr u64 LONGEST_LOOK = 200000, ENOUGH_NS = 50000000, PATIENCE_NS = 4000000;
  static constexpr u32 WINDOW = 64, FEW = 4, SHARE = 64;

  explicit Rounds(Way first_) : first(first_), best(first_), way(first_) {}

  // One round took so long, on the way that `next` has said.
  void count(u64 took_ns, u64 now) {
    spent += took_ns;
    n++;
    const u64 usual = mean[best];
    const bool is_hopeless = way != best && usual && spent > n * usual + PATIENCE_NS;
    if (n >= WINDOW || (n >= FEW && spent > ENOUGH_NS) || is_hopeless) judge(now);
  }
  u32 next(u32 core) const {
    if (way == FAR || core >= 0xffff) return 0;
    return (core + 1) | (way == LOOK ? u32(look_ns() / 1000) << 16 : 0);
  }
  // As long as two rounds take: whoever has passed a message on has the next one when all others
  // did. Not for rounds that are long anyway.
  u64 look_ns() const {
    if (!mean[LOOK]) return LONGEST_LOOK;
    return 2 * mean[LOOK] > LONGEST_LOOK ? 0 : 2 * mean[LOOK];
  }

 private:
  void judge(u64 now) {
    const u64 found = spent / n;
    mean[way] = std::max<u64>(1, found);
    if (way == best) {
      // Not for one bad window: the machine may have had something else to do.
      const Way other = best_known();
      n_bad = other == best ? 0 : n_bad + 1;
      if (n_bad >= 2) best = other, n_bad = 0;
    } else if (found < mean[best]) {
      best = way;
      n_bad = 0;
    } else {
      const u64 lost = spent - std::min(spent, n * mean[best]);
      not_before[way] = now + std::max(SHARE * lost, 8 * WINDOW * mean[best]);
    }
    n = 0;
    spent = 0;
    way = best;
    for (u32 w = first; w < WAYS; w++)
      if (Way(w) != best && (!mean[w] || now > not_before[w])) way = Way(w);
  }
  Way best_known() const {
    Way found = best;
    for (u32 w = first; w < WAYS; w++)
      if (mean[w] && mean[w] < mean[found]) found = Way(w);
    return found;
  }

  Way first, best, way;
  u64 mean[WAYS] = {}, not_before[WAYS] = {};  // ns; 0: not known yet
  u64 spent = 0;
  u32 n = 0, n_bad = 0;
};

// Of who begins the rounds.
class Leading {
 public:
  // A round begins here, while nothing else is in flight.
  u32 begin(u64 now, bool may_look) {
    const bool is_cold = now - ended > 2 * Rounds::LONGEST_LOOK || !may_look;
    Rounds& rounds = is_cold ? cold : hot;
    if (last && ended > begun) last->count(ended - begun, now);
    last = &rounds;
    begun = now;
    return rounds.next(platform::this_core());
  }
  // A round begins while others are in flight: every core is welcome.
  void crowd() { last = nullptr; }
  void has_waited(u64 now) { ended = now; }

 private:
  Rounds hot{Rounds::LOOK}, cold{Rounds::NEAR};
  Rounds* last = nullptr;
  u64 begun = 0, ended = 0;
};

// The calling thread runs on this core only, for as long as this lives; 0: wherever it may, 1: core
// 0. Nothing happens where the kernel refuses, or the thread may not run there.
class Confined {
 public:
  explicit Confined(u32 home) : is_confined(home && platform::confine(home - 1, before)) {}
  Confined(const Confined&) = delete;
  ~Confined() {
    if (is_confined) platform::allow(before);
  }

 private:
  platform::Cores before;
  bool is_confined;
};

}  // namespace shoal
