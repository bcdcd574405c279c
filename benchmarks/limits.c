/* What this machine can do at best: the limits beside which every figure of ours is printed.
 *
 * Prints one line per limit, `name value unit`. Each is the best of several repeats: a limit is
 * what was possible, not what was usual. Two threads of one program stand for two processes where
 * only memory and the kernel's wake-up matter; the socket and the fork use real processes.
 *
 *   spin           round trip through one shared word, two cores, never sleeping
 *   futex_same     round trip through FUTEX_WAIT/WAKE, both sides on one core
 *   futex_across   the same on two cores
 *   unix_socket    round trip of 64 bytes over a socketpair, two processes
 *   pipe           the same over two pipes
 *   memcpy_*       copy of 256 MB into shared pages that are warm; source zero or random
 *   movsb_*        the same by `rep movsb` (x86 only)
 *   copy_1mib      copy of one warm MiB that fits into the caches, again and again
 *   first_touch    writing shared pages for the first time
 *   fallocate      populating shared pages without writing them
 *   first_copy     copying 256 MB of random data to pages that were only populated, never mapped
 *   collapse       making huge pages of fresh shared memory by MADV_COLLAPSE
 *   collapsed_copy copying random data into such pages, for the first time (both only where the
 *                  kernel can)
 *   fork           fork, exit and wait of a small process
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { REPEATS = 5 };
static const double ROUND_TRIPS_S = 0.1;
static const size_t COPY_BYTES = 256u << 20;

static double now_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void show(const char *name, double value, const char *unit) {
  printf("%s %.4g %s\n", name, value, unit);
  fflush(stdout);
}

/* ---- round trips */

struct shared {
  _Alignas(64) _Atomic uint32_t ball;
  int core;
  int sleeps;
};

static void pin(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  sched_setaffinity(0, sizeof set, &set);
}

static void hand_over(struct shared *s, uint32_t to) {
  atomic_store_explicit(&s->ball, to, memory_order_release);
  if (s->sleeps) syscall(SYS_futex, &s->ball, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Until the ball is not `same` any more; what it is then. */
static uint32_t wait_while(struct shared *s, uint32_t same) {
  uint32_t seen;
  while ((seen = atomic_load_explicit(&s->ball, memory_order_acquire)) == same)
    if (s->sleeps) syscall(SYS_futex, &s->ball, FUTEX_WAIT, seen, NULL, NULL, 0);
  return seen;
}

enum { MINE = 0, YOURS = 1, END = 2 };

static void *other_side(void *argument) {
  struct shared *s = argument;
  pin(s->core);
  while (wait_while(s, MINE) != END) hand_over(s, MINE);
  return NULL;
}

/* Rounds until the time is over: on a busy machine a hand-over may take a whole time slice. */
static double round_trip_us(int core_a, int core_b, int sleeps) {
  double best = 1e9;
  for (int repeat = 0; repeat < REPEATS; repeat++) {
    struct shared s = {.core = core_b, .sleeps = sleeps};
    pthread_t thread;
    pin(core_a);
    pthread_create(&thread, NULL, other_side, &s);
    hand_over(&s, YOURS); /* the thread has started when it answers */
    wait_while(&s, YOURS);
    double start = now_s(), now = start;
    int rounds = 0;
    for (; now - start < ROUND_TRIPS_S; rounds++) {
      hand_over(&s, YOURS);
      wait_while(&s, YOURS);
      if (rounds % 64 == 63) now = now_s();
    }
    double us = (now - start) / rounds * 1e6;
    hand_over(&s, END);
    pthread_join(thread, NULL);
    if (us < best) best = us;
  }
  return best;
}

/* One process writes and reads; a child of it answers. */
static double echo_us(int to_child, int from_parent, int to_parent, int from_child, int unused) {
  char bytes[64] = {0};
  pid_t child = fork();
  if (child == 0) {
    close(to_child); /* else the child would never see the end of the connection */
    if (unused >= 0) close(unused);
    while (read(from_parent, bytes, sizeof bytes) > 0)
      if (write(to_parent, bytes, sizeof bytes) < 0) break;
    _exit(0);
  }
  double best = 1e9;
  for (int repeat = 0; repeat < REPEATS; repeat++) {
    double start = now_s(), now = start;
    int rounds = 0;
    for (; now - start < ROUND_TRIPS_S; rounds++, now = now_s()) {
      if (write(to_child, bytes, sizeof bytes) < 0) exit(1);
      if (read(from_child, bytes, sizeof bytes) <= 0) exit(1);
    }
    double us = (now - start) / rounds * 1e6;
    if (us < best) best = us;
  }
  close(to_child);
  waitpid(child, NULL, 0);
  return best;
}

static double socket_us(void) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) exit(1);
  return echo_us(pair[0], pair[1], pair[1], pair[0], -1);
}

