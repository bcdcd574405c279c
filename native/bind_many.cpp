// Values that have to be in memory together: those that one loads, and the returns of one task.
//
// Who has some of them and waits for room for the next keeps others from theirs: several could wait
// for each other. So one that gets no further lets go of all it has; which of them may wait beside
// what it has, is who has the *turn* (src/shoal/_runtime/turns.py decides).
//
// A return that is written and not sealed cannot leave memory. Who lets go of some has them still,
// or takes them back: the bytes become private, what they hold is held by refs.
#include "bindings.hpp"

namespace shoal {

static nb::list get_many(nb::handle self, nb::sequence refs, std::optional<double> timeout,
                         double patience_s) {
  PyMemory& pm = of(self);
  const u64 deadline = deadline_of(timeout);
  std::optional<Patient> patient;
  nb::list out;
  for (nb::handle h : refs) {
    if (!nb::isinstance<Ref>(h)) throw nb::type_error("not an ObjectRef");
    nb::object keep = nb::borrow(h);
    Ref& r = *nb::inst_ptr<Ref>(h);
    if (r.mem != &pm) throw nb::value_error("the ref belongs to another session");
    if (!wait_sealed(self, pm, r.key, deadline, true)) {
      PyErr_SetString(PyExc_TimeoutError, "not every value is there yet");
      throw nb::python_error();
    }
    if (out.size() == 1) patient.emplace(patience_s);
    out.append(load_slot(self, pm, key_slot(r.key), deadline));
  }
  return out;
}

static nb::list dependencies(PyTask& t, u32 first, u32 n, double patience_s) {
  std::optional<Patient> patient;
  nb::list out;
  for (u32 i = first; i < first + n; i++) {
    Spec* s = running_spec(t);
    if (i >= s->n_dependencies) throw nb::index_error("no such dependency");
    if (out.size() == 1) patient.emplace(patience_s);
    out.append(load_slot(t.owner, *t.mem, hold_slot(s->holds()[i].load(ACQ))));
  }
  return out;
}

static nb::bytes private_bytes(const u8* at, u64 size) {
  return nb::bytes(reinterpret_cast<const char*>(at), size);
}

// What was written into return `i`, as `write` takes it; nothing if it needs no room.
static nb::object take_back(PyTask& t, u32 i) {
  Memory& m = *t.mem->m;
  const u32 r = running_return(t, i);
  Slot& x = m.slot(r);
  const u64 block = x.block.load(ACQ);
  if (!block) return nb::none();
  auto* h = m.at<ValueHeader>(block);
  auto* table = reinterpret_cast<atom<u64>*>(h + 1);
  nb::list buffers, contained;
  for (u32 k = 0; k < h->n_contained; k++) {
    const u64 entry = table[k].load(ACQ);
    if (!entry || m.is_recipe(hold_slot(entry))) continue;  // `write` adds that of the task
    const u64 key = make_key(hold_slot(entry), m.slot(hold_slot(entry)).gen.load(ACQ));
    atom<u64>* record;
    if (!m.hold_key(key, false, record)) throw_status(Status::Gone, 0, m);
    contained.append(make_ref(t.owner, *t.mem, key, record));
  }
  const u8* base = reinterpret_cast<const u8*>(h);
  const u64* places = reinterpret_cast<const u64*>(table + h->n_contained);
  for (u32 k = 0; k < h->n_buffers; k++)
    buffers.append(private_bytes(base + places[2 * k], places[2 * k + 1]));
  nb::object out = nb::make_tuple(
      x.kind.load(RLX), private_bytes(base + h->data_offset, h->data_size), buffers, contained);
  m.discard_value(r);
  return out;
}

bool Turn::take() {
  u32 none = 0;
  return mine = mine || m.header().turn.compare_exchange_strong(none, m.me + 1, SEQ);
}

Turn::~Turn() {
  u32 me = m.me + 1;
  if (!mine || m.closed.load() || m.forked) return;
  if (is_served) m.header().served.fetch_add(1);
  if (m.header().turn.compare_exchange_strong(me, 0, SEQ)) platform::futex_wake(m.header().turn, 1);
}

// Whether the turn is mine; if it is another's, after a while.
static bool take_turn(nb::handle self, double timeout_s) {
  Memory& m = *of(self).m;
  atom<u32>& turn = m.header().turn;
  u32 other = 0;
  if (turn.compare_exchange_strong(other, m.me + 1, SEQ)) return true;
  {
    Awaiting awaiting(m);
    Unlocked unlocked;
    awaiting.say(WAITS_FOR_ROOM);
    // No time at all would be "for ever" there.
    platform::futex_wait(turn, other, 1 + u64(std::clamp(timeout_s, 0.0, 60.0) * 1e9));
  }
  check_signals();
  if (m.closed.load()) throw_closed();
  other = 0;
  return turn.compare_exchange_strong(other, m.me + 1, SEQ);
}

void bind_many(nb::class_<PyMemory>& c, nb::class_<PyTask>& task) {
  c.def("get_many", &get_many, nb::arg("refs"), nb::arg("timeout_s") = nb::none(),
        nb::arg("patience_s") = 0.5)
      .def("take_turn", &take_turn, nb::arg("timeout_s"))
      .def(
          "end_turn",
          [](nb::handle self, bool is_served) {
            Memory& m = *of(self).m;
            u32 mine = m.me + 1;
            if (is_served) m.header().served.fetch_add(1);
            if (m.header().turn.compare_exchange_strong(mine, 0, SEQ))
              platform::futex_wake(m.header().turn, 1);
          },
          nb::arg("is_served") = false)
      .def_prop_ro("served", [](nb::handle self) { return of(self).m->header().served.load(); });
  task.def_prop_ro("memory", [](PyTask& t) { return nb::borrow(t.owner); })
      .def("dependencies", &dependencies, nb::arg("first"), nb::arg("n"),
           nb::arg("patience_s") = 0.5)
      .def("take_back", &take_back, nb::arg("index"))
      .def(
          "discard",
          [](PyTask& t, u32 n) {
            for (u32 i = 0; i < n; i++) t.mem->m->discard_value(running_return(t, i));
          },
          nb::arg("n"));
}

}  // namespace shoal
