// The Memory class in Python: submitting, taking, waiting for many, and what the daemon does.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "bindings.hpp"

namespace shoal {

static nb::object wrap(Memory* m) {
  nb::object o = nb::inst_alloc(nb::type<PyMemory>());
  PyMemory* p = new (nb::inst_ptr<PyMemory>(o)) PyMemory;
  nb::inst_mark_ready(o);
  p->m = m;
  register_memory(p);
  return o;
}

PyMemory& of(nb::handle self) {
  PyMemory& p = *nb::inst_ptr<PyMemory>(self);
  if (p.m->forked) p.usable();
  if (p.m->closed.load(RLX)) throw_closed();
  return p;
}

static void slots_of(PyMemory& pm, nb::handle refs, std::vector<u32>& out) {
  out.clear();
  if (refs.is_none()) return;
  for (nb::handle r : refs) {
    Ref& ref = nb::cast<Ref&>(r);
    if (ref.mem != &pm) throw nb::value_error("a ref of another session cannot be passed");
    out.push_back(key_slot(ref.key));
  }
}

// Key of the task that this thread or coroutine runs; 0: the actor itself, on a thread of its own.
static u64 current_task(PyMemory& pm) {
  PyObject* value = nullptr;
  if (PyContextVar_Get(pm.current.ptr(), nullptr, &value) != 0) throw nb::python_error();
  nb::object keep = nb::steal(value);
  return keep.is_valid() && nb::isinstance<PyTask>(keep) ? nb::inst_ptr<PyTask>(keep)->key : 0;
}

static nb::object submit(nb::handle self, const Call& call, nb::handle payload,
                         nb::handle dependencies, nb::handle contained) {
  PyMemory& pm = of(self);
  Memory& m = *pm.m;
  static thread_local std::vector<u32> deps, inner, returns;
  slots_of(pm, dependencies, deps);
  slots_of(pm, contained, inner);
  refuse_pending(m, deps);
  Bytes bytes;
  if (PyBytes_Check(payload.ptr()))
    bytes = {PyBytes_AS_STRING(payload.ptr()), u64(PyBytes_GET_SIZE(payload.ptr()))};
  Call c = call;
  if (!deps.empty()) c.flags |= F_FILLS;
  if (c.n_returns == 0) c.flags |= F_NO_RETURN;
  if (m.side_by_side) c.parent = current_task(pm);
  if ((c.flags & F_STREAM) && (inner.size() < 2 || c.n_returns != 1))
    throw nb::value_error("a stream has one return, and its first cell twice among its refs");
  const bool is_driver = m.proc(m.me).kind.load(RLX) == DRIVER;
  u64 patience = 0;
  for (;;) {
    if (m.queue(c.queue).gen.load(ACQ) != c.queue_gen) throw_status(Status::Gone, 0, m);
    Status st = m.submit(c, bytes, deps, inner, returns);
    if (st == Status::Ok) break;
    // The daemon waits for nobody: memory it has to make itself, and who calls it tries again.
    if (m.me == 0) throw_status(st, sizeof(Spec) + bytes.size, m);
    if (!patience) patience = platform::now_ns() + 30000000000ull;
    if (st == Status::NeedMemory) {
      Unlocked unlocked;
      st = m.wait_memory(std::min<u64>(patience, platform::now_ns() + 2000000000ull));
      if (st == Status::Ok) continue;
    }
    // A driver waits for room in the queue or the store; a worker must not (the room may depend on
    // itself).
    if ((st == Status::Pending && is_driver) ||
        (st == Status::Full && platform::now_ns() < patience)) {
      {
        Unlocked unlocked;
        platform::futex_wait(m.queue(c.queue).space, m.queue(c.queue).space.load(), 1000000);
      }
      check_signals();
      if (m.closed.load()) throw_closed();
      continue;
    }
    throw_status(st, sizeof(Spec) + bytes.size, m);
  }
  auto key = [&](u32 s) { return make_key(s, m.slot(s).gen.load(RLX)); };
  if (m.last_deadline || !deps.empty()) tell_submitted(pm, key(returns[0]), deps);
  if (c.n_returns == 1) return make_ref(self, pm, key(returns[0]), nullptr);
  if (c.n_returns == 0) {
    m.clear_bits(returns[0], OWNER);
    return nb::none();
  }
  nb::list out;
  for (u32 s : returns) out.append(make_ref(self, pm, key(s), nullptr));
  return out;
}

// Spin, then sleep on my completion word until it moves; with the GIL. False: the time is up.
static bool wait_completion(Memory& m, u32 seen, u64 deadline, bool main, Doubt& doubt) {
  Proc& r = m.proc(m.me);
  auto moved = [&] { return r.cdoor.load(ACQ) != seen; };
  if (m.spin(moved, 3000)) return true;
  Memory::Wait w;
  {
    SleepingOn registered(m, r.cdoor);
    Unlocked unlocked;
    const bool hit = m.spin_on(m.for_completion, moved);
    if (!hit) {
      m.lend(true);
      const u64 slice = main ? 500000000ull : 0;
      w = m.watched.empty() ? m.sleep_on(r.cdoor, seen, deadline, slice)
                            : m.doubt_on(r.cdoor, seen, deadline, slice, doubt);
      m.lend(false);
    }
    m.for_completion.ended(platform::now_ns());
    if (hit) return true;
  }
  if (w == Memory::Wait::Closed) throw_closed();
  if (main) check_signals();
  return w != Memory::Wait::Timeout;
}

// The first `n` of `refs` that are sealed, and the rest, in input order. Enough at once: n loads.
static nb::object wait_many(nb::handle self, nb::list list, u32 n, std::optional<double> timeout) {
  PyMemory& pm = of(self);
  Memory& m = *pm.m;
  // A copy: while we sleep, the caller's list may be changed by another thread or a signal.
  nb::list refs = nb::steal<nb::list>(PyList_GetSlice(list.ptr(), 0, PY_SSIZE_T_MAX));
  const size_t size = nb::len(refs);
  static thread_local std::vector<u32> seen_in;  // by slot: the call that saw it; finds doubles
  static thread_local u32 call = 0;
  std::vector<u64> keys;
  keys.reserve(size);
  if (++call == 0) {
    seen_in.assign(seen_in.size(), 0);
    call = 1;
  }
  PyTypeObject* type = reinterpret_cast<PyTypeObject*>(nb::type<Ref>().ptr());
  for (size_t i = 0; i < size; i++) {
    PyObject* o = PyList_GET_ITEM(refs.ptr(), Py_ssize_t(i));
    if (Py_TYPE(o) != type) throw nb::type_error(std::to_string(i).c_str());
    Ref& r = *nb::inst_ptr<Ref>(nb::handle(o));
    if (r.mem != &pm) throw nb::value_error("the ref belongs to another session");
    u32 s = key_slot(r.key);
    if (s >= seen_in.size()) seen_in.resize(s + SLOTS_PER_CHUNK);
    if (seen_in[s] == call) throw nb::index_error(std::to_string(i).c_str());
    seen_in[s] = call;
    keys.push_back(r.key);
  }
  auto sealed = [&](u64 key) { return m.is_ready(key); };
  const u64 deadline = deadline_of(timeout);
  const bool main = is_main_thread();
  n = std::min<u32>(n, u32(size));
  bool watching = false;
  Doubt doubt;
  Awaiting awaiting(m);
  for (;;) {
    const u32 seen = m.proc(m.me).cdoor.load(SEQ);
    u32 k = 0;
    for (size_t i = 0; i < size && k < n; i++) k += sealed(keys[i]);
    if (k >= n || (deadline && platform::now_ns() >= deadline)) break;
    if (!watching) {
      for (u64 key : keys)
        if (!sealed(key)) m.watch(key, 0);
      watching = true;
      continue;  // something may have been sealed before its watch was linked
    }
    awaiting.say_first(keys, sealed);
    wait_completion(m, seen, deadline, main, doubt);
    m.drain_completions();
  }
  nb::list ready, rest;
  u32 k = 0;
  for (size_t i = 0; i < size; i++) {
    nb::handle o = PyList_GET_ITEM(refs.ptr(), Py_ssize_t(i));
    if (k < n && sealed(keys[i])) {
      ready.append(o);
      k++;
    } else {
      rest.append(o);
    }
  }
  return nb::make_tuple(ready, rest);
}

static nb::object completions(nb::handle self, std::optional<double> timeout) {
  PyMemory& pm = of(self);
  Memory& m = *pm.m;
  const u64 deadline = deadline_of(timeout);
  Doubt doubt;
  for (;;) {
    const u32 seen = m.proc(m.me).cdoor.load(SEQ);
    m.drain_completions();
    if (!m.ready.empty() || pm.poked || (deadline && platform::now_ns() >= deadline)) {
      pm.poked = false;
      nb::list out;
      for (u64 t : m.ready) out.append(t);
      m.ready.clear();
      return out;
    }
    wait_completion(m, seen, deadline, is_main_thread(), doubt);
  }
}

// Sleep on my doorbell, with my idle bit set so that a push rings it. Without the GIL.
static Memory::Wait sleep_idle(Memory& m, u32 a, bool has, u64 deadline,
                               const std::function<bool()>& work) {
  Proc& r = m.proc(m.me);
  Queue* q = has ? &m.queue(a) : nullptr;
  const u32 word = m.me / 64;
  const u64 bit = 1ull << (m.me % 64);
  Memory::Wait w = Memory::Wait::Interrupted;
  if (has && m.header().starving.load(SEQ)) m.ring_daemon();
  const u32 seen = r.door.load(SEQ);
  r.sleeping.store(1, SEQ);  // before the bit: who sleeps without it was chosen (`ring_all`)
  if (has) q->idle[word].fetch_or(bit, SEQ);
  if (!work()) w = m.sleep_on(r.door, seen, deadline, 0);
  r.sleeping.store(0, SEQ);
  if (has) q->idle[word].fetch_and(~bit, SEQ);
  return w;
}

// Who may begin nothing looks again so often: the lease that was over is good again.
static constexpr u64 LAPSED_NAP = 50000000;
static u64 nap_until(u64 deadline) {
  const u64 soon = platform::now_ns() + LAPSED_NAP;
  return deadline ? std::min(deadline, soon) : soon;
}

static nb::object take(nb::handle self, std::optional<double> timeout) {
  PyMemory& pm = of(self);
  Memory& m = *pm.m;
  Proc& r = m.proc(m.me);
  const u64 deadline = deadline_of(timeout);
  u64 key, promised = 0;
  for (bool goes_on = r.depth.load(RLX) == 0;; goes_on = false) {
    const u32 a = r.assign.load(SEQ);
    const bool begins = m.may_begin(), has = a != 0 && a < QUEUES && begins;
    if (const u32 before = r.attached.load(RLX); a != before) {
      // Whoever pushed to the queue that is left may have counted on us: a promise, an idle bit.
      m.end_promise(before, promised);
      u64 h;
      u32 v;
      if (before != 0 && before < QUEUES && m.ring(before).peek(h, v)) m.wake(before);
      r.attached.store(a, SEQ);
      if (a == 0 || m.header().starving.load(SEQ)) m.ring_daemon();
      return nb::int_(a);
    }
    if (has && m.take(a, key, goes_on)) {
      if (m.for_task.begun) m.for_task.ended(platform::now_ns());
      return make_task(self, pm, key);
    }
    RingView ring = has ? m.ring(a) : RingView{r.completions, nullptr, 0};
    u64 h;
    u32 v;
    auto work = [&] {
      return r.assign.load(ACQ) != a || (has && (ring.peek(h, v) || m.queue(a).redo.load(ACQ))) ||
             m.closed.load(RLX);
    };
    if (has) m.promise(a, promised);
    bool hit = m.spin(work, 3000);
    if (!hit && !pm.guards.empty()) pm.release_guards();
    Memory::Wait w = Memory::Wait::Interrupted;
    if (!hit) {
      Unlocked unlocked;
      hit = has && m.spin_on(m.for_task, work);
      if (!hit) m.end_promise(a, promised);
      if (!hit) w = sleep_idle(m, a, has, begins ? deadline : nap_until(deadline), work);
    }
    if (m.closed.load(RLX) || w == Memory::Wait::Closed) throw_closed();
    check_signals();
    if (w != Memory::Wait::Timeout) continue;
    if (begins || (deadline && platform::now_ns() >= deadline)) return nb::none();
  }
}

// For processes that run several calls side by side: calls out of the `queues` (pairs of a queue
// and how many more of it may run), as soon as there are any; [] when the doorbell is no longer
// `seen`, or time is up. Who makes room rings that bell, so `seen` must be read before the room is
// counted.
static nb::object take_many(nb::handle self, nb::list queues, u32 seen,
                            std::optional<double> timeout) {
  PyMemory& pm = of(self);
  Memory& m = *pm.m;
  Proc& r = m.proc(m.me);
  std::vector<std::pair<u32, u32>> open;
  for (nb::handle pair : queues) {
    const auto [q, room] = nb::cast<std::pair<u32, u32>>(pair);
    if (room) open.emplace_back(queue_index(q), room);
  }
  const bool several = nb::len(queues) > 1;
  const u64 deadline = deadline_of(timeout);
  const u32 a = r.assign.load(SEQ);
  if (a != r.attached.load(RLX)) {
    r.attached.store(a, SEQ);
    if (a == 0 || m.header().starving.load(SEQ)) m.ring_daemon();
    return nb::int_(a);
  }
  nb::list out;
  const bool begins = m.may_begin();
  if (!begins) open.clear();
  u64 key;
  for (auto [q, room] : open)
    for (u32 i = 0; i < room && m.take(q, key); i++) out.append(make_task(self, pm, key));
  if (nb::len(out)) return out;
  u64 h;
  u32 v;
  auto work = [&] {
    if (r.door.load(ACQ) != seen || r.assign.load(ACQ) != a || m.closed.load(RLX)) return true;
    for (auto [q, room] : open)
      if (m.ring(q).peek(h, v) || m.queue(q).redo.load(ACQ)) return true;
    return false;
  };
  if (!pm.guards.empty()) pm.release_guards();
  {
    Unlocked unlocked;
    const u32 word = m.me / 64;
    const u64 bit = 1ull << (m.me % 64);
    if (!m.spin(work, 3000)) {
      r.sleeping.store(several ? 2 : 1, SEQ);  // before the bits, as in `sleep_idle`
      for (auto [q, room] : open) m.queue(q).idle[word].fetch_or(bit, SEQ);
      if (!work()) m.sleep_on(r.door, seen, begins ? deadline : nap_until(deadline), 0);
      r.sleeping.store(0, SEQ);
      for (auto [q, room] : open) m.queue(q).idle[word].fetch_and(~bit, SEQ);
    }
  }
  if (m.closed.load(RLX)) throw_closed();
  check_signals();
  return out;
}

// The spec of a task that this process runs. A Task object may outlive its attempt (it was
// committed, or the daemon has put it back): then its slot may be somebody else's, and nothing is
// touched.
Spec* running_spec(PyTask& t) {
  t.mem->usable();
  if (t.mem->m->closed.load(RLX)) throw_closed();
  Memory& m = *t.mem->m;
  const u64 c = m.slot(key_slot(t.key)).claim.load(ACQ);
  Spec* s = m.spec(key_slot(t.key));
  if (claim_state(c) != RUNNING || claim_worker(c) != m.me || claim_gen(c) != key_gen(t.key) ||
      claim_attempt(c) != t.attempt || !s)
    throw std::runtime_error("this attempt has ended");
  return s;
}
u32 running_return(PyTask& t, u32 i) {
  Spec* s = running_spec(t);
  if (i >= s->n_returns) throw nb::index_error("no such return");
  return key_slot(s->returns()[i]);
}
void commit_task(PyTask& t) {
  running_spec(t);
  Memory& m = *t.mem->m;
  if (m.mine[t.place].load(RLX) != t.key) throw std::runtime_error("this attempt has ended");
  if (!m.side_by_side && t.place + 1 != m.proc(m.me).depth.load(RLX))
    throw std::runtime_error("a task that runs inside this one has not ended");
  m.commit(t.key, t.place);
}
// The daemon has put the task back into its queue: it is no longer ours, perhaps even taken again.
void forget_task(PyTask& t) {
  t.mem->usable();
  if (t.mem->m->closed.load(RLX)) throw_closed();
  Memory& m = *t.mem->m;
  if (t.place >= m.proc(m.me).depth.load(RLX) || m.mine[t.place].load(RLX) != t.key)
    throw std::runtime_error("this attempt does not run here");
  const u64 c = m.slot(key_slot(t.key)).claim.load(ACQ);
  if (c == make_claim(key_gen(t.key), t.attempt, RUNNING, m.me))
    throw std::runtime_error("this attempt runs still");
  m.running_pop(t.place);
}

void bind_memory(nb::module_& mod, nb::class_<PyTask>& task) {
  nb::class_<Call>(mod, "Template")
      .def(
          "__init__",
          [](Call* c, u64 function, u32 queue, u32 queue_generation, u32 job, u32 method,
             u32 n_returns, i64 max_retries, u32 flags, u64 actor, u32 limit, double timeout_s,
             u32 actor_job) {
            if (queue == 0 || queue >= QUEUES) throw nb::value_error("no such queue");
            if (n_returns > 65535) throw nb::value_error("num_returns must be at most 65535");
            new (c) Call{function,    actor,
                         queue,       queue_generation,
                         job,         method,
                         n_returns,   flags,
                         max_retries, 0,
                         limit,       timeout_s > 0 ? u64(std::min(timeout_s, 1e8) * 1e9) : 0,
                         actor_job};
          },
          nb::kw_only(), nb::arg("function"), nb::arg("queue"), nb::arg("queue_generation"),
          nb::arg("job"), nb::arg("method") = 0, nb::arg("n_returns") = 1,
          nb::arg("max_retries") = 0, nb::arg("flags") = 0, nb::arg("actor") = 0,
          nb::arg("limit") = 0, nb::arg("timeout_s") = 0.0, nb::arg("actor_job") = 0);

  nb::class_<PyMemory> c(mod, "Memory");
  c.def_static(
       "create",
       [](u64 capacity, u32 cores, nb::bytes node, u32 max_extents) {
         u64 id = 0;
         if (capacity > 1ull << 46) throw nb::value_error("the capacity is more than 64 TiB");
         std::memcpy(&id, node.c_str(), std::min<size_t>(8, node.size()));
         return wrap(Memory::create(capacity, cores, id, max_extents));
       },
       nb::arg("capacity_bytes"), nb::arg("cores"), nb::arg("node_id"), nb::arg("max_extents") = 0)
      .def_static(
          "attach",
          [](int fd, int bell, u32 index) { return wrap(Memory::attach(fd, bell, index)); },
          nb::arg("fd"), nb::arg("eventfd"), nb::arg("index"))
      .def_prop_ro("fd", [](PyMemory& p) { return p.m->fd; })
      .def_prop_ro("eventfd", [](PyMemory& p) { return p.m->bell; })
      .def_prop_ro("index", [](PyMemory& p) { return p.m->me; })
      .def_prop_ro("capacity_bytes", [](nb::handle self) { return of(self).m->header().capacity; })
      .def_prop_ro("lookers", [](nb::handle self) { return of(self).m->lookers(); })
      .def_prop_ro("is_closed", [](PyMemory& p) { return p.m->closed.load(); })
      .def("close",
           [](PyMemory& p) {
             const bool first = !p.m->closed.load();
             p.m->close();
             if (!first || p.m->forked || p.m->me == 0) return;
             std::vector<std::pair<u64, u64>> keep;  // values that Python still looks at
             for (Pin* pin : p.pins)
               if (pin->end > pin->begin)
                 keep.emplace_back(reinterpret_cast<u64>(pin->begin),
                                   reinterpret_cast<u64>(pin->end));
             p.m->let_go(std::move(keep));
           })
      .def(
          "set_hooks",
          [](PyMemory& p, nb::object loads, nb::object error, nb::object help, nb::object future,
             nb::object wait, nb::object escaped, nb::object about, nb::object timed) {
            p.loads = loads;
            p.error = error;
            p.help = help;
            p.future = future;
            p.wait = wait;
            p.escaped = escaped;
            p.about = about;
            p.timed = timed;
          },
          nb::kw_only(), nb::arg("loads"), nb::arg("error"), nb::arg("help").none(),
          nb::arg("future"), nb::arg("wait"), nb::arg("escaped"), nb::arg("about") = nb::none(),
          nb::arg("timed") = nb::none())
      .def(
          "capture",
          [](PyMemory&, nb::object into) {
            if (!into.is_none() && !PyList_Check(into.ptr())) throw nb::type_error("not a list");
            nb::object before = context.capture ? nb::steal(context.capture) : nb::none();
            context.capture = into.is_none() ? nullptr : into.release().ptr();
            return before;
          },
          nb::arg("into").none())
      .def("restore_ref", [](PyMemory&, u32 index) { return restore_ref(index); })
      // ---- objects
      .def(
          "put_simple",
          [](nb::handle self, nb::handle v) -> nb::object {
            PyMemory& pm = of(self);
            u32 s = fresh_slot(*pm.m);
            if (!write_simple(*pm.m, s, v.ptr())) {
              pm.m->clear_bits(s, OWNER);
              return nb::none();
            }
            pm.m->seal_mine(s);
            return make_ref(self, pm, make_key(s, pm.m->slot(s).gen.load(RLX)), nullptr);
          },
          nb::arg("value").none())
      .def(
          "put",
          [](nb::handle self, int format, nb::handle data, nb::handle buffers, nb::handle contained,
             double timeout) {
            PyMemory& pm = of(self);
            u32 s = fresh_slot(*pm.m);
            try {
              write_parts(pm, s, format, data, buffers, contained, false, timeout);
            } catch (...) {
              if (!pm.m->closed.load()) pm.m->clear_bits(s, OWNER);
              throw;
            }
            if (pm.m->closed.load()) throw_closed();
            pm.m->seal_mine(s);
            return make_ref(self, pm, make_key(s, pm.m->slot(s).gen.load(RLX)), nullptr);
          },
          nb::arg("format"), nb::arg("data"), nb::arg("buffers"), nb::arg("contained"),
          nb::arg("timeout_s") = 0.0)
      .def(
          "get",
          [](nb::handle self, nb::handle ref, std::optional<double> timeout) {
            PyMemory& pm = of(self);
            if (!nb::isinstance<Ref>(ref)) throw nb::type_error("not an ObjectRef");
            Ref& r = *nb::inst_ptr<Ref>(ref);
            if (r.mem != &pm) throw nb::value_error("the ref belongs to another session");
            nb::object keep = nb::borrow(ref);
            const u64 deadline = deadline_of(timeout);
            if (!wait_sealed(self, pm, r.key, deadline, true)) {
              PyErr_SetString(PyExc_TimeoutError, "the value is not there yet");
              throw nb::python_error();
            }
            return load_slot(self, pm, key_slot(r.key), deadline);
          },
          nb::arg("ref"), nb::arg("timeout_s") = nb::none())
      .def("peek",
           [](nb::handle self, Ref& r) -> nb::object {
             PyMemory& pm = of(self);
             const u32 s = key_slot(r.key);
             const bool is_left = pm.m->is_given_up(s);
             if (!is_left && !((pm.m->slot(s).state.load(ACQ) & ~WAITERS) == SEALED &&
                               is_error(pm.m->slot(s).kind.load(RLX))))
               return nb::none();
             const Bytes b = is_left ? pm.m->given_up_record(r.key) : pm.m->value_bytes(s, true);
             const int format = is_left ? int(ERROR_RECORD) : int(pm.m->slot(s).kind.load(RLX));
             return nb::make_tuple(format, nb::bytes(static_cast<const char*>(b.data), b.size));
           })
      .def("wait", &wait_many, nb::arg("refs"), nb::arg("n"), nb::arg("timeout_s").none())
      .def(
          "watch",
          [](nb::handle self, Ref& r, u64 token) { return of(self).m->watch(r.key, token); },
          nb::arg("ref"), nb::arg("token"))
      .def("completions", &completions, nb::arg("timeout_s").none())
      .def("poke",
           [](nb::handle self) {
             PyMemory& pm = of(self);
             pm.poked = true;
             pm.m->proc(pm.m->me).cdoor.fetch_add(1, SEQ);
             platform::futex_wake(pm.m->proc(pm.m->me).cdoor);
           })
      .def("ref",
           [](nb::handle self, u64 key) -> nb::object {
             PyMemory& pm = of(self);
             atom<u64>* record;
             if (!names_slot(key) || !pm.m->hold_key(key, false, record)) return nb::none();
             return make_ref(self, pm, key, record);
           })
      .def("load_key",
           [](nb::handle self, u64 key) {
             PyMemory& pm = of(self);
             if (!names_slot(key) || !pm.m->is_live(key) ||
                 pm.m->slot(key_slot(key)).state.load(ACQ) == FREE)
               throw nb::key_error("the object is gone");
             if (!wait_sealed(self, pm, key, 0, false)) throw nb::key_error("the object is gone");
             return load_slot(self, pm, key_slot(key));
           })
      .def("submit", &submit, nb::arg("template"), nb::arg("payload").none(),
           nb::arg("dependencies").none() = nb::none(), nb::arg("contained").none() = nb::none())
      .def("is_queue_dead",
           [](nb::handle self, u32 q, u32 gen) {
             Memory& m = *of(self).m;
             if (q >= QUEUES) return true;
             return m.queue(q).gen.load() != gen || m.queue(q).dead.load() != 0;
           })
      .def("take", &take, nb::arg("timeout_s") = nb::none())
      .def("claim",
           [](nb::handle self, u64 key) -> nb::object {
             PyMemory& pm = of(self);
             return pm.m->may_begin() && names_slot(key) && pm.m->claim(key)
                        ? make_task(self, pm, key)
                        : nb::none();
           })
      .def("unsealed",
           [](nb::handle self, const std::vector<u64>& keys) {
             Memory& m = *of(self).m;
             nb::list out;
             for (u64 key : keys)
               if (names_slot(key) && m.is_live(key) &&
                   (m.slot(key_slot(key)).state.load(ACQ) & ~WAITERS) == PENDING)
                 out.append(key);
             return out;
           })
      .def(
          "run_side_by_side",
          [](nb::handle self, nb::object current) {
            PyMemory& pm = of(self);
            if (!PyContextVar_CheckExact(current.ptr())) throw nb::type_error("no ContextVar");
            pm.current = current;
            pm.m->left_places.reserve(RUNNING_MAX);
            pm.m->current = [&pm] { return current_task(pm); };
            pm.m->side_by_side = true;
          },
          nb::arg("current"))
      .def_prop_ro("door",
                   [](nb::handle self) {
                     PyMemory& pm = of(self);
                     return pm.m->proc(pm.m->me).door.load(SEQ);
                   })
      .def("take_many", &take_many, nb::arg("queues"), nb::arg("seen"),
           nb::arg("timeout_s") = nb::none());
  bind_daemon(mod, c);
  bind_drafts(mod, c);
  bind_blocks(mod, c);
  bind_channels(mod, c);
  bind_pending(c, task);
}

}  // namespace shoal
