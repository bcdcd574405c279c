// Pending slots and streams in Python.
#include "bindings.hpp"

namespace shoal {

u32 fresh_slot(Memory& m) {
  u32 s = m.new_slot(OWNER);
  if (!s) throw_status(Status::Full, 0, m);
  return s;
}

// One that is never sealed ends the wait of a process by something else, which a task cannot wait
// for as well.
void refuse_pending(Memory& m, const std::vector<u32>& slots) {
  for (u32 s : slots)
    if (m.is_pending(make_key(s, m.slot(s).gen.load(RLX))))
      throw nb::value_error("a pending slot is no argument of a task before it is sealed");
}

static nb::object new_pending(nb::handle self, u32 number) {
  PyMemory& pm = of(self);
  const u32 s = pm.m->new_pending(number);
  if (!s) throw_status(Status::Full, 0, *pm.m);
  return make_ref(self, pm, make_key(s, pm.m->slot(s).gen.load(RLX)), nullptr);
}

static Ref& ours(PyMemory& pm, Ref& r) {
  if (r.mem != &pm) throw nb::value_error("the ref belongs to another session");
  return r;
}

// Whatever an attempt that was killed had written there goes first.
static bool seal_pending(nb::handle self, Ref& r, int format, nb::handle data,
                         nb::handle contained) {
  PyMemory& pm = of(self);
  Memory& m = *pm.m;
  const u64 key = ours(pm, r).key;
  if (!m.is_pending(key)) return false;
  if (!data.is_none()) {
    m.discard_value(key_slot(key));
    write_parts(pm, key_slot(key), format, data, nb::make_tuple(), contained, true, 30.0);
    if (m.closed.load()) throw_closed();
    if (!m.is_pending(key)) return false;  // while another thread had its turn
  }
  m.seal_pending(key);
  return true;
}

void bind_pending(nb::class_<PyMemory>& memory, nb::class_<PyTask>& task) {
  bind_items(task);
  bind_many(memory, task);
  bind_images(task);
  memory.def("new_pending", &new_pending, nb::arg("number") = 0)
      .def("seal_pending", &seal_pending, nb::arg("ref"), nb::arg("format") = 0,
           nb::arg("data").none() = nb::none(), nb::arg("contained") = nb::make_tuple())
      .def("pending_number", [](nb::handle self, Ref& r) {
        PyMemory& pm = of(self);
        Slot& x = pm.m->slot(key_slot(ours(pm, r).key));
        return x.flags.load(ACQ) & IS_CELL ? x.queue.load(RLX) : 0;
      });
  task.def("stream",
           [](PyTask& t) -> nb::object {
             running_spec(t);
             Memory& m = *t.mem->m;
             const u32 s = m.stream_place(key_slot(t.key));
             if (!s) return nb::none();
             const u64 key = make_key(s, m.slot(s).gen.load(ACQ));
             atom<u64>* record;
             if (!m.hold_key(key, false, record)) throw_status(Status::Gone, 0, m);
             return make_ref(t.owner, *t.mem, key, record);
           })
      .def(
          "advance_stream",
          [](PyTask& t, Ref& cell) {
            running_spec(t);
            ours(*t.mem, cell);
            if (!t.mem->m->advance_stream(key_slot(t.key), key_slot(cell.key)))
              throw nb::value_error("this task is no stream");
          },
          nb::arg("cell"));
}

}  // namespace shoal
