// Makes the n-th write, sync or truncation below a directory fail. Loaded with LD_PRELOAD.
//
//   FAIL_BELOW=<directory>  FAIL_AT=<n>  FAIL_HOW=<errno> | torn | kill | flip
//
// "torn" writes half of what was asked for and kills the process, "kill" kills it instead of doing
// anything, "flip" writes one bit wrong and says nothing. An errno is returned once; the call after
// it works again.
//
//   FAIL_BELOW=<directory>  FULL_WHILE=<file>
//
// The disk is full as long as there is that file: every write fails with ENOSPC.
//
//   FAIL_BELOW=<directory>  SLOW_WHILE=<file>
//
// As long as there is that file every read, write and sync takes 50 ms more.
//
//   NO_FORKS_WHILE=<file>
//
// As long as there is that file nobody can fork.

#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <string>

namespace {

std::atomic<long> calls{0};

bool is_watched(int fd) {
  const char* below = getenv("FAIL_BELOW");
  if (below == nullptr) return false;
  char link[64];
  char path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  return length > 0 && strncmp(path, below, strlen(below)) == 0;
}

bool is_there(const char* variable) {
  const char* path = getenv(variable);
  return path != nullptr && access(path, F_OK) == 0;
}

constexpr int NO = -1, TORN = 0, FLIP = -2;

// Whether this call is the one: NO, TORN, FLIP, else the errno to fail with.
int turn(int fd) {
  if (!is_watched(fd)) return NO;
  if (is_there("SLOW_WHILE")) usleep(50000);
  if (is_there("FULL_WHILE")) return ENOSPC;
  const char* at = getenv("FAIL_AT");
  const char* how = getenv("FAIL_HOW");
  if (at == nullptr || how == nullptr || ++calls != atol(at)) return NO;
  if (strcmp(how, "torn") == 0) return TORN;
  if (strcmp(how, "flip") == 0) return FLIP;
  if (strcmp(how, "kill") == 0) kill(getpid(), SIGKILL);
  return atoi(how);
}

template <typename Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

ssize_t write_at(const char* name, int fd, const void* data, size_t size, off64_t offset) {
  static auto real = next<ssize_t (*)(int, const void*, size_t, off64_t)>(name);
  const int what = turn(fd);
  if (what == NO) return real(fd, data, size, offset);
  if (what == FLIP && size > 0) {
    std::string changed(static_cast<const char*>(data), size);
    changed[size / 2] ^= 1;
    return real(fd, changed.data(), size, offset);
  }
  if (what == TORN) {
    real(fd, data, size / 2, offset);
    kill(getpid(), SIGKILL);
  }
  errno = what;
  return -1;
}

template <typename Real>
int guarded(Real real, int fd) {
  const int what = turn(fd);
  if (what == NO || what == FLIP) return real();
  if (what == TORN) kill(getpid(), SIGKILL);
  errno = what;
  return -1;
}

}  // namespace

extern "C" {

ssize_t pwrite64(int fd, const void* data, size_t size, off64_t offset) {
  return write_at("pwrite64", fd, data, size, offset);
}

ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  return write_at("pwrite64", fd, data, size, offset);
}

ssize_t preadv64(int fd, const iovec* parts, int count, off64_t offset) {
  static auto real = next<ssize_t (*)(int, const iovec*, int, off64_t)>("preadv64");
  if (is_watched(fd) && is_there("SLOW_WHILE")) usleep(50000);
  return real(fd, parts, count, offset);
}

ssize_t preadv(int fd, const iovec* parts, int count, off_t offset) {
  return preadv64(fd, parts, count, offset);
}

int fsync(int fd) {
  static auto real = next<int (*)(int)>("fsync");
  return guarded([&] { return real(fd); }, fd);
}

int fdatasync(int fd) {
  static auto real = next<int (*)(int)>("fdatasync");
  return guarded([&] { return real(fd); }, fd);
}

pid_t fork() noexcept {
  static auto real = next<pid_t (*)()>("fork");
  if (!is_there("NO_FORKS_WHILE")) return real();
  errno = EAGAIN;
  return -1;
}

int ftruncate64(int fd, off64_t size) noexcept {
  static auto real = next<int (*)(int, off64_t)>("ftruncate64");
  return guarded([&] { return real(fd, size); }, fd);
}
}
