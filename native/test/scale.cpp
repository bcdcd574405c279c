// What does not scale: N processes (threads over one mapping) submit, take, commit and drop tasks,
// and every change of a shared word is counted. A word that several processes change is a serial
// part: each change moves its cache line (70 to 200 ns between cores, 300 and more between
// sockets).
//
//   scale [N] [tasks of each] [queues: 1 or N] [yields of 1024] [1: half of them only wait]
//
// System calls are counted too. With the last argument every other process is a worker that sleeps
// when it has nothing to do, and the rest wait for each of their tasks without spinning: the most
// that a task can ask of the kernel.
//
// Prints per task: all changes, changes of words that at least two processes change, those that
// failed and were tried again, and the busiest of these words by name.
#include <algorithm>
#include <cstdio>
#include <map>
#include <mutex>
#include <thread>

#include "memory.hpp"

using namespace shoal;

static std::string name_of(Memory& m, u64 offset) {
  const Offsets& o = m.off;
  if (offset < o.procs) return offset >= offsetof(Header, inbox) ? "header inbox" : "header word";
  if (offset < o.queues) return "process record";
  if (offset < o.rings) {
    switch ((offset - o.queues) % sizeof(Queue)) {
      case offsetof(Queue, ring):
        return "queue head";
      case offsetof(Queue, ring) + offsetof(Ring, tail):
        return "queue tail";
      case offsetof(Queue, searching):
        return "queue searching";
      case offsetof(Queue, hungry):
        return "queue hungry";
      default:
        return "queue idle bits";
    }
  }
  if (offset < o.inbox) return "queue cell";
  if (offset < o.comps) return "inbox cell";
  if (offset < o.owners) return "completion cell";
  if (offset < o.slots) return "chunk owner";
  if (offset < o.ledger) {
    const u64 in = (offset - o.slots) % sizeof(Slot);
    return in == offsetof(Slot, state)   ? "slot state"
           : in == offsetof(Slot, claim) ? "slot claim"
           : in == offsetof(Slot, life)  ? "slot life"
           : in == offsetof(Slot, watch) ? "slot watch"
                                         : "slot other";
  }
  if (offset < o.extents) return "ledger, nodes, events";
  if (offset < o.warm) return "extent word";
  if (offset < o.holders) return "extent hint";
  return offset < o.data ? "block holder" : "spec";
}

static std::unique_ptr<Memory> node() {
  std::unique_ptr<Memory> d(Memory::create(64 << 20, 2, 7, 64));
  u64 done;
  bool more = true;
  d->header().want = 24;
  while (more) d->populate(1 << 26, 1ull << 40, done, more);
  return d;
}

// `n` processes wait for each of their tasks, `n` workers sleep until there is one; nobody spins.
static int asleep(int n, int tasks) {
  auto d = node();
  u32 queue, gen;
  d->new_queue(1, 1, queue, gen);
  std::atomic<u64> calls{0};
  std::atomic<int> waiting{n};
  std::vector<std::unique_ptr<Memory>> views;
  for (int i = 0; i < 2 * n; i++)
    views.emplace_back(Memory::share(*d, u32(d->open_process(WORKER))));
  const auto wait = [&](Memory& m) {
    Call c;
    c.queue = queue;
    c.queue_gen = gen;
    c.job = 1;
    std::vector<u32> out;
    for (int k = 0; k < tasks; k++) {
      if (m.submit(c, {"argument", 8}, {}, {}, out) != Status::Ok) abort();
      const u32 g = m.slot(out[0]).gen.load(RLX);
      Doubt doubt;
      while (m.wait_slot(out[0], g, 0, 0, doubt) != Memory::Wait::Sealed) {
      }
      m.clear_bits(out[0], OWNER);
    }
    waiting--;
    calls += system_calls;
  };
  const auto work = [&](Memory& m) {
    Proc& r = m.proc(m.me);
    auto& word = m.queue(queue).idle[m.me / 64];
    const u64 bit = 1ull << (m.me % 64);
    u64 key, h;
    u32 v;
    while (waiting.load()) {
      while (m.take(queue, key)) {
        m.write_inline(key_slot(key), INT, "resultAB", 8);
        m.commit(key);
      }
      const u32 seen = r.door.load(SEQ);
      r.sleeping.store(1, SEQ);
      word.fetch_or(bit, SEQ);
      if (!m.ring(queue).peek(h, v)) m.sleep_on(r.door, seen, 0, 50000000);
      r.sleeping.store(0, SEQ);
      word.fetch_and(~bit, SEQ);
    }
    calls += system_calls;
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 2 * n; i++)
    threads.emplace_back([&, i] { i % 2 ? work(*views[size_t(i)]) : wait(*views[size_t(i)]); });
  for (auto& t : threads) t.join();
  printf("system calls per task %.3f\n", double(calls.load()) / n / tasks);
  return 0;
}

