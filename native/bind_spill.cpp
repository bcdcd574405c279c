// Spilling in Python: what the daemon moves, and the wait of who wants a value back.
//
// The bytes that go to a file, and those that come from one, are buffers over node memory itself:
// the daemon's thread writes from and reads into them, and nothing is copied in between. Each keeps
// what it stands on (`Moving`): a ref of the daemon's, and on the way back the block that nobody
// else knows yet.
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>

#include "bindings.hpp"

namespace shoal {

static int moving_getbuffer(PyObject* self, Py_buffer* out, int flags) {
  Moving* v = nb::inst_ptr<Moving>(self);
  return PyBuffer_FillInfo(out, self, v->data, Py_ssize_t(v->size), v->aside == 0, flags);
}
static PyType_Slot moving_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(moving_getbuffer)},
                                     {0, nullptr}};

// So long no value has come back, and the daemon has not said that it reads one: there is no room.
static constexpr u64 RESTORE_PATIENCE = 15000000000ull;
static thread_local u64 patience = RESTORE_PATIENCE;

Patient::Patient(double seconds) : before(patience) { patience = u64(seconds * 1e9); }
Patient::~Patient() { patience = before; }

nb::object hold_value(nb::handle self, u64 key, bool pin) {
  PyMemory& pm = of(self);
  atom<u64>* record;
  if (!names_slot(key) || !pm.m->hold_key(key, pin, record)) return nb::none();
  nb::object o = nb::inst_alloc(nb::type<Moving>());
  Moving* v = new (nb::inst_ptr<Moving>(o)) Moving;
  nb::inst_mark_ready(o);
  v->mem = &pm;
  v->owner = self.inc_ref().ptr();
  v->record = record;
  v->s = key_slot(key);
  return o;
}

// Sleeps without the GIL; the pin of the caller is what the daemon comes back for.
u64 come_back(PyMemory& pm, u32 s, u64 until) {
  Memory& m = *pm.m;
  Slot& x = m.slot(s);
  Awaiting awaiting(m);
  std::atomic_thread_fence(SEQ);  // the pin first, then the block
  u32 before = 0;
  for (u64 deadline = 0;;) {
    const u32 seen = m.header().restored.load(SEQ);
    const u64 block = x.block.load(SEQ);
    if (!(block & SPILLED)) return block;
    if (m.me == 0) throw std::runtime_error("the daemon must not wait for a spilled value");
    const u64 now = platform::now_ns();
    if (!deadline || seen != before) deadline = now + patience;
    before = seen;
    // What is lost is made again, for as long as that takes; its own task says when it cannot be.
    // So it is with what another node has: the daemon says when it cannot be had.
    const bool is_lost = m.is_lost(s);
    if (is_lost || m.is_elsewhere(s)) deadline = now + patience;
    if (now >= deadline) throw_status(Status::Full, x.size.load(RLX), m);
    if (until && now >= until) {
      PyErr_SetString(PyExc_TimeoutError, "the value is not there yet");
      throw nb::python_error();
    }
    m.ask_back(s);
    awaiting.say(make_key(s, x.gen.load(RLX)));
    {
      SleepingOn registered(m, m.header().restored);
      Unlocked unlocked;
      // What makes it may need this very CPU. A disk does not: who took the CPU meanwhile would
      // mostly want the next value from the same disk, and so on, a process for each.
      if (is_lost) m.lend(true);
      m.sleep_on(m.header().restored, seen, until, 500000000);
      if (is_lost) m.lend(false);
    }
    if (m.closed.load()) throw_closed();
    if (is_main_thread()) check_signals();
  }
}

