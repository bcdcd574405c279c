// What a graph's rounds learn (berth.hpp), with clocks of its own: the way that is best is found,
// kept through single bad rounds, left when it is bad, and found again; trying the others stays
// cheap.
#include <cstdio>
#include <cstdlib>

#include "berth.hpp"

using namespace shoal;

static u64 now = 1000000000;

static Rounds::Way way_of(const Rounds& r) {
  const Berth b{r.next(5)};
  if (b.home() == 0) return Rounds::FAR;
  if (b.home() != 6) std::abort();
  return b.look_ns() ? Rounds::LOOK : Rounds::NEAR;
}

// `n` rounds of so many us on each way; how many of them went the best way, and what all took as a
// multiple of what they would have taken there.
struct Ran {
  double share, times;
};
static Ran run(Rounds& r, u32 n, const double (&us)[3], u32 stall_every = 0) {
  Rounds::Way best = Rounds::LOOK;
  for (u32 w = 0; w < 3; w++)
    if (us[w] < us[best]) best = Rounds::Way(w);
  u64 at_best = 0, spent = 0;
  for (u32 i = 0; i < n; i++) {
    const Rounds::Way way = way_of(r);
    u64 took = u64(1000 * us[way]);
    if (stall_every && i % stall_every == stall_every / 2) took += 3000000;
    at_best += way == best;
    spent += took;
    now += took + 2000;
    r.count(took, now);
  }
  return {double(at_best) / n, double(spent) / (n * 1000 * us[best])};
}

static int failed;
static void expect(bool ok, const char* what, Ran r) {
  std::printf("%s %s: best way in %.3f of the rounds, %.3f times its time\n", ok ? "ok " : "NO ",
              what, r.share, r.times);
  failed += !ok;
}

int main() {
  const double quiet[3] = {30, 60, 130}, beside[3] = {6000, 110, 400}, wide[3] = {140, 130, 60};
  Rounds r(Rounds::LOOK);
  Ran found = run(r, 20000, quiet);
  expect(found.share > 0.95 && found.times < 1.1, "a quiet machine", found);
  found = run(r, 20000, quiet, 1000);
  expect(found.share > 0.95, "a stall of 3 ms now and then", found);
  found = run(r, 20000, beside);
  expect(found.share > 0.95 && found.times < 1.2, "busy neighbours", found);
  run(r, 20000, quiet);
  found = run(r, 20000, quiet);
  expect(found.share > 0.9, "quiet again", found);
  run(r, 2000, wide);
  found = run(r, 20000, wide);
  expect(found.share > 0.9 && found.times < 1.1, "branches that need every core", found);

  Rounds cold(Rounds::NEAR);
  for (int i = 0; i < 5000; i++) {
    const Rounds::Way way = way_of(cold);
    if (way == Rounds::LOOK) failed++;  // who begins when everybody sleeps asks nobody to look
    now += 5000000;
    cold.count(way == Rounds::NEAR ? 80000 : 200000, now);
  }
  failed += way_of(cold) != Rounds::NEAR;

  Rounds slow(Rounds::LOOK);  // methods of 10 ms: nobody looks for so long
  run(slow, 100, {10050, 10040, 10090});
  failed += Berth{slow.next(0)}.look_ns() != 0;

  Rounds far(Rounds::LOOK);  // more cores than the word can name
  failed += far.next(0xffff) != 0;
  std::puts(failed ? "FAILED" : "passed");
  return failed != 0;
}
