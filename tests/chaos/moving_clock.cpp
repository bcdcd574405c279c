// A wall clock that jumps and runs too fast or backwards. Loaded with LD_PRELOAD.
//
//   MOVING_CLOCK=<file of a Wall>
//
// The file is mapped and read at each look, so that whoever writes to it moves the clock of all
// processes at once. Clocks that count from the boot are left as they are.

#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>

namespace {

constexpr int64_t SECOND = 1000000000;

struct Wall {
  int64_t ahead_ns;  // of the real one
  int64_t since_ns;  // of CLOCK_MONOTONIC: from here on it drifts
  double drift;      // seconds per second
};

const Wall* wall() {
  static const Wall* mapped = [] {
    const char* path = getenv("MOVING_CLOCK");
    const int fd = path == nullptr ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return static_cast<const Wall*>(nullptr);
    void* at = mmap(nullptr, sizeof(Wall), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    return at == MAP_FAILED ? nullptr : static_cast<const Wall*>(at);
  }();
  return mapped;
}

using ClockGettime = int (*)(clockid_t, timespec*);

int real(clockid_t id, timespec* t) {
  static auto next = reinterpret_cast<ClockGettime>(dlsym(RTLD_NEXT, "clock_gettime"));
  return next(id, t);
}

int64_t ns_of(const timespec& t) { return int64_t(t.tv_sec) * SECOND + t.tv_nsec; }

int64_t wall_ns() {
  timespec now, since;
  real(CLOCK_REALTIME, &now);
  const Wall* moved = wall();
  if (moved == nullptr) return ns_of(now);
  real(CLOCK_MONOTONIC, &since);
  const double drifted = double(ns_of(since) - moved->since_ns) * moved->drift;
  return ns_of(now) + moved->ahead_ns + int64_t(drifted);
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t id, timespec* t) noexcept {
  if (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE) return real(id, t);
  const int64_t now = wall_ns();
  *t = {time_t(now / SECOND), long(now % SECOND)};
  return 0;
}

int gettimeofday(timeval* t, void*) noexcept {
  const int64_t now = wall_ns();
  if (t != nullptr) *t = {time_t(now / SECOND), suseconds_t(now % SECOND / 1000)};
  return 0;
}

time_t time(time_t* t) noexcept {
  const time_t now = time_t(wall_ns() / SECOND);
  if (t != nullptr) *t = now;
  return now;
}
}
