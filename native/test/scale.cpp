// What does not scale: N processes (threads over one mapping) submit, take, commit and drop tasks,
// and every change of a shared word is counted. A word that several processes change is a serial
// part: each change moves its cache line (70 to 200 ns between cores, 300 and more between
// sockets).
//
//   scale [N] [tasks of each] [queues: 1 or N] [yields of 1024]
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

int main(int argc, char** argv) {
  auto number = [&](int i, int otherwise) { return argc > i ? atoi(argv[i]) : otherwise; };
  const int n = number(1, 4), tasks = number(2, 2000), queues = number(3, 1);
  std::unique_ptr<Memory> d(Memory::create(64 << 20, 2, 7, 64));
  u64 done;
  bool more = true;
  d->header().want = 24;
  while (more) d->populate(1 << 26, 1ull << 40, done, more);
  std::vector<std::pair<u32, u32>> queue(static_cast<size_t>(queues));
  for (auto& [q, gen] : queue) d->new_queue(1, 1, 0, q, gen);
  std::map<u64, std::map<int, Counts>> words;  // offset -> by process
  std::mutex merging;
  std::vector<std::unique_ptr<Memory>> views;
  for (int i = 0; i < n; i++) views.emplace_back(Memory::share(*d, u32(d->open_process(WORKER))));
  std::vector<std::thread> threads;
  std::atomic<int> ready{0};
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
  for (auto& [name, r] : rows)
    printf("  %-22s changes %6.2f shared %6.2f failed %6.3f stores %5.2f busiest word %6.2f\n",
           name.c_str(), double(r.changes) / per, double(r.shared) / per, double(r.failed) / per,
           double(r.stores) / per, double(r.most) / per);
}
