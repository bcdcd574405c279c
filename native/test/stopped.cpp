// A worker that is stopped must not hold up a task that another worker could run. Three processes
// are threads over one mapping: a driver that waits, a worker that sleeps, and a third that never
// makes another step, which is what "stopped" means. Three moments matter, since a push then wakes
// nobody who can come:
//
//   promised   it has promised to look at the queue, and a push wakes nobody
//   chosen     it sleeps with its idle bit set, and a push wakes just this one
//   choosing   it has cleared the idle bit of the sleeper that it was about to wake
//
//   stopped [rounds]      built with -DSHOAL_BREAK_DOUBT the tasks must be seen to stay
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>

#include "memory.hpp"

using namespace shoal;

enum Moment { PROMISED, CHOSEN, CHOOSING };
static const char* const moments[] = {"promised", "chosen", "choosing"};
static std::unique_ptr<Memory> daemon_view;
static u32 queue, generation;

// As `take` of the binding, without spinning: idle bit, one more look, sleep.
static void work(Memory& m, std::atomic<bool>& ends) {
  Proc& r = m.proc(m.me);
  auto& idle = m.queue(queue).idle[m.me / 64];
  const u64 bit = 1ull << (m.me % 64);
  r.attached.store(queue);
  u64 key, h;
  u32 v;
  while (!ends.load()) {
    while (m.take(queue, key)) {
      m.write_inline(key_slot(key), INT, "resultAB", 8);
      m.commit(key);
    }
    const u32 seen = r.door.load(SEQ);
    r.sleeping.store(1, SEQ);
    idle.fetch_or(bit, SEQ);
    if (!m.ring(queue).peek(h, v) && !ends.load()) m.sleep_on(r.door, seen, 0, 0);
    r.sleeping.store(0, SEQ);
    idle.fetch_and(~bit, SEQ);
  }
}

// True if the push was silent for the worker, so that the round says something; `late` if nobody
// ran the task.
static bool round(Memory& driver, Memory& stopped, u32 worker, Moment moment, bool& late) {
  Queue& q = driver.queue(queue);
  const u64 bit = 1ull << (worker % 64), its = 1ull << (stopped.me % 64);
  const auto sleeps = [&] {
    return (q.idle[worker / 64].load() & bit) && driver.proc(worker).sleeping.load();
  };
  while (!sleeps()) std::this_thread::yield();
  u64 until = 0;
  if (moment == PROMISED) stopped.promise(queue, until);
  if (moment == CHOSEN) q.idle[stopped.me / 64].fetch_or(its);  // the lower index is chosen
  if (moment == CHOOSING) q.idle[worker / 64].fetch_and(~bit);
  const u32 door = driver.proc(worker).door.load();
  Call c;
  c.queue = queue;
  c.queue_gen = generation;
  c.job = 1;
  c.flags = F_HELP;
  std::vector<u32> out;
  if (driver.submit(c, {"argument", 8}, {}, {}, out) != Status::Ok) abort();
  const bool silent = driver.proc(worker).door.load() == door;
  const u64 deadline = platform::now_ns() + 2000000000ull;
  const u32 gen = driver.slot(out[0]).gen.load();
  Doubt doubt;
  Memory::Wait w;
  do w = driver.wait_slot(out[0], gen, deadline, 0, doubt);
  while (w == Memory::Wait::Interrupted || w == Memory::Wait::Doubted);
  late = w == Memory::Wait::Timeout;
  if (late) {  // end the round all the same
    q.searching.store(0);
    driver.proc(worker).door.fetch_add(1);
    platform::futex_wake(driver.proc(worker).door);
    while (driver.wait_slot(out[0], gen, 0, 1000000, doubt) != Memory::Wait::Sealed) {
    }
  }
  q.idle[stopped.me / 64].fetch_and(~its);
  driver.clear_bits(out[0], OWNER);
  return silent;
}

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? atoi(argv[1]) : 100;
  daemon_view.reset(Memory::create(16 << 20, 2, 7, 16));
  Memory& d = *daemon_view;
  u64 done;
  bool more = true;
  d.header().want = 8;
  while (more) d.populate(1 << 24, 1ull << 40, done, more);
  d.new_queue(1, 1, queue, generation);
  auto view = [&](u32 kind) {
    return std::unique_ptr<Memory>(Memory::share(d, u32(d.open_process(kind))));
  };
  auto driver = view(DRIVER), stopped = view(WORKER), worker = view(WORKER);
  std::atomic<bool> ends{false};
  std::thread thread([&] { work(*worker, ends); });
  int late_rounds = 0;
  for (const Moment moment : {PROMISED, CHOSEN, CHOOSING}) {
    int silent = 0, late = 0;
    for (int i = 0; i < rounds && late < 3; i++) {
      bool is_late;
      const bool says = round(*driver, *stopped, worker->me, moment, is_late);
      silent += says, late += says && is_late;
    }
    printf("%s: %d pushes woke nobody who could come, %d tasks were left\n", moments[moment],
           silent, late);
    late_rounds += late;
  }
  ends = true;
  worker->proc(worker->me).door.fetch_add(1);
  platform::futex_wake(worker->proc(worker->me).door);
  thread.join();
  return late_rounds != 0;
}
