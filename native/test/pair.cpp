// Two processes in the middle of an operation: both are single-stepped to a random instruction, one
// is killed there and repaired while the other stands still, then the other goes on to its end. It
// must not notice: everything runs once, nothing is lost or left.
//
//   pair [samples per pair = 40] [seed = 1] [name]
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <csignal>
#include <random>

#include "worlds.hpp"

using namespace shoal;

using Body = void (*)(Actor&);
struct Pair {
  const char* name;
  Body prepare, killed, stopped;
};

static void runs(Actor& a) {
  while (a.run()) {
  }
}
static void runs_actor(Actor& a) {
  while (a.run() || a.run(true)) {
  }
}
static void submits(Actor& a) { a.submit(), a.submit({a.submit()}); }
static void calls(Actor& a) { a.submit({a.submit()}, 1, true), a.submit({}, 1, true); }
static void frees(Actor& a) {  // the common value is held by everybody's own hold
  atom<u64>* e;
  if (!a.m.hold_key(a.w.adopted, false, e)) _exit(8);
  a.drop(a.put(100, {key_slot(a.w.adopted)}));
  a.m.drop(e);
}
static void prepares_value(Actor& a) { a.w.adopted = a.key_of(a.put(100)); }
static void fills(Actor& a) {  // blocks without contents: copying is not what is looked at
  std::vector<u32> all;
  for (int i = 0; i < 3; i++) {
    u32 s = a.m.new_slot(OWNER);
    u64 offset;
    if (a.m.new_block(600000, s, false, false, offset) != Status::Ok) _exit(7);
    *a.m.at<ValueHeader>(offset) = {0, 0, sizeof(ValueHeader), 0};
    a.m.seal_mine(s);
    all.push_back(s);
  }
  for (u32 s : all) a.drop(s);
}
static void prepares_wait(Actor& a) {
  u32 s = a.submit();
  a.w.adopted = a.key_of(s);
}
static void watches(Actor& a) {
  atom<u64>* e;
  if (!a.m.hold_key(a.w.adopted, false, e)) _exit(8);
  a.m.watch(a.w.adopted, 1);
  a.submit({key_slot(a.w.adopted)});
  Doubt doubt{1};
  a.m.wait_slot(key_slot(a.w.adopted), key_gen(a.w.adopted), platform::now_ns() + 1000, 0, doubt);
  a.m.drain_completions();
  a.m.drop(e);
}
static void helps(Actor& a) {
  if (a.m.claim(a.w.adopted)) a.write(a.w.adopted), a.m.commit(a.w.adopted);
}

static const Pair pairs[] = {
    {"two workers", [](Actor& a) { submits(a), submits(a); }, runs, runs},
    {"submitter killed, worker stopped", nullptr, submits, runs},
    {"worker killed, submitter stopped", submits, runs, submits},
    {"two submitters", nullptr, submits, submits},
    {"caller killed, actor stopped", nullptr, calls, runs_actor},
    {"actor killed, caller stopped", calls, runs_actor, calls},
    {"two callers", nullptr, calls, calls},
    {"holds of one value", prepares_value, frees, frees},
    {"blocks and extents", nullptr, fills, fills},
    {"sealer killed, waiter stopped", prepares_wait, runs, watches},
    {"waiter killed, sealer stopped", prepares_wait, watches, runs},
    {"two helpers", prepares_wait, helps, helps},
};

struct Child {
  pid_t pid = 0;
  bool has_ended = false;
  int status = 0;
  Child(World& w, u32 index, Body body) {
    pid = fork();
    if (pid == 0) {
      Memory* m = Memory::attach(w.daemon->fd, w.daemon->bell, index);
      Actor a{*m, w, {}};
      a.drop(a.put(100));
      ptrace(PTRACE_TRACEME, 0, 0, 0);
      raise(SIGSTOP);
      body(a);
      _exit(0);
    }
    waitpid(pid, &status, 0);
  }
  ~Child() {
    if (has_ended) return;
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
  }
  void step(long n) {
    while (n-- > 0 && !has_ended) {
      ptrace(PTRACE_SINGLESTEP, pid, 0, 0);
      waitpid(pid, &status, 0);
      has_ended = !WIFSTOPPED(status);
    }
  }
  void die() {
    if (has_ended) return;
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    has_ended = true;
  }
  bool goes_on_to_its_end() {  // false: it hangs, or ended badly
    if (!has_ended) ptrace(PTRACE_CONT, pid, 0, 0);
    for (int i = 0; i < 5000 && !has_ended; i++) {
      if (waitpid(pid, &status, WNOHANG) == pid)
        has_ended = true;
      else
        usleep(1000);
    }
    return has_ended && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
};

static long length_of(const Pair& p, Body body, u32 World::* role) {
  World w;
  std::unique_ptr<Memory> third(Memory::share(*w.daemon, w.third));
  Actor o{*third, w, {}};
  if (p.prepare) p.prepare(o);
  Child c(w, w.*role, body);
  long n = 0;
  for (; !c.has_ended; n++) c.step(1);
  return n;
}

static const char* sample(const Pair& p, long m, long n, bool victim_first) {
  World w;
  std::unique_ptr<Memory> third(Memory::share(*w.daemon, w.third));
  Actor o{*third, w, {}};
  if (p.prepare) p.prepare(o);
  Child victim(w, w.victim, p.killed), other(w, w.other, p.stopped);
  if (victim_first) victim.step(m);
  other.step(n);
  if (!victim_first) victim.step(m);
  victim.die();
  Judge judge(w, w.daemon->rw);
  if (const char* e = judge.died(w.victim)) return e;
  if (!other.goes_on_to_its_end()) return "the stopped process did not reach its end";
  if (const char* e = judge.drain()) return e;
  return judge.judge({w.other, w.third});
}

int main(int argc, char** argv) {
  const int samples = argc > 1 ? atoi(argv[1]) : 40, seed = argc > 2 ? atoi(argv[2]) : 1;
  int bad = 0, total = 0;
  stay_on_one_core(seed);
  for (auto& p : pairs) {
    if (argc > 3 && !strstr(p.name, argv[3])) continue;
    std::mt19937_64 random(u64(seed) * 1000 + u64(&p - pairs));
    const long a = length_of(p, p.killed, &World::victim),
               b = length_of(p, p.stopped, &World::other);
    int wrong = 0;
    std::string first;
    for (int i = 0; i < samples; i++, total++) {
      const long m = long(random() % u64(a)), n = long(random() % u64(b));
      const bool victim_first = random() & 1;
      if (const char* e = sample(p, m, n, victim_first)) {
        if (wrong++ == 0)
          first = "killed at " + std::to_string(m) + ", other at " + std::to_string(n) +
                  (victim_first ? "" : " (first)") + ": " + e;
      }
    }
    printf("%-36s %6ld x %6ld instructions, samples %d, violations %d %s\n", p.name, a, b, samples,
           wrong, first.c_str());
    fflush(stdout);
    bad += wrong;
  }
  printf("%d pairs of instructions, %d violations\n", total, bad);
  return bad != 0;
}