static double pipe_us(void) {
  int there[2], back[2];
  if (pipe(there) || pipe(back)) exit(1);
  return echo_us(there[1], there[0], back[1], back[0], back[0]);
}

/* ---- copies */

static void copy_movsb(void *to, const void *from, size_t n) {
#if defined(__x86_64__)
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
#else
  memcpy(to, from, n);
#endif
}

static void *copy_memcpy(void *to, const void *from, size_t n) { return memcpy(to, from, n); }

static char *shared_pages(size_t n) {
  int fd = memfd_create("limits", 0);
  if (fd < 0 || ftruncate(fd, (off_t)n)) exit(1);
  char *pages = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  return pages;
}

static char *source_pages(int random) {
  char *pages = mmap(NULL, COPY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  /* Zeros are not written: that is what a fresh array of zeros is, one page of the kernel. */
  uint64_t state = 88172645463325252ull;
  if (random)
    for (size_t i = 0; i < COPY_BYTES / 8; i++) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      ((uint64_t *)pages)[i] = state;
    }
  return pages;
}

static void show_copy(const char *name, int random, int movsb) {
  char *to = shared_pages(COPY_BYTES), *from = source_pages(random);
  memset(to, 1, COPY_BYTES);
  double best = 0;
  for (int repeat = 0; repeat < REPEATS + 1; repeat++) {
    double start = now_s();
    if (movsb) copy_movsb(to, from, COPY_BYTES);
    else copy_memcpy(to, from, COPY_BYTES);
    double rate = (double)COPY_BYTES / (now_s() - start) / 1e9;
    if (rate > best) best = rate;
  }
  munmap(to, COPY_BYTES);
  munmap(from, COPY_BYTES);
  show(name, best, "GB/s");
}

/* The faster of memcpy and movsb, and small enough that both sides stay in a core's cache. */
static double cached_copy(void) {
  enum { BYTES = 1 << 20, COPIES = 500 };
  char *to = shared_pages(BYTES), *from = source_pages(1);
  double best = 0;
  for (int repeat = 0; repeat < 2 * REPEATS; repeat++) {
    double start = now_s();
    for (int i = 0; i < COPIES; i++) {
      if (repeat % 2) copy_movsb(to, from, BYTES);
      else copy_memcpy(to, from, BYTES);
      __asm__ volatile("" : : "r"(to) : "memory");
    }
    double rate = (double)BYTES * COPIES / (now_s() - start) / 1e9;
    if (rate > best) best = rate;
  }
  munmap(to, BYTES);
  munmap(from, COPY_BYTES);
  return best;
}

static double first_touch(void) {
  double best = 0;
  for (int repeat = 0; repeat < 3; repeat++) {
    char *pages = shared_pages(COPY_BYTES);
    double start = now_s();
    memset(pages, 1, COPY_BYTES);
    double rate = (double)COPY_BYTES / (now_s() - start) / 1e9;
    munmap(pages, COPY_BYTES);
    if (rate > best) best = rate;
  }
  return best;
}

static double populate(void) {
  double best = 0;
  for (int repeat = 0; repeat < 3; repeat++) {
    int fd = memfd_create("limits", 0);
    double start = now_s();
    if (fd < 0 || fallocate(fd, 0, 0, (off_t)COPY_BYTES)) exit(1);
    double rate = (double)COPY_BYTES / (now_s() - start) / 1e9;
    close(fd);
    if (rate > best) best = rate;
  }
  return best;
}

