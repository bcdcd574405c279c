// kill -9 at every instruction. A child runs one scenario under single-stepping; after each
// instruction its memory is looked at through a private, copy-on-write mapping, as if the child had
// died there: the real repair runs on that copy, somebody else finishes the work, and nothing may
// be left, lost or run twice.
//
// Every ref of a scenario belongs to the dead process, so after repair and draining the audit must
// find nothing at all: no slot, no spec, no byte, no wrong count. Tasks that another process holds
// a ref to must be sealed.
//
//   step [stride]     stride 1 looks after every instruction, n after every n-th
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "memory.hpp"

using namespace shoal;

struct World {
  std::unique_ptr<Memory> daemon;
  u32 queue = 0, queue_gen = 0, actor_queue = 0, actor_gen = 0, victim = 0, other = 0;
  World() {
    daemon.reset(Memory::create(16 << 20, 2, 7, 16));
    u64 done;
    bool more = true;
    daemon->header().want = 8;
    while (more) daemon->populate(1 << 24, 1ull << 40, done, more);
    daemon->new_queue(1, 1, 0, queue, queue_gen);
    daemon->new_queue(2, 1, 0, actor_queue, actor_gen);
    victim = u32(daemon->open_process(DRIVER));
    other = u32(daemon->open_process(WORKER));
  }
};

struct Actor {  // what the scenarios are written in
  Memory& m;
  World& w;
  u32 submit(std::vector<u32> deps = {}, u32 returns = 1, bool actor = false,
             std::vector<u32> contained = {}) {
    Call c;
    c.queue = actor ? w.actor_queue : w.queue;
    c.queue_gen = actor ? w.actor_gen : w.queue_gen;
    c.job = 1;
    c.n_returns = returns;
    c.flags = actor ? F_ACTOR : F_HELP;
    std::vector<u32> out;
    if (m.submit(c, {"payload", 8}, deps, contained, out) != Status::Ok) _exit(9);
    return out[0];
  }
  bool run(bool actor = false, bool error = false) {
    u64 key;
    if (!m.take(actor ? w.actor_queue : w.queue, key)) return false;
    Spec* t = m.spec(key_slot(key));
    for (u32 i = 0; i < t->n_returns; i++)
      m.write_inline(key_slot(t->returns()[i]), error ? ERROR_RECORD : INT, "resultAB", 8);
    m.commit(key);
    return true;
  }
  u32 put(u64 bytes, std::vector<u32> contained = {}) {
    u32 s = m.new_slot(OWNER);
    std::string data(bytes, 'x');
    ValueParts v;
    v.format = PICKLE;
    v.data = {data.data(), data.size()};
    v.contained = contained;
    if (m.write_value(s, v, false, platform::copy) != Status::Ok) _exit(9);
    m.seal_mine(s);
    return s;
  }
  u32 large() {  // three extents, without three million single steps of copying
    u32 s = m.new_slot(OWNER);
    u64 offset;
    if (m.new_block(5 << 20, s, false, false, offset) != Status::Ok) _exit(9);
    *m.at<ValueHeader>(offset) = {0, 0, sizeof(ValueHeader), 0};
    m.slot(s).kind.store(PICKLE);
    m.seal_mine(s);
    return s;
  }
  void drop(u32 s) { m.clear_bits(s, OWNER); }
};

using Scenario = std::function<void(Actor&)>;
static const std::map<std::string, Scenario> scenarios = {
    {"submit, take, finish",
     [](Actor& a) {
       a.submit();
       a.run();
     }},
    {"drop before, between, after",
     [](Actor& a) {
       u32 s = a.submit();
       a.drop(s);
       a.run();
       s = a.submit();
       a.run();
       a.drop(s);
     }},
    {"three returns",
     [](Actor& a) {
       a.submit({}, 3);
       a.run();
     }},
    {"dependency, held then fired",
     [](Actor& a) {
       u32 x = a.submit();
       a.submit({x});
       a.run();
       a.run();
     }},
    {"two dependencies, two dependents",
     [](Actor& a) {
       u32 x = a.submit(), y = a.submit();
       a.submit({x, y});
       a.submit({y, x});
       a.run();
       a.run();
       a.run();
       a.run();
     }},
    {"error cascade",
     [](Actor& a) {
       u32 x = a.submit();
       u32 y = a.submit({x});
       a.submit({y});
       a.submit({x});
       a.run(false, true);
     }},
    {"nested values freed",
     [](Actor& a) {
       u32 x = a.put(100), y = a.put(200, {x}), z = a.put(300, {x, y});
       a.drop(x);
       a.drop(y);
       a.drop(z);
     }},
    {"refs inside arguments",
     [](Actor& a) {
       u32 x = a.put(100);
       u32 t = a.submit({x}, 1, false, {x});
       a.drop(x);
       a.run();
       a.drop(t);
     }},
    {"runs of extents",
     [](Actor& a) {
       u32 x = a.large();
       a.drop(x);
       a.large();
     }},
    {"ordered calls",
     [](Actor& a) {
       u32 x = a.submit();
       a.submit({x}, 1, true);
       a.submit({}, 1, true);
       a.submit({}, 1, true);
       a.run();
       a.run(true);
       a.run(true);
       a.run(true);
     }},
    {"holds in the ledger",
     [](Actor& a) {
       u32 x = a.put(100);
       atom<u64>* e;
       a.m.hold_key(make_key(x, a.m.slot(x).gen.load()), true, e);
       a.drop(x);
       a.m.drop(e);
     }},
};

