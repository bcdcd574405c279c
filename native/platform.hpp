// Every call of the operating system, in one place (Linux: memfd, futex, eventfd, madvise).
#pragma once
#include <string>

#include "layout.hpp"

namespace shoal::platform {

u64 now_ns();   // CLOCK_MONOTONIC: spinning and deadlines
u64 boot_ns();  // CLOCK_BOOTTIME
u64 tick_ns();  // when the kernel's clock last ticked, each few ms: a third of what the others cost

// The time of events: CLOCK_BOOTTIME, read about once in a millisecond and carried on by the core's
// own counter in between, where the kernel trusts that counter too. A read of the clock waits for
// everything before it, 25 ns in the middle of a task; the counter does not.
class EventClock {
 public:
  u64 now() {
#if defined(__x86_64__)
    const u64 passed = __builtin_ia32_rdtsc() - at.load(RLX), r = rate.load(RLX);
    if (r && passed < LASTS) return forward(ns.load(RLX) + (passed * r >> 32));
#endif
    return forward(read());
  }

 private:
  static constexpr u64 LASTS = 1 << 21;  // ticks: 0.5 to 1 ms
  u64 forward(u64 t) {
    const u64 last = newest.load(RLX);
    if (t < last && last - t < 1000000) return last;
    newest.store(t, RLX);
    return t;
  }
  u64 read();
  // `at` and `ns` were read together; `rate` is ns per tick << 32, 0: not known; the other two were
  // read together too, so long before that the rate could be told from it.
  std::atomic<u64> at{0}, ns{0}, rate{0}, first_at{0}, first_ns{0}, newest{0};
};
inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Sleep while *word == value, at most timeout_ns (0: for ever). False on timeout; interrupted waits
// return true.
bool futex_wait(atom<u32>& word, u32 value, u64 timeout_ns);
void futex_wake(atom<u32>& word, int n = 0x7fffffff);

void give_way();  // let others of this core run

// On which cores a thread may run.
struct Cores {
  u64 bits[16];
};
u32 this_core();
// The calling thread runs on `core` only; false where it may not. `before`: what `allow` restores.
bool confine(u32 core, Cores& before);
void allow(const Cores& cores);

// Fork a process that is to be a worker: a session of its own, stdout and stderr, no other
// descriptors than `kept` (sorted), a name, and how readily the kernel ends it. As fork(2).
int fork_worker(const int (&output)[2], const int* kept, int n, const char* name, int oom_score);

void become_subreaper();  // orphans among our descendants become our children

int make_memory_file(u64 size);  // sealed against shrinking and growing; throws std::runtime_error
void* map_file(int fd, u64 size, bool write);  // 2 MiB aligned, not dumped; throws
void keep_from_children(void* base, u64 size);
void show_to_children(void* begin, void* end, bool shown);  // the pages of a part of that
// One page of the file that nobody can touch: seen in /proc/PID/maps, inherited by forks. Null if
// the kernel refuses.
inline constexpr u64 MARK_BYTES = 4096;
void* map_mark(int fd, u64 offset);
void unmap(void* base, u64 size);
// Replace the pages [begin, end) of a shared mapping by a private copy of their present bytes.
bool make_private(void* begin, void* end, bool writable);
// Replace a mapping by private zero pages: late looks find nothing, the file is let go.
bool blank(void* begin, u64 size);
// Say in one line on stderr what a write to [begin, begin + size) means, before it kills the
// process.
void explain_writes(void* begin, u64 size);
int make_bell();
void ring_bell(int fd);

bool populate(int fd, u64 offset,
              u64 size);  // back a range with memory; false if the kernel refuses
bool punch(int fd, u64 offset, u64 size);
bool is_hole(int fd, u64 offset, u64 size);  // no memory is behind any of it
bool collapse(void* begin, u64 size);        // into huge pages; false on kernels that cannot
void forget(void* begin, u64 size);          // drop this process's mapping of the pages

// Copy in whatever way has been fastest so far: large copies may use several threads.
void copy(void* to, const void* from, u64 size);

[[noreturn]] void fail(const std::string& what);  // throws std::runtime_error with errno's text

}  // namespace shoal::platform
