// Races, for the thread sanitizer: N "processes" are threads of one program over one mapping (the
// sanitizer sees nothing across two mappings of a page). Submitters, workers and droppers work on
// the same queues, slots and blocks; at the end everything must have run exactly once and the audit
// must find nothing.
//
//   race [tasks per submitter]
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "memory.hpp"

using namespace shoal;

int main(int argc, char** argv) {
  const int tasks = argc > 1 ? atoi(argv[1]) : 3000, submitters = 3, workers = 3;
  std::unique_ptr<Memory> d(Memory::create(64 << 20, 2, 7, 64));
  u32 queue, gen, lane, lane_gen;
  d->new_queue(1, 1, 0, queue, gen);
  d->new_queue(2, 1, 0, lane, lane_gen);
  u64 done;
  bool more = true;
  d->header().want = 24;
  while (more) d->populate(1 << 26, 1ull << 40, done, more);
  std::atomic<u64> ran{0}, submitted{0};
  std::atomic<int> active{submitters}, errors{0};
  std::vector<std::unique_ptr<Memory>> views;
  for (int i = 0; i < submitters + workers; i++)
    views.emplace_back(Memory::share(*d, u32(d->open_process(i < submitters ? DRIVER : WORKER))));
  std::vector<std::thread> threads;
  for (int i = 0; i < submitters; i++)
    threads.emplace_back([&, i] {
      Memory& m = *views[size_t(i)];
      std::vector<u32> out, last;
      for (int k = 0; k < tasks; k++) {
        Call c;
        const bool ordered = k % 7 == 0;
        c.queue = ordered ? lane : queue;
        c.queue_gen = ordered ? lane_gen : gen;
        c.job = 1;
        c.flags = ordered ? F_ACTOR : F_HELP;
        c.n_returns = k % 5 == 0 ? 3 : 1;
        std::vector<u32> deps;
        if (k % 3 == 0 && !last.empty()) deps = {last[0]};
        Status st = m.submit(c, {"argument", 8}, deps, {}, out);
        if (st != Status::Ok) {
          errors++;
          break;
        }
        submitted++;
        for (u32 s : last) m.clear_bits(s, OWNER);
        last = out;
      }
      for (u32 s : last) m.clear_bits(s, OWNER);
      for (auto& [q, e] : m.lanes) m.drop(e);
      m.lanes.clear();
      active--;
    });
  for (int i = 0; i < workers; i++)
    threads.emplace_back([&, i] {
      Memory& m = *views[size_t(submitters + i)];
      u64 key;
      while (active.load() || ran.load() < submitted.load()) {
        if (!m.take(i == 0 ? lane : queue, key) && !(i == 0 && m.take(queue, key))) {
          std::this_thread::yield();
          continue;
        }
        Spec* t = m.spec(key_slot(key));
        for (u32 k = 0; k < t->n_returns; k++) {
          u32 r = key_slot(t->returns()[k]);
          if (k == 1) {
            std::vector<char> big(500, 'x');
            ValueParts v;
            v.format = PICKLE;
            v.data = {big.data(), big.size()};
            if (m.write_value(r, v, true, platform::copy) != Status::Ok) errors++;
          } else {
            m.write_inline(r, INT, "resultAB", 8);
          }
        }
        m.commit(key);
        ran++;
      }
    });
  for (auto& t : threads) t.join();
  auto a = d->audit();
  printf(
      "submitted %llu, ran %llu, errors %d; left: slots %llu specs %llu bytes %llu leaked %llu "
      "wrong %llu\n",
      (unsigned long long)submitted.load(), (unsigned long long)ran.load(), errors.load(),
      (unsigned long long)a.slots, (unsigned long long)a.specs, (unsigned long long)a.bytes,
      (unsigned long long)a.leaked_blocks, (unsigned long long)a.wrong_counts);
  return !(ran == submitted && submitted == u64(submitters) * u64(tasks) && !errors && !a.slots &&
           !a.specs && !a.bytes && !a.leaked_blocks && !a.wrong_counts);
}
