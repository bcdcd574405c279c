// What a plain task costs natively: submitted, taken and committed, and its result freed, by two
// "processes" that are one thread, so that no wake-up and no other core is in it. Built with and
// without events, the difference is what the events cost (`make tracing`).
//
//   costs [rounds]     ns per task of each step: the tenth percentile of rounds of 1,000 tasks
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "memory.hpp"

using namespace shoal;

constexpr int TASKS = 1000;

static double tenth(std::vector<double>& took) {
  std::sort(took.begin(), took.end());
  return took[took.size() / 10] / TASKS;
}

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? atoi(argv[1]) : 2000;
  std::unique_ptr<Memory> daemon(Memory::create(64 << 20, 2, 7, 64));
  u32 queue, gen;
  daemon->new_queue(1, 1, queue, gen);
  u64 done;
  bool more = true;
  daemon->header().want = 24;
  while (more) daemon->populate(1 << 26, 1ull << 40, done, more);
  std::unique_ptr<Memory> caller(Memory::share(*daemon, u32(daemon->open_process(DRIVER))));
  std::unique_ptr<Memory> worker(Memory::share(*daemon, u32(daemon->open_process(WORKER))));
  Call call;
  call.queue = queue;
  call.queue_gen = gen;
  call.job = 1;
  call.n_returns = 1;
  std::vector<double> submitting, running, freeing;
  std::vector<u32> out, results;
  for (int round = 0; round < rounds; round++) {
    results.clear();
    const u64 begun = platform::now_ns();
    for (int i = 0; i < TASKS; i++) {
      out.clear();
      if (caller->submit(call, {"argument", 8}, {}, {}, out) != Status::Ok) return 1;
      results.push_back(out[0]);
    }
    const u64 submitted = platform::now_ns();
    for (int i = 0; i < TASKS; i++) {
      u64 key;
      if (!worker->take(queue, key, i > 0)) return 1;
      worker->write_inline(key_slot(key), INT, "resultAB", 8);
      worker->commit(key);
    }
    const u64 ran = platform::now_ns();
    for (int i = TASKS; i-- > 0;) caller->clear_bits(results[size_t(i)], OWNER);
    const u64 freed = platform::now_ns();
    submitting.push_back(double(submitted - begun));
    running.push_back(double(ran - submitted));
    freeing.push_back(double(freed - ran));
  }
  printf("{\"submit\": %.2f, \"run\": %.2f, \"free\": %.2f}\n", tenth(submitting), tenth(running),
         tenth(freeing));
  const auto left = daemon->audit();
  return left.slots || left.specs || left.bytes;
}
