// Values that Python writes, and the wait of who writes where there is no room.
//
// A writer waits twice over. For memory that the daemon has to make (NeedMemory): as long as that
// takes, for a disk may be slow. For others to free some (Full): as long as the caller said, from
// the daemon's first no. The interpreter's lock is not held meanwhile, and signals are seen.
#include "bindings.hpp"

namespace shoal {

// Where others have to leave memory first, that is waited for; but a result comes before its
// recipe.
static constexpr u64 RECIPE_PATIENCE = 10000000000ull;
static u32 recipe_patiently(Memory& m, u64 task) {
  u32 recipe = m.recipe_for(task, true);
  for (u64 until = 0; recipe == Memory::NO_RECIPE_YET;) {
    const u64 now = platform::now_ns();
    if (!until) until = now + RECIPE_PATIENCE;
    Status st;
    {
      Unlocked unlocked;
      st = m.wait_memory(now + 2000000000ull);
    }
    check_signals();
    if (m.closed.load()) throw_closed();
    recipe = m.recipe_for(task, st == Status::Ok && now < until);
  }
  return recipe;
}

// Smaller results go home at once, and need no place for a recipe.
static constexpr u64 PLACE_LEAST = 8192;

void write_parts(PyMemory& pm, u32 s, int format, nb::handle data, nb::handle buffers,
                 nb::handle contained, bool reserve, double timeout_s, u64 task) {
  // The others are inline by their nature, and their readers rely on it: see write_simple.
  if (format < BYTES || format > ERROR_RECORD) throw nb::value_error("unknown format");
  Buffers keep;
  keep.views.reserve(1 + nb::len(buffers));
  ValueParts v;
  v.format = u8(format);
  v.data = keep.add(data.ptr());
  for (nb::handle b : buffers) v.buffers.push_back(keep.add(b.ptr()));
  for (nb::handle r : contained) {
    Ref& ref = nb::cast<Ref&>(r);
    if (ref.mem != &pm) throw nb::value_error("a ref of another session cannot be stored");
    v.contained.push_back(key_slot(ref.key));
  }
  u64 total = v.data.size + 8 * v.contained.size();
  for (auto& b : v.buffers) total += b.size;
  // Only what may leave memory can be lost, or what stays on this node, which runs it for another.
  if (task && !is_error(v.format)) {
    const Spec* spec = pm.m->spec(key_slot(task));
    if (spec && (spec->flags & F_PLACE)) {
      if (total >= PLACE_LEAST) v.contained.push_back(0);
    } else if (is_spillable(total + 4096)) {
      if (const u32 recipe = recipe_patiently(*pm.m, task)) v.contained.push_back(recipe);
    }
  }
  write_patiently(pm, s, v, reserve, timeout_s);
}

void write_patiently(PyMemory& pm, u32 s, const ValueParts& v, bool reserve, double timeout_s) {
  Memory& m = *pm.m;
  u64 total = v.data.size;
  for (auto& b : v.buffers) {
    total += b.size;  // a draft's size is any number: the sum must not wrap
    if (b.size > m.header().capacity) throw_status(Status::TooBig, b.size, m);
  }
  patiently(pm, total, timeout_s, [&] { return m.write_value(s, v, reserve, copy_without_gil); });
}

// So long an answer may take: values of others go to a disk meanwhile.
static constexpr u64 MEMORY_PATIENCE = 60000000000ull;

static constexpr u64 TURN_AFTER = 300000000ull;

void patiently(PyMemory& pm, u64 total, double timeout_s, const std::function<Status()>& step) {
  Memory& m = *pm.m;
  Awaiting awaiting(m);
  const u64 begun = platform::now_ns();
  const u64 deadline = begun + u64(std::min(1e8, std::max(0.0, timeout_s)) * 1e9);
  const u64 last = std::max(deadline, begun + MEMORY_PATIENCE);
  Turn turn(m);
  for (;;) {
    Status st = step();
    if (st == Status::Ok) {
      turn.is_served = true;
      return;
    }
    if (platform::now_ns() > begun + TURN_AFTER) turn.take();  // who loads values lets go then
    if (st == Status::NeedMemory) {
      // The daemon answers yes or no, in well under a second unless a slow disk has to take others
      // first; the caller's patience counts from its first no.
      {
        Unlocked unlocked;
        awaiting.say(WAITS_FOR_ROOM);
        st = m.wait_memory(std::max<u64>(deadline, platform::now_ns() + 2000000000ull));
      }
      check_signals();
      if (m.closed.load()) throw_closed();
      if (st == Status::Ok && platform::now_ns() < last) continue;
      if (st == Status::Ok) st = Status::Full;
    }
    if (!pm.guards.empty()) pm.release_guards();
    if (st == Status::Full && platform::now_ns() < deadline) {
      {
        Unlocked unlocked;
        awaiting.say(WAITS_FOR_ROOM);
        m.header().space_waiters.fetch_add(1);
        u32 seen = m.header().space.load(SEQ);
        platform::futex_wait(m.header().space, seen, 20000000);
        m.header().space_waiters.fetch_sub(1);
      }
      check_signals();
      if (m.closed.load()) throw_closed();
      continue;
    }
    throw_status(st, total, m);
  }
}

}  // namespace shoal
