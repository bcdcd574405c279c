#include "platform.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <linux/futex.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <vector>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace shoal::platform {

static u64 clock_ns(clockid_t id) {
  timespec t;
  clock_gettime(id, &t);
  return u64(t.tv_sec) * 1000000000ull + t.tv_nsec;
}
u64 now_ns() { return clock_ns(CLOCK_MONOTONIC); }
u64 tick_ns() { return clock_ns(CLOCK_MONOTONIC_COARSE); }
u64 boot_ns() { return clock_ns(CLOCK_BOOTTIME); }

#if defined(__x86_64__)
// Whether the counter runs evenly, and the same on all cores: as the kernel has found.
static bool counter_is_steady() {
  u32 a, b, c, d = 0;
  if (!__get_cpuid(0x80000007, &a, &b, &c, &d) || !(d & 1 << 8)) return false;
  const int f = open("/sys/devices/system/clocksource/clocksource0/current_clocksource",
                     O_RDONLY | O_CLOEXEC);
  if (f < 0) return false;
  char text[4] = {};
  const bool is_tsc = read(f, text, 4) == 4 && std::memcmp(text, "tsc\n", 4) == 0;
  close(f);
  return is_tsc;
}
static const bool STEADY = counter_is_steady();

u64 EventClock::read() {
  if (!STEADY) return boot_ns();
  const u64 before = __builtin_ia32_rdtsc(), now = boot_ns(), after = __builtin_ia32_rdtsc();
  if (after - before > 1 << 11) return now;  // interrupted: they were not read together
  const u64 tick = before + (after - before) / 2;
  at.store(tick, RLX);
  ns.store(now, RLX);
  const u64 seen = now - first_ns.load(RLX), old = rate.load(RLX);
  if (seen < 10000000) return now;
  u64 fresh = 0;
  if (seen < 10000000000 && tick > first_at.load(RLX)) {
    fresh = u64((static_cast<unsigned __int128>(seen) << 32) / (tick - first_at.load(RLX)));
    const u64 by = fresh > old ? fresh - old : old - fresh;
    if (old && by > old >> 10) fresh = 0;  // the machine was suspended, or moved
  }
  rate.store(fresh, RLX);
  if (!fresh || seen > 1000000000) {
    first_at.store(tick, RLX);
    first_ns.store(now, RLX);
  }
  return now;
}
#else
u64 EventClock::read() { return boot_ns(); }
#endif

void fail(const std::string& what) { throw std::runtime_error(what + ": " + std::strerror(errno)); }

// For test/scale.cpp: how often a task goes to the kernel.
static inline void count_call() {
#ifdef SHOAL_COUNT
  system_calls++;
#endif
}

bool futex_wait(atom<u32>& word, u32 value, u64 timeout_ns) {
  count_call();
  timespec t{time_t(timeout_ns / 1000000000ull), long(timeout_ns % 1000000000ull)};
  // Shared futex (no PRIVATE flag): the sleeper and the waker are different processes.
  long r = syscall(SYS_futex, &word, FUTEX_WAIT, value, timeout_ns ? &t : nullptr, nullptr, 0);
  return !(r < 0 && errno == ETIMEDOUT);
}
void futex_wake(atom<u32>& word, int n) {
  count_call();
  syscall(SYS_futex, &word, FUTEX_WAKE, n, nullptr, nullptr, 0);
}

void give_way() { sched_yield(); }

u32 this_core() {
  const int core = sched_getcpu();
  return core < 0 ? 0 : u32(core);
}
bool confine(u32 core, Cores& before) {
  static_assert(sizeof(Cores) == sizeof(cpu_set_t));
  if (core >= 64 * std::size(before.bits)) return false;
  count_call();
  const long size = syscall(SYS_sched_getaffinity, 0, sizeof before, &before);
  if (size <= 0) return false;  // more cores than there are bits
  std::memset(reinterpret_cast<u8*>(&before) + size, 0, sizeof before - size_t(size));
  if (!(before.bits[core / 64] >> core % 64 & 1)) return false;
  Cores one{};
  one.bits[core / 64] = 1ull << core % 64;
  if (std::memcmp(&one, &before, sizeof one) == 0) return false;
  count_call();
  return syscall(SYS_sched_setaffinity, 0, sizeof one, &one) == 0;
}
void allow(const Cores& cores) {
  count_call();
  syscall(SYS_sched_setaffinity, 0, sizeof cores, &cores);
}

static void close_between(int low, int high) {
  if (high < low || syscall(SYS_close_range, unsigned(low), unsigned(high), 0u) == 0) return;
  int last = int(std::min<long>(high, sysconf(_SC_OPEN_MAX) - 1));
  for (int fd = low; fd <= last; ++fd) ::close(fd);
}