// The victim died here: repair, let somebody else finish, look.
static const char* check(World& w, u8* copy) {
  std::unique_ptr<Memory> d(Memory::share(*w.daemon, 0)), o(Memory::share(*w.daemon, w.other));
  for (Memory* m : {d.get(), o.get()}) {
    m->rw = m->ro = copy;
    m->slots = m->at<Slot>(m->off.slots);
    m->procs = m->at<Proc>(m->off.procs);
    m->queues = m->at<Queue>(m->off.queues);
  }
  std::vector<RunningTask> running;
  d->repair(w.victim, running);
  for (auto& t : running)
    if (!d->requeue(t.key, true, false)) return "a running task could not be requeued";
  d->close_process(w.victim);
  std::map<std::pair<u64, u32>, int> ran;
  for (u32 q : {w.queue, w.actor_queue}) {
    u64 key;
    while (o->take(q, key)) {
      u32 attempt = claim_attempt(o->slot(key_slot(key)).claim.load());
      if (ran[{key, attempt}]++) return "an attempt ran twice";
      Spec* t = o->spec(key_slot(key));
      if (!t) return "a task without a spec";
      for (u32 i = 0; i < t->n_holds(); i++)
        if (u64 e = t->holds()[i].load(); e && o->slot(hold_slot(e)).state.load() == FREE)
          return "an argument was freed early";
      for (u32 i = 0; i < t->n_returns; i++)
        o->write_inline(key_slot(t->returns()[i]), INT, "resultAB", 8);
      o->commit(key);
      if (ran.size() > 64) return "endless work";
      q = w.queue;
    }
  }
  u64 key;
  while (o->take(w.actor_queue, key)) {
    Spec* t = o->spec(key_slot(key));
    for (u32 i = 0; i < t->n_returns; i++)
      o->write_inline(key_slot(t->returns()[i]), INT, "resultAB", 8);
    o->commit(key);
  }
  auto a = d->audit();
  if (a.wrong_counts) return "a wrong count";
  if (a.leaked_blocks) return "a leaked block";
  if (a.specs) return "a task that never ended";
  if (a.slots) return "a leaked slot";
  if (a.bytes) return "leaked bytes";
  return nullptr;
}

static int run(const std::string& name, const Scenario& scenario, int stride, bool warm) {
  World w;
  int sync[2];
  if (pipe(sync) != 0) return 1;
  pid_t child = fork();
  if (child == 0) {
    Memory* m = Memory::attach(w.daemon->fd, w.daemon->bell, w.victim);
    Actor a{*m, w};
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    if (warm) {  // chunks and extents are leased already: only the operations themselves remain
      a.drop(a.put(100));
      a.drop(a.submit());
      a.run();
      a.m.ledger_return(a.m.ledger_take());
    }
    raise(SIGSTOP);
    scenario(a);
    raise(SIGSTOP);
    _exit(0);
  }
  int status;
  waitpid(child, &status, 0);
  long steps = 0, looked = 0, bad = 0;
  std::string first;
  for (;;) {
    ptrace(PTRACE_SINGLESTEP, child, 0, 0);
    waitpid(child, &status, 0);
    if (!WIFSTOPPED(status)) {
      printf("%s: the scenario failed with status %x\n", name.c_str(), status);
      return 1;
    }
    if (WSTOPSIG(status) == SIGSTOP) break;
    steps++;
    if (steps % stride) continue;
    looked++;
    void* copy = mmap(nullptr, w.daemon->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                      w.daemon->fd, 0);
    const char* e = check(w, static_cast<u8*>(copy));
    munmap(copy, w.daemon->size);
    if (e) {
      if (first.empty()) first = "instruction " + std::to_string(steps) + ": " + e;
      bad++;
    }
  }
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  close(sync[0]);
  close(sync[1]);
  close(w.daemon->fd);
  close(w.daemon->bell);
  printf("%-36s %6ld instructions, killed at %6ld, violations %ld %s\n", name.c_str(), steps,
         looked, bad, first.c_str());
  fflush(stdout);
  return bad != 0;
}

int main(int argc, char** argv) {
  int stride = argc > 1 ? std::max(1, atoi(argv[1])) : 1;
  int bad = 0;
  for (auto& [name, scenario] : scenarios)
    if (argc < 3 || name.find(argv[2]) != std::string::npos)
      bad += run(name, scenario, stride, true);
  if (argc < 3)
    bad += run("first use of chunks and extents", scenarios.at("refs inside arguments"),
               stride * 16 + 1, false);
  return bad != 0;
}