int main(int argc, char** argv) {
  auto number = [&](int i, int otherwise) { return argc > i ? atoi(argv[i]) : otherwise; };
  const int n = number(1, 4), tasks = number(2, 2000), queues = number(3, 1);
  if (number(5, 0)) return asleep(n / 2, tasks);
  auto d = node();
  std::vector<std::pair<u32, u32>> queue(static_cast<size_t>(queues));
  for (auto& [q, gen] : queue) d->new_queue(1, 1, q, gen);
  std::map<u64, std::map<int, Counts>> words;  // offset -> by process
  std::mutex merging;
  std::vector<std::unique_ptr<Memory>> views;
  for (int i = 0; i < n; i++) views.emplace_back(Memory::share(*d, u32(d->open_process(WORKER))));
  std::vector<std::thread> threads;
  std::atomic<int> ready{0};
  std::atomic<u64> calls{0};
  for (int i = 0; i < n; i++)
    threads.emplace_back([&, i] {
      Memory& m = *views[size_t(i)];
      std::unordered_map<std::uintptr_t, Counts> mine;
      mine.reserve(1 << 16);
      dice = u64(i) + 1;
      yield_of_1024 = u64(number(4, 100));
      Call c;
      std::tie(c.queue, c.queue_gen) = queue[size_t(i) % queue.size()];
      c.job = 1;
      c.flags = F_HELP;
      std::vector<u32> out;
      auto one = [&] {
        if (m.submit(c, {"argument", 8}, {}, {}, out) != Status::Ok) abort();
        u64 key;
        if (m.take(c.queue, key)) {
          m.write_inline(key_slot(key), INT, "resultAB", 8);
          m.commit(key);
        }
        m.clear_bits(out[0], OWNER);
      };
      for (int k = 0; k < 50; k++) one();  // chunks and extents are there
      ready++;
      while (ready.load() < n) std::this_thread::yield();
      counts = &mine;
      for (int k = 0; k < tasks; k++) one();
      counts = nullptr;
      calls += system_calls;
      std::lock_guard<std::mutex> lock(merging);
      for (auto& [address, c2] : mine) words[address - reinterpret_cast<u64>(m.rw)][i] = c2;
    });
  for (auto& t : threads) t.join();
  struct Row {
    u64 changes = 0, shared = 0, failed = 0, most = 0, stores = 0;
  };
  std::map<std::string, Row> rows;
  Row all;
  for (auto& [offset, by] : words) {
    u64 sum = 0, failed = 0, stores = 0;
    for (auto& [i, c] : by) sum += c.changes, failed += c.failed, stores += c.stores;
    for (Row* r : {&rows[name_of(*d, offset)], &all}) {
      r->changes += sum;
      r->failed += failed;
      if (by.size() > 1) r->shared += sum, r->stores += stores;
      if (by.size() > 1) r->most = std::max(r->most, sum);
    }
  }
  const double per = double(n) * tasks;
  printf(
      "%d processes, %d queues: per task %.2f changes, %.2f of shared words, %.3f failed; "
      "%.2f stores to shared words\n",
      n, queues, double(all.changes) / per, double(all.shared) / per, double(all.failed) / per,
      double(all.stores) / per);
  printf("system calls per task %.3f\n", double(calls.load()) / per);
  for (auto& [name, r] : rows)
    printf("  %-22s changes %6.2f shared %6.2f failed %6.3f stores %5.2f busiest word %6.2f\n",
           name.c_str(), double(r.changes) / per, double(r.shared) / per, double(r.failed) / per,
           double(r.stores) / per, double(r.most) / per);
}