int fork_worker(const int (&output)[2], const int* kept, int n, const char* name, int oom_score) {
  int pid = ::fork();
  if (pid != 0) return pid;
  setsid();
  dup2(output[0], 1);
  dup2(output[1], 2);
  int low = 3;
  for (int i = 0; i < n; ++i) {
    close_between(low, kept[i] - 1);
    low = kept[i] + 1;
  }
  close_between(low, INT_MAX);
  prctl(PR_SET_NAME, name);
  char text[16];
  int size = std::snprintf(text, sizeof text, "%d", oom_score);
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd >= 0) {
    // Refused where somebody has set it lower: then it stays as it is.
    [[maybe_unused]] auto ignored = write(fd, text, size_t(size));
    ::close(fd);
  }
  return 0;
}

void become_subreaper() { prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); }

int make_memory_file(u64 size) {
  int fd =
      int(syscall(SYS_memfd_create, "shoal", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL));
  if (fd < 0 && errno == EINVAL)  // kernels before 6.3 do not know NOEXEC_SEAL
    fd = int(syscall(SYS_memfd_create, "shoal", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (fd < 0) fail("cannot create node memory (memfd_create)");
  if (ftruncate(fd, off_t(size)) != 0) {
    int e = errno;
    close(fd);
    errno = e;
    fail("cannot size node memory to " + std::to_string(size) + " bytes (check ulimit -f)");
  }
  fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  return fd;
}

void* map_file(int fd, u64 size, bool write) {
  // Reserve with room to align to 2 MiB, so that huge pages can be mapped; then map over the
  // reservation.
  void* r =
      mmap(nullptr, size + EXTENT, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (r == MAP_FAILED) fail("cannot map node memory (check ulimit -v)");
  auto begin = reinterpret_cast<u64>(r);
  u64 aligned = (begin + EXTENT - 1) & ~(EXTENT - 1);
  void* p = mmap(reinterpret_cast<void*>(aligned), size, write ? PROT_READ | PROT_WRITE : PROT_READ,
                 MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, 0);
  if (p == MAP_FAILED) fail("cannot map node memory (check ulimit -v)");
  if (aligned > begin) munmap(r, aligned - begin);
  if (begin + EXTENT > aligned) munmap(static_cast<char*>(p) + size, begin + EXTENT - aligned);
  madvise(p, size, MADV_DONTDUMP);
  return p;
}
void keep_from_children(void* base, u64 size) { madvise(base, size, MADV_DONTFORK); }
void show_to_children(void* begin, void* end, bool shown) {
  const u64 b = reinterpret_cast<u64>(begin) & ~4095ull;
  const u64 e = (reinterpret_cast<u64>(end) + 4095) & ~4095ull;
  madvise(reinterpret_cast<void*>(b), e - b, shown ? MADV_DOFORK : MADV_DONTFORK);
}
void* map_mark(int fd, u64 offset) {
  void* p = mmap(nullptr, MARK_BYTES, PROT_NONE, MAP_SHARED, fd, off_t(offset));
  return p == MAP_FAILED ? nullptr : p;
}
void unmap(void* base, u64 size) { munmap(base, size); }

bool make_private(void* begin, void* end, bool writable) {
  auto b = reinterpret_cast<u64>(begin), e = reinterpret_cast<u64>(end);
  void* copy_of = mmap(nullptr, e - b, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (copy_of == MAP_FAILED) return false;
  std::memcpy(copy_of, reinterpret_cast<void*>(b), e - b);
  if (!writable) mprotect(copy_of, e - b, PROT_READ);
  return mremap(copy_of, e - b, e - b, MREMAP_MAYMOVE | MREMAP_FIXED, reinterpret_cast<void*>(b)) !=
         MAP_FAILED;
}

bool blank(void* begin, u64 size) {
  void* p = mmap(begin, size, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  return p != MAP_FAILED && madvise(p, size, MADV_DONTDUMP) == 0;
}

// NumPy refuses to write to a read-only value; C code that was handed its address (ctypes, torch)
// gets SIGSEGV. A signal handler has no argument of ours, so the range and the former handler stand
// here.
static std::atomic<u64> guarded_begin{0}, guarded_end{0};
static struct sigaction former_handler;

static void on_bad_access(int, siginfo_t* info, void*) {
  auto at = reinterpret_cast<u64>(info->si_addr);
  if (at >= guarded_begin.load(RLX) && at < guarded_end.load(RLX)) {
    static const char line[] =
        "shoal: this process wrote to a shared value, which is read-only; write to a copy of it "
        "(.copy(), .clone())\n";
    if (write(STDERR_FILENO, line, sizeof line - 1) < 0) return;
  }
  sigaction(SIGSEGV, &former_handler, nullptr);  // the access is repeated and ends as it would have
}

void explain_writes(void* begin, u64 size) {
  guarded_begin = reinterpret_cast<u64>(begin);
  guarded_end = reinterpret_cast<u64>(begin) + size;
  static bool installed = false;
  if (installed) return;
  installed = true;
  struct sigaction action{};
  action.sa_sigaction = on_bad_access;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &action, &former_handler);
}

int make_bell() {
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) fail("cannot make the daemon's bell (eventfd)");
  return fd;
}
void ring_bell(int fd) {
  count_call();
  u64 one = 1;
  if (write(fd, &one, sizeof one) < 0) return;  // EAGAIN: it is ringing already
}

bool populate(int fd, u64 offset, u64 size) {
  int r;
  do r = fallocate(fd, FALLOC_FL_KEEP_SIZE, off_t(offset), off_t(size));
  while (r != 0 && errno == EINTR);
  return r == 0;
}
bool punch(int fd, u64 offset, u64 size) {
  return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t(offset), off_t(size)) == 0;
}
bool is_hole(int fd, u64 offset, u64 size) {
  const off_t data = lseek(fd, off_t(offset), SEEK_DATA);
  return data < 0 ? errno == ENXIO : u64(data) >= offset + size;
}
bool collapse(void* begin, u64 size) { return madvise(begin, size, MADV_COLLAPSE) == 0; }
void forget(void* begin, u64 size) { madvise(begin, size, MADV_DONTNEED); }

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// What copies fastest differs from machine to machine, and by up to three times: the library's
// memcpy, which passes by the caches where it thinks that pays, or the processor's own `rep movsb`,
// which reads no line that it is about to overwrite; in one thread, or in several where one cannot
// use all of the memory's bandwidth and other cores have nothing to do. So it is learned, apart for
// three ranges of sizes: each way is tried twice and, as neighbours come and go, now and then.
class CopyWays {
 public:
  void copy(u8* to, const u8* from, u64 size) {
    Range& range = ranges[size < FEW ? 0 : size < MANY ? 1 : 2];
    const u32 ways = size < FEW || cores() < 2 ? 2 : 4;
    const u32 n = range.uses.fetch_add(1, RLX), place = n % AGAIN;
    const u32 way = n < 2 * ways || place < ways ? place % ways : best(range, ways);
    const u64 begun = now_ns();
    do_it(way, to, from, size);
    const u64 rate = (size << 10) / (now_ns() - begun + 1), before = range.rates[way].load(RLX);
    // The first into memory that this process has not touched yet is slow whatever the way.
    range.rates[way].store(n < 2 * ways ? std::max(before, rate) : (3 * before + rate) / 4, RLX);
  }

 private:
  static constexpr u64 FEW = 8 << 20, MANY = 64 << 20;
  static constexpr u32 AGAIN = 256, THREADS_MOST = 4;
  struct Range {
    std::atomic<u32> uses{0};
    std::atomic<u64> rates[4]{};  // bytes per 1/1024 ns
  } ranges[3];

  static u32 cores() {
    static const u32 n = [] {
      cpu_set_t set;
      return sched_getaffinity(0, sizeof set, &set) == 0 ? u32(CPU_COUNT(&set)) : 1u;
    }();
    return n;
  }
  // Several threads have to be worth the cores that they take from others.
  static u32 best(const Range& range, u32 ways) {
    u32 found = 0;
    u64 most = 0;
    for (u32 way = 0; way < ways; way++) {
      const u64 rate = range.rates[way].load(RLX) * (way < 2 ? 5 : 4);
      if (rate > most) most = rate, found = way;
    }
    return found;
  }
  static void piece(bool by_processor, u8* to, const u8* from, u64 size) {
    if (by_processor)
      asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size)::"memory");
    else
      std::memcpy(to, from, size);
  }
  static void do_it(u32 way, u8* to, const u8* from, u64 size) {
    const bool by_processor = way & 1;
    std::vector<std::thread> helpers;
    u64 left = size;
    if (way & 2) {
      const u32 n = std::min(cores(), THREADS_MOST);
      const u64 part = size / n & ~u64(4095);
      sigset_t all, former;  // signals are for the program's own threads
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &former);
      try {
        while (helpers.size() + 1 < n) {
          helpers.emplace_back(piece, by_processor, to + left - part, from + left - part, part);
          left -= part;
        }
      } catch (const std::system_error&) {  // no more threads: the rest is done here
      }
      pthread_sigmask(SIG_SETMASK, &former, nullptr);
    }
    piece(by_processor, to, from, left);
    for (auto& helper : helpers) helper.join();
  }
};
static CopyWays copy_ways;

void copy(void* to, const void* from, u64 size) {
  if (size >= 256 * 1024)
    copy_ways.copy(static_cast<u8*>(to), static_cast<const u8*>(from), size);
  else
    std::memcpy(to, from, size);
}
#else
void copy(void* to, const void* from, u64 size) { std::memcpy(to, from, size); }
#endif

}  // namespace shoal::platform
