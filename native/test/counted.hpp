// An atomic word that counts: every read-modify-write, failed swap and store, by thread and
// address. `layout.hpp` takes it for `atom` in programs built with -DSHOAL_COUNT. Two cores hide
// contention, so before each swap the thread gives its core away with a seeded probability: others
// change the word between the load and the swap as often as they would on many cores.
#pragma once
#include <sched.h>

#include <atomic>
#include <cstdint>
#include <unordered_map>

namespace shoal {

struct Counts {
  std::uint64_t changes = 0, failed = 0, stores = 0;
};
inline thread_local std::unordered_map<std::uintptr_t, Counts>* counts = nullptr;
inline thread_local std::uint64_t dice = 0, yield_of_1024 = 0, system_calls = 0;

inline Counts* count_change(const void* address) {
  if (!counts) return nullptr;
  dice = dice * 6364136223846793005ull + 1442695040888963407ull;
  if ((dice >> 54) < yield_of_1024) sched_yield();
  Counts& c = (*counts)[reinterpret_cast<std::uintptr_t>(address)];
  c.changes++;
  return &c;
}

template <class T>
struct Counted : std::atomic<T> {
  using std::atomic<T>::atomic;
  using Order = std::memory_order;
  static constexpr Order SEQ_ = std::memory_order_seq_cst;
  T operator=(T v) noexcept { return this->store(v), v; }
  void store(T v, Order o = SEQ_) noexcept {
    if (counts) (*counts)[reinterpret_cast<std::uintptr_t>(this)].stores++;
    super().store(v, o);
  }
  bool compare_exchange_strong(T& e, T v, Order o = SEQ_) noexcept {
    Counts* c = count_change(this);
    return swapped(std::atomic<T>::compare_exchange_strong(e, v, o), c);
  }
  bool compare_exchange_strong(T& e, T v, Order o, Order f) noexcept {
    Counts* c = count_change(this);
    return swapped(std::atomic<T>::compare_exchange_strong(e, v, o, f), c);
  }
  bool compare_exchange_weak(T& e, T v, Order o = SEQ_) noexcept {
    Counts* c = count_change(this);
    return swapped(std::atomic<T>::compare_exchange_weak(e, v, o), c);
  }
  T fetch_add(T v, Order o = SEQ_) noexcept { return count_change(this), super().fetch_add(v, o); }
  T fetch_sub(T v, Order o = SEQ_) noexcept { return count_change(this), super().fetch_sub(v, o); }
  T fetch_or(T v, Order o = SEQ_) noexcept { return count_change(this), super().fetch_or(v, o); }
  T fetch_and(T v, Order o = SEQ_) noexcept { return count_change(this), super().fetch_and(v, o); }
  T exchange(T v, Order o = SEQ_) noexcept { return count_change(this), super().exchange(v, o); }

 private:
  std::atomic<T>& super() { return *this; }
  static bool swapped(bool done, Counts* c) {
    if (!done && c) c->failed++;
    return done;
  }
};

}  // namespace shoal
