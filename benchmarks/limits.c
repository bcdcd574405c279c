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
 *   memcpy_*       copy of 256 MB into shared pages that are warm; source zero or random
 *   movsb_*        the same by `rep movsb` (x86 only)
 *   first_touch    writing shared pages for the first time
 *   fallocate      populating shared pages without writing them
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
  int rounds;
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

static void wait_for(struct shared *s, uint32_t mine) {
  uint32_t seen;
  while ((seen = atomic_load_explicit(&s->ball, memory_order_acquire)) != mine)
    if (s->sleeps) syscall(SYS_futex, &s->ball, FUTEX_WAIT, seen, NULL, NULL, 0);
}

static void *other_side(void *argument) {
  struct shared *s = argument;
  pin(s->core);
  for (int i = 0; i < s->rounds; i++) {
    wait_for(s, 1);
    hand_over(s, 0);
  }
  return NULL;
}

static double round_trip_us(int core_a, int core_b, int sleeps, int rounds) {
  double best = 1e9;
  for (int repeat = 0; repeat < REPEATS; repeat++) {
    struct shared s = {.rounds = rounds, .core = core_b, .sleeps = sleeps};
    pthread_t thread;
    pin(core_a);
    pthread_create(&thread, NULL, other_side, &s);
    double start = now_s();
    for (int i = 0; i < rounds; i++) {
      hand_over(&s, 1);
      wait_for(&s, 0);
    }
    double us = (now_s() - start) / rounds * 1e6;
    pthread_join(thread, NULL);
    if (us < best) best = us;
  }
  return best;
}

static double socket_us(int rounds) {
  int pair[2];
  char bytes[64] = {0};
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) exit(1);
  pid_t child = fork();
  if (child == 0) {
    close(pair[0]); /* else the child would never see the end of the connection */
    while (read(pair[1], bytes, sizeof bytes) > 0)
      if (write(pair[1], bytes, sizeof bytes) < 0) break;
    _exit(0);
  }
  double best = 1e9;
  for (int repeat = 0; repeat < REPEATS; repeat++) {
    double start = now_s();
    for (int i = 0; i < rounds; i++) {
      if (write(pair[0], bytes, sizeof bytes) < 0) exit(1);
      if (read(pair[0], bytes, sizeof bytes) <= 0) exit(1);
    }
    double us = (now_s() - start) / rounds * 1e6;
    if (us < best) best = us;
  }
  close(pair[0]);
  close(pair[1]);
  waitpid(child, NULL, 0);
  return best;
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

  if (n == 2) show("spin", round_trip_us(cores[0], cores[1], 0, 200000), "us");
  show("futex_same", round_trip_us(cores[0], cores[0], 1, 20000), "us");
  if (n == 2) show("futex_across", round_trip_us(cores[0], cores[1], 1, 5000), "us");
  sched_setaffinity(0, sizeof all, &all);
  show("unix_socket", socket_us(5000), "us");
  show_copy("memcpy_zero", 0, 0);
  show_copy("memcpy_random", 1, 0);
#if defined(__x86_64__)
  show_copy("movsb_zero", 0, 1);
  show_copy("movsb_random", 1, 1);
#endif
  show("first_touch", first_touch(), "GB/s");
  show("fallocate", populate(), "GB/s");
  show("fork", fork_us(200), "us");
  return 0;
}