void bind_spilling(nb::module_& mod, nb::class_<PyMemory>& c) {
  bind_lineage(mod, c);
  bind_bridge(c);
  mod.def("punch_hole", &platform::punch);
  nb::class_<Moving>(mod, "Moving", nb::type_slots(moving_slots));
  c.def_prop_rw(
       "spills", [](PyMemory& p) { return p.m->header().spills.load(); },
       [](PyMemory& p, u32 level) { p.m->header().spills.store(level, SEQ); })
      .def("spillable",
           [](nb::handle self) {
             nb::list out;
             for (auto& u : of(self).m->list_spillable())
               out.append(std::make_tuple(u.extent, u.n_extents, u.keys, u.mark));
             return out;
           })
      .def("shortage", [](nb::handle self, u64 headroom) { return of(self).m->shortage(headroom); })
      .def("hollow_out", [](nb::handle self, u64 most) { of(self).m->hollow_out(most); })
      .def("offset_of",
           [](nb::handle self, nb::handle buffer) -> nb::object {
             Memory& m = *of(self).m;
             Buffers keep;
             const Bytes b = keep.add(buffer.ptr());
             const u8* at = static_cast<const u8*>(b.data);
             if (at < m.ro || at + b.size > m.ro + m.size) return nb::none();
             return nb::int_(u64(at - m.ro));
           })
      .def_prop_ro("inbox_overflows", [](nb::handle self) { return of(self).m->inbox_overflows; })
      .def("tell_restored", [](nb::handle self) { of(self).m->tell_restored(); })
      .def("answer_room", [](nb::handle self, bool given) { of(self).m->answer_room(given); })
      .def("begin_spill",
           [](nb::handle self, u64 key) -> nb::object {
             nb::object o = hold_value(self, key);
             if (o.is_none()) return o;
             Moving* v = nb::inst_ptr<Moving>(o);
             Memory& m = *v->mem->m;
             const u64 block = m.slot(v->s).block.load(ACQ);
             if (!m.may_spill(v->s, block)) return nb::none();
             v->data = m.ro + block;
             v->size = m.slot(v->s).size.load(RLX);
             return o;
           })
      .def("end_spill",
           [](nb::handle self, Moving& v, u64 number) { return of(self).m->spill(v.s, number); })
      .def("spilled",
           [](nb::handle self, u64 key) -> nb::object {
             PyMemory& pm = of(self);
             u64 number, size;
             if (!names_slot(key) || !pm.m->is_live(key) ||
                 !pm.m->spilled(key_slot(key), number, size))
               return nb::none();
             const u64 pins = (pm.m->slot(key_slot(key)).life.load(ACQ) & PINS) >> 24;
             return nb::make_tuple(number, size, pins);
           })
      .def("begin_restore",
           [](nb::handle self, u64 key) -> nb::object {
             nb::object o = hold_value(self, key);
             if (o.is_none()) return o;
             Moving* v = nb::inst_ptr<Moving>(o);
             Memory& m = *v->mem->m;
             u64 number, size, offset;
             if (!m.spilled(v->s, number, size)) return nb::none();
             m.spares_last = true;
             const Status st = m.block_aside(size, v->s, offset);
             m.spares_last = false;
             if (st == Status::NeedMemory && m.header().want.load(SEQ) < m.asked_extents)
               m.header().want.store(m.asked_extents, SEQ);
             if (st != Status::Ok) return nb::bool_(false);
             v->aside = offset;
             v->data = m.rw + offset;
             v->size = size;
             return o;
           })
      .def("end_restore",
           [](nb::handle self, Moving& v) {
             of(self);
             if (!v.aside) throw nb::value_error("nothing is restored here");
             v.mem->m->restore(v.s, v.aside);
             v.aside = 0;
           })
      .def("lose", [](nb::handle self, u64 key, nb::bytes record) {
        nb::object o = hold_value(self, key);
        if (o.is_none()) return false;
        Moving* v = nb::inst_ptr<Moving>(o);
        u64 number, size;
        if (!v->mem->m->spilled(v->s, number, size)) return false;
        v->mem->m->lose(v->s, {record.c_str(), record.size()});
        return true;
      });
}

}  // namespace shoal
