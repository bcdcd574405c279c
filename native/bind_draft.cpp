// A draft: a value that is made where it will stay. Its bytes are allocated in node memory, Python
// fills them through a writable buffer, and sealing it copies nothing.
//
// Until it is sealed a draft is like a `put` that has not ended: the slot has an owner and is
// PENDING, nobody else can know it, and a death frees it. A sealed draft keeps a pin for as long as
// its buffer is exported, so that arrays over it never see other bytes than the value's.
#include "bindings.hpp"

namespace shoal {

struct Draft {
  PyMemory* mem = nullptr;
  PyObject* owner = nullptr;
  PyObject* pin = nullptr;  // once it is sealed
  u64 key = 0;
  u8* data = nullptr;
  u64 size = 0;
  Draft() = default;
  Draft(const Draft&) = delete;
  ~Draft() {
    if (!pin && mem && !mem->m->forked && !mem->m->closed.load(RLX))
      mem->m->clear_bits(key_slot(key), OWNER);
    Py_XDECREF(pin);
    Py_XDECREF(owner);
  }
};

static int draft_getbuffer(PyObject* self, Py_buffer* out, int flags) {
  Draft* d = nb::inst_ptr<Draft>(self);
  return PyBuffer_FillInfo(out, self, d->data, Py_ssize_t(d->size), d->pin != nullptr, flags);
}
static PyType_Slot draft_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(draft_getbuffer)},
                                    {0, nullptr}};

static nb::object make_draft(nb::handle self, nb::bytes pickle, u64 size, double timeout_s) {
  PyMemory& pm = of(self);
  Memory& m = *pm.m;
  const u32 s = m.new_slot(OWNER);
  if (!s) throw_status(Status::Full, size, m);
  nb::object o = nb::inst_alloc(nb::type<Draft>());
  Draft* d = new (nb::inst_ptr<Draft>(o)) Draft;
  nb::inst_mark_ready(o);
  d->mem = &pm;
  d->owner = self.inc_ref().ptr();
  d->key = make_key(s, m.slot(s).gen.load(RLX));  // from here on its end frees the slot
  ValueParts v;
  v.format = PICKLE;
  v.data = {pickle.c_str(), pickle.size()};
  v.buffers.push_back({nullptr, size});
  write_patiently(pm, s, v, false, timeout_s);
  if (m.closed.load()) throw_closed();
  auto* h = m.at<ValueHeader>(m.slot(s).block.load(RLX));
  auto* table = reinterpret_cast<const u64*>(h + 1);
  d->data = reinterpret_cast<u8*>(h) + table[0];
  d->size = size;
  return o;
}

static nb::object seal_draft(Draft& d) {
  if (d.pin) throw nb::value_error("this draft is sealed already");
  d.mem->usable();
  Memory& m = *d.mem->m;
  if (m.closed.load()) throw_closed();
  nb::object pin = make_pin(d.owner, *d.mem, key_slot(d.key), d.data, d.data + d.size);
  d.pin = pin.release().ptr();
  m.seal_mine(key_slot(d.key));
  return make_ref(d.owner, *d.mem, d.key, nullptr);
}

void bind_drafts(nb::module_& m, nb::class_<PyMemory>& memory) {
  nb::class_<Draft>(m, "Draft", nb::type_slots(draft_slots))
      .def_ro("key", &Draft::key)
      .def_prop_ro("is_sealed", [](Draft& d) { return d.pin != nullptr; })
      .def("seal", seal_draft);
  memory.def("draft", make_draft, nb::arg("pickle"), nb::arg("size_bytes"),
             nb::arg("timeout_s") = 0.0);
}

}  // namespace shoal
