// What native code raises in Python: its own errors, and those that are the value of an object.
#include "bindings.hpp"

namespace shoal {

void throw_closed() {
  PyErr_SetString(session_lost, "the session of this object has ended");
  throw nb::python_error();
}
void throw_status(Status st, u64 asked, const Memory& m) {
  if (st == Status::Pending) {
    PyErr_SetString(pending_error, "too many pending tasks in this queue");
  } else if (st == Status::Gone && m.closed.load()) {
    throw_closed();
  } else {
    const char* kind = st == Status::TooBig ? "larger than the store"
                       : st == Status::Gone ? "hold"
                                            : "full";
    nb::tuple args = nb::make_tuple(asked, const_cast<Memory&>(m).header().capacity, kind);
    PyErr_SetObject(full_error, args.ptr());
  }
  throw nb::python_error();
}
void raise_value(nb::handle memory, PyMemory& pm, u32 s) {
  Memory& m = *pm.m;
  Bytes b = m.value_bytes(s, true);
  u64 key = make_key(s, m.slot(s).gen.load(ACQ));
  atom<u64>* record = nullptr;
  nb::object ref = nb::none();
  if (m.hold_key(key, false, record)) ref = make_ref(memory, pm, key, record);
  nb::bytes data(static_cast<const char*>(b.data), b.size);
  nb::object e = pm.error(int(m.slot(s).kind.load(RLX)), data, ref);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(e.ptr())), e.ptr());
  throw nb::python_error();
}

// A call that was cancelled while it runs (its actor is not ended for it): its waiters go on.
void raise_given_up(nb::handle memory, PyMemory& pm, u64 key) {
  const Bytes b = pm.m->given_up_record(key);
  atom<u64>* record = nullptr;
  nb::object ref = nb::none();
  if (pm.m->hold_key(key, false, record)) ref = make_ref(memory, pm, key, record);
  nb::bytes data(static_cast<const char*>(b.data), b.size);
  nb::object e = pm.error(int(ERROR_RECORD), data, ref);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(e.ptr())), e.ptr());
  throw nb::python_error();
}

// A task with a deadline was submitted: the hook tells whoever watches it; -1: it waits for a call
// that was given up.
void tell_submitted(PyMemory& pm, u64 key, const std::vector<u32>& dependencies) {
  const u64 deadline = pm.m->last_deadline;
  if (!pm.timed.is_valid() || pm.timed.is_none()) return;
  // Looked at after the task is there: else whoever gives the call up finds it.
  for (u32 d : dependencies)
    if (pm.m->is_given_up(d)) {
      pm.timed(key, -1.0);
      return;
    }
  if (!deadline) return;
  const u64 now = platform::now_ns();
  pm.timed(key, deadline > now ? double(deadline - now) / 1e9 : 0.0);
}

}  // namespace shoal
