// kill -9 at every instruction. A child runs one scenario under single-stepping; after each
// instruction its memory is looked at through a private, copy-on-write mapping, as if the child had
// died there: the real repair runs on that copy, somebody else finishes the work, and nothing may
// be left, lost or run twice. What operations the instructions belonged to is counted and printed.
//
//   step [stride] [part of parts] [name]     stride 1 looks after every instruction, n after each
//   n-th
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#include <csignal>

#include "scenarios.hpp"

using namespace shoal;

static constexpr long SURELY = 16;  // looks at each function, whatever the stride
static Symbols symbols;
static std::map<std::string, long> covered;
static const u64 clock_page = getauxval(AT_SYSINFO_EHDR);

static void act(World& w, const Scenario& scenario, bool warm) {
  Memory* m = Memory::attach(w.daemon->fd, w.daemon->bell, w.victim);
  Actor a{*m, w, {}};
  ptrace(PTRACE_TRACEME, 0, 0, 0);
  if (warm) {  // chunks and extents are leased already: only the operations themselves remain
    for (u64 bytes : {100, 200, 300}) a.drop(a.put(bytes));
    a.m.ledger_return(a.m.ledger_take());
  }
  raise(SIGSTOP);
  scenario.body(a);
  raise(SIGSTOP);
  _exit(0);
}

static int run(const Scenario& scenario, int stride, bool warm) {
  World w;
  std::unique_ptr<Memory> other(Memory::share(*w.daemon, w.other));
  Actor o{*other, w, {}};
  scenario.prepare(o);
  pid_t child = fork();
  if (child == 0) act(w, scenario, warm);
  int status;
  waitpid(child, &status, 0);
  long steps = 0, looked = 0, bad = 0;
  std::string first;
  for (;;) {
    ptrace(PTRACE_SINGLESTEP, child, 0, 0);
    waitpid(child, &status, 0);
    if (!WIFSTOPPED(status)) {
      printf("%s: the scenario failed with status %x\n", scenario.name, status);
      return 1;
    }
    if (WSTOPSIG(status) == SIGSTOP) break;
    if (WSTOPSIG(status) == SIGUSR1) {
      Proc& r = w.daemon->proc(w.victim);
      scenario.daemon(w, w.daemon->running_of(w.victim)[std::max(1u, r.depth.load()) - 1].load());
      continue;
    }
    user_regs_struct registers;
    ptrace(PTRACE_GETREGS, child, 0, &registers);
    // The kernel's clock starts its reading over at each tick: judged between each two of its
    // instructions, which change nothing, it would never come to an end on a busy machine.
    if (clock_page <= registers.rip && registers.rip < clock_page + 8192) continue;
    steps++;
    const std::string& function = symbols.at(registers.rip);
    // A sample of a long scenario leaves no short function out.
    if (steps % (stride * scenario.every) && covered[function] >= SURELY) continue;
    looked++;
    covered[function]++;
    void* copy = mmap(nullptr, w.daemon->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                      w.daemon->fd, 0);
    const char* e = Judge(w, static_cast<u8*>(copy)).judge({w.victim, w.other}, judge_channel);
    munmap(copy, w.daemon->size);
    if (e) {
      if (first.empty())
        first = "instruction " + std::to_string(steps) + " in " + function + ": " + e;
      bad++;
    }
  }
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  printf("%-42s %6ld instructions, killed at %6ld, violations %ld %s\n", scenario.name, steps,
         looked, bad, first.c_str());
  fflush(stdout);
  return bad != 0;
}

int main(int argc, char** argv) {
  int stride = argc > 1 ? std::max(1, atoi(argv[1])) : 1, bad = 0, part = 0, parts = 1, i = 0;
  if (argc > 2) sscanf(argv[2], "%d/%d", &part, &parts);
  stay_on_one_core(part);
  for (auto& scenario : scenarios)
    if ((argc <= 3 && i++ % parts == part) || (argc > 3 && strstr(scenario.name, argv[3])))
      bad += run(scenario, stride, true);
  if (argc <= 3 && part == 0) {
    Scenario cold{"first use of chunks and extents", nothing, nullptr, nullptr, 16};
    for (auto& s : scenarios)
      if (!strcmp(s.name, "refs inside arguments")) cold.body = s.body;
    bad += run(cold, stride, false);
  }
  long total = 0;
  for (auto& [name, n] : covered) {
    for (std::string of : {"shoal::Memory::", "shoal::Channel::", "shoal::SharedBlock::"})
      if (name.starts_with(of)) printf("operation %-40s %7ld\n", name.c_str() + of.size(), n);
    total += n;
  }
  printf("killed at %ld instructions in %zu functions\n", total, covered.size());
  return bad != 0;
}