static double first_copy(void) {
  char *from = source_pages(1);
  double best = 0;
  for (int repeat = 0; repeat < 3; repeat++) {
    int fd = memfd_create("limits", 0);
    if (fd < 0 || fallocate(fd, 0, 0, (off_t)COPY_BYTES)) exit(1);
    char *to = mmap(NULL, COPY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    double start = now_s();
    memcpy(to, from, COPY_BYTES);
    double rate = (double)COPY_BYTES / (now_s() - start) / 1e9;
    munmap(to, COPY_BYTES);
    close(fd);
    if (rate > best) best = rate;
  }
  munmap(from, COPY_BYTES);
  return best;
}

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Huge pages need addresses that are multiples of their size. */
static void show_collapsed(void) {
  const size_t huge = 2u << 20;
  char *from = source_pages(1);
  double best_collapse = 0, best_copy = 0;
  for (int repeat = 0; repeat < 3; repeat++) {
    int fd = memfd_create("limits", 0);
    if (fd < 0 || ftruncate(fd, (off_t)COPY_BYTES)) exit(1);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *space = mmap(NULL, COPY_BYTES + huge, PROT_NONE, flags, -1, 0);
    char *to = (char *)(((uintptr_t)space + huge - 1) & ~(huge - 1));
    if (mmap(to, COPY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != to) exit(1);
    double start = now_s();
    /* The kernel refuses where there is nothing at all: one small page for each huge one. */
    for (size_t at = 0; at < COPY_BYTES; at += huge) to[at] = 1;
    int failed = madvise(to, COPY_BYTES, MADV_COLLAPSE);
    double made_s = now_s() - start;
    if (!failed) {
      start = now_s();
      copy_movsb(to, from, COPY_BYTES);
      double rate = (double)COPY_BYTES / (now_s() - start) / 1e9;
      if (rate > best_copy) best_copy = rate;
      rate = (double)COPY_BYTES / made_s / 1e9;
      if (rate > best_collapse) best_collapse = rate;
    }
    munmap(space, COPY_BYTES + huge);
    close(fd);
  }
  munmap(from, COPY_BYTES);
  if (best_copy > 0) {
    show("collapse", best_collapse, "GB/s");
    show("collapsed_copy", best_copy, "GB/s");
  }
}

static double fork_us(int rounds) {
  double best = 1e9;
  for (int repeat = 0; repeat < REPEATS; repeat++) {
    double start = now_s();
    for (int i = 0; i < rounds; i++) {
      pid_t child = fork();
      if (child == 0) _exit(0);
      waitpid(child, NULL, 0);
    }
    double us = (now_s() - start) / rounds * 1e6;
    if (us < best) best = us;
  }
  return best;
}

int main(void) {
  cpu_set_t all;
  int cores[2] = {0, 0}, n = 0;
  sched_getaffinity(0, sizeof all, &all);
  for (int core = 0; core < CPU_SETSIZE && n < 2; core++)
    if (CPU_ISSET(core, &all)) cores[n++] = core;

  if (n == 2) show("spin", round_trip_us(cores[0], cores[1], 0), "us");
  show("futex_same", round_trip_us(cores[0], cores[0], 1), "us");
  if (n == 2) show("futex_across", round_trip_us(cores[0], cores[1], 1), "us");
  sched_setaffinity(0, sizeof all, &all);
  show("unix_socket", socket_us(), "us");
  show("pipe", pipe_us(), "us");
  show_copy("memcpy_zero", 0, 0);
  show_copy("memcpy_random", 1, 0);
#if defined(__x86_64__)
  show_copy("movsb_zero", 0, 1);
  show_copy("movsb_random", 1, 1);
#endif
  show("copy_1mib", cached_copy(), "GB/s");
  show("first_touch", first_touch(), "GB/s");
  show("fallocate", populate(), "GB/s");
  show("first_copy", first_copy(), "GB/s");
  show_collapsed();
  show("fork", fork_us(200), "us");
  return 0;
}
