// Values and refs as Python objects: loading, waiting for one. Writing: bind_write.cpp.
#include <cstring>

#include "bindings.hpp"

namespace shoal {

thread_local Context context;

PyMemory::~PyMemory() {
  forget_memory(this);
  delete m;
}

Py_ssize_t Ref::place = 0;

// Weak references without the garbage collector: a ref is in no cycle that Python could see, and
// with nanobind's own support every thousand refs cost 20 % more for being looked at. So the list
// of weak references is kept here.
static void allow_weak_references(nb::handle type) {
  nb::object o = nb::inst_alloc(type);
  Ref* r = new (nb::inst_ptr<Ref>(o)) Ref;
  nb::inst_mark_ready(o);
  Ref::place = reinterpret_cast<char*>(r) - reinterpret_cast<char*>(o.ptr());
  reinterpret_cast<PyTypeObject*>(type.ptr())->tp_weaklistoffset =
      Ref::place + Py_ssize_t(offsetof(Ref, weak_list));
}

Ref::~Ref() {
  if (weak_list)
    PyObject_ClearWeakRefs(reinterpret_cast<PyObject*>(reinterpret_cast<char*>(this) - place));
  if (mem && !mem->m->forked && !mem->m->closed.load(RLX) && key) {
    if (record)
      mem->m->drop(record);
    else
      mem->m->clear_bits(key_slot(key), OWNER);
  }
  Py_XDECREF(owner);
}

Pin::~Pin() {
  if (mem && !mem->m->forked) {
    mem->pins.erase(this);
    if (!mem->m->closed.load(RLX)) {
      mem->let_go(kept);
      kept.channel = nullptr;
      if (!mem->guards.empty()) mem->release_guards();
    } else if (mem->m->me != 0) {
      // A private copy made by close(): give back its whole pages (others may share its first and
      // last).
      auto b = (reinterpret_cast<u64>(begin) + 4095) & ~4095ull;
      auto e = reinterpret_cast<u64>(end) & ~4095ull;
      if (e > b) platform::blank(reinterpret_cast<void*>(b), e - b);
    }
  }
  Py_XDECREF(kept.channel);
  Py_XDECREF(owner);
}

bool is_main_thread() {
  static const unsigned long main = [] {
    nb::object t = nb::module_::import_("threading").attr("main_thread")().attr("ident");
    return nb::cast<unsigned long>(t);
  }();
  return PyThread_get_thread_ident() == main;
}

void check_signals() {
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
}
u64 deadline_of(const std::optional<double>& timeout_s) {
  if (!timeout_s) return 0;
  if (*timeout_s != *timeout_s) throw nb::value_error("the timeout is not a number");
  double t = *timeout_s < 0 ? 0 : *timeout_s > 1e8 ? 1e8 : *timeout_s;
  return platform::now_ns() + std::max<u64>(1, u64(t * 1e9));
}

nb::object make_ref(nb::handle memory, PyMemory& pm, u64 key, atom<u64>* record) {
  nb::object o = nb::inst_alloc(nb::type<Ref>());
  Ref* r = new (nb::inst_ptr<Ref>(o)) Ref;
  nb::inst_mark_ready(o);
  r->mem = &pm;
  r->owner = memory.inc_ref().ptr();
  r->key = key;
  r->record = record;
  return o;
}

// ---- writing

bool write_simple(Memory& m, u32 s, PyObject* v) {
  Simple x;
  if (!simple_parts(v, x)) return false;
  m.write_inline(s, x.format, x.data.data, u32(x.data.size));
  return true;
}

// ---- loading

nb::object make_pin(nb::handle memory, PyMemory& pm, u32 s, u8* begin, u8* end) {
  Kept kept;
  if (!pm.m->hold_key(make_key(s, pm.m->slot(s).gen.load(ACQ)), true, kept.record))
    throw_status(Status::Gone, 0, *pm.m);
  return make_pin(memory, pm, kept, begin, end);
}

nb::object make_pin(nb::handle memory, PyMemory& pm, const Kept& kept, u8* begin, u8* end) {
  nb::object pin = nb::inst_alloc(nb::type<Pin>());
  Pin* p = new (nb::inst_ptr<Pin>(pin)) Pin;
  nb::inst_mark_ready(pin);
  p->mem = &pm;
  p->owner = memory.inc_ref().ptr();
  p->kept = kept;
  p->kept.number = ++pm.pin_count;
  p->begin = begin;
  p->end = end;
  pm.pins.insert(p);
  return pin;
}

nb::object make_view(nb::handle pin, const u8* data, u64 size) {
  nb::object view = nb::inst_alloc(nb::type<View>());
  View* w = new (nb::inst_ptr<View>(view)) View;
  nb::inst_mark_ready(view);
  w->pin = pin.inc_ref().ptr();
  w->data = const_cast<u8*>(data);
  w->size = size;
  return view;
}

static PyObject* loads(PyMemory& pm, nb::handle data, nb::handle buffers) {
  PyObject* args[2] = {data.ptr(), buffers.ptr()};
  if (!buffers.is_valid()) return PyObject_Vectorcall(pm.loads.ptr(), args, 1, nullptr);
  nb::tuple names = nb::make_tuple("buffers");
  return PyObject_Vectorcall(pm.loads.ptr(), args, 1, names.ptr());
}

static nb::object load_pickle(nb::handle memory, PyMemory& pm, u32 s, Bytes data, ValueHeader* h,
                              u64 block, nb::object pin) {
  Memory& m = *pm.m;
  nb::object mv = nb::steal(PyMemoryView_FromMemory(
      const_cast<char*>(static_cast<const char*>(data.data)), Py_ssize_t(data.size), PyBUF_READ));
  nb::list views;
  if (h && h->n_buffers) {
    if (!pm.guards.empty()) pm.release_guards();
    if (!pin.is_valid()) pin = make_pin(memory, pm, s, m.ro + block, m.ro + block);
    Pin* p = nb::inst_ptr<Pin>(pin);
    p->begin = m.ro + block;
    auto* table =
        reinterpret_cast<const u64*>(reinterpret_cast<const atom<u64>*>(h + 1) + h->n_contained);
    for (u32 i = 0; i < h->n_buffers; i++) {
      const u8* data = m.ro + block + table[2 * i];
      p->end = const_cast<u8*>(data) + table[2 * i + 1];
      views.append(make_view(pin, data, table[2 * i + 1]));
    }
  }
  Context before = context;
  context.mem = &pm;
  context.owner = memory.ptr();
  context.table = h ? reinterpret_cast<atom<u64>*>(h + 1) : nullptr;
  context.n = h ? h->n_contained : 0;
  PyObject* result = loads(pm, mv, h && h->n_buffers ? views.ptr() : nullptr);
  before.capture = context.capture;
  context = before;
  if (!result) throw nb::python_error();
  return nb::steal(result);
}

nb::object call_loads(PyMemory& pm, nb::handle data, nb::handle buffers) {
  const Context before = context;  // no refs by number: messages with refs are carried
  context = Context{before.capture, nullptr, nullptr, nullptr, 0};
  PyObject* result = loads(pm, data, buffers);
  const auto capture = context.capture;
  context = before;
  context.capture = capture;
  if (!result) throw nb::python_error();
  return nb::steal(result);
}

nb::object load_slot(nb::handle memory, PyMemory& pm, u32 s, u64 deadline) {
  Memory& m = *pm.m;
  Slot& x = m.slot(s);
  const u8* in = x.inline_bytes;
  const u64 size = x.size.load(ACQ);  // first: a value that is lost gets another, then its block
  u64 block = x.block.load(ACQ);
  nb::object pin;
  if (block && (is_spillable(size) || (block & SPILLED))) {
    pin = make_pin(memory, pm, s, m.ro, m.ro);
    block = come_back(pm, s, deadline);
  }
  const u8 kind = x.kind.load(RLX);  // an error by now, if the value was lost
  switch (kind) {
    case NONE:
    case TRUE_:
    case FALSE_:
    case INT:
    case FLOAT:
      return load_simple(kind, in, x.size.load(RLX));
    case STR:
    case BYTES: {
      const Bytes b = block ? m.data_in(block, true) : m.value_bytes(s, true);
      return load_simple(kind, b.data, b.size);
    }
    case PICKLE: {
      Bytes b = block ? m.data_in(block, true) : m.value_bytes(s, true);
      if (!block) b.data = m.ro + (reinterpret_cast<u8*>(const_cast<void*>(b.data)) - m.rw);
      return load_pickle(memory, pm, s, b,
                         block ? reinterpret_cast<ValueHeader*>(m.ro + block) : nullptr, block,
                         std::move(pin));
    }
    default:
      raise_value(memory, pm, s);
  }
}

// Only of a small value: the table of one that may leave for a file moves.
void begin_loading(nb::handle memory, PyMemory& pm, nb::handle ref) {
  if (!nb::isinstance<Ref>(ref)) throw nb::type_error("not an ObjectRef");
  const Ref& r = *nb::inst_ptr<Ref>(ref);
  if (r.mem != &pm) throw nb::value_error("the ref belongs to another session");
  Slot& x = pm.m->slot(key_slot(r.key));
  if ((x.state.load(ACQ) & ~WAITERS) != SEALED || is_spillable(x.size.load(ACQ)))
    throw nb::value_error("not a small value that is there");
  const bool has_table = x.flags.load(ACQ) & HAS_TABLE;
  const u64 block = has_table ? block_of(x.block.load(ACQ)) : 0;
  auto* h = block ? reinterpret_cast<ValueHeader*>(pm.m->ro + block) : nullptr;
  end_loading();
  context.keep = ref.inc_ref().ptr();
  context.mem = &pm;
  context.owner = memory.ptr();
  context.table = h ? reinterpret_cast<atom<u64>*>(h + 1) : nullptr;
  context.n = h ? h->n_contained : 0;
}

void end_loading() {
  context.mem = nullptr;
  context.table = nullptr;
  context.n = 0;
  Py_CLEAR(context.keep);
}

nb::object restore_ref(u32 index) {
  if (!context.mem || !context.table || index >= context.n)
    throw std::runtime_error("a pickled ref was loaded outside of the value that names it");
  PyMemory& pm = *context.mem;
  u64 e = context.table[index].load(ACQ);
  if (!e) throw std::runtime_error("the table of refs of this value is damaged");
  u32 s = hold_slot(e);
  u64 key = make_key(s, pm.m->slot(s).gen.load(ACQ));
  atom<u64>* record;
  if (!pm.m->hold_key(key, false, record)) throw_status(Status::Gone, 0, *pm.m);
  return make_ref(context.owner, pm, key, record);
}

// ---- waiting for one slot

bool wait_sealed(nb::handle memory, PyMemory& pm, u64 key, u64 deadline, bool may_help) {
  Memory& m = *pm.m;
  const u32 s = key_slot(key), gen = key_gen(key);
  Slot& x = m.slot(s);
  auto sealed = [&] { return (x.state.load(ACQ) & ~WAITERS) == SEALED; };
  if (sealed()) return true;
  const bool main = is_main_thread();
  const bool helps = may_help && main && !deadline && pm.help.is_valid() && !pm.help.is_none();
  bool spun = false, lent = false;
  Doubt doubt;
  Awaiting awaiting(m);
  auto finish = [&](bool r) {
    if (lent) m.lend(false);
    if (spun) m.for_value.ended(platform::now_ns());
    return r;
  };
  for (;;) {
    if (x.flags.load(ACQ) & GIVEN_UP) {
      finish(false);
      raise_given_up(memory, pm, key);
    }
    if (helps) {
      if (u64 k = m.helpable(s)) {
        if (m.may_begin() && m.claim(k)) {
          if (lent) m.lend(false);
          lent = false;
          pm.help(make_task(memory, pm, k));
          if (sealed()) return true;
          continue;
        }
      }
    }
    if (!spun && m.spin(sealed, 3000)) return finish(true);
    Memory::Wait r;
    {
      SleepingOn registered(m, x.state);
      Unlocked unlocked;
      if (!spun) {
        spun = true;
        if (m.spin_on(m.for_value, sealed)) return finish(true);
      }
      // The first millisecond is not worth a grant; after it the CPU is lent.
      u64 slice = lent ? (main ? 500000000ull : 0) : 1000000ull;
      if (m.proc(m.me).depth.load(RLX) == 0) slice = main ? 500000000ull : 0;
      awaiting.say(key);
      r = m.wait_slot(s, gen, deadline, slice, doubt);
    }
    if (sealed()) return finish(true);
    if (r == Memory::Wait::Closed) throw_closed();
    if (r == Memory::Wait::Timeout) return finish(false);
    if (!lent && r != Memory::Wait::Doubted && m.proc(m.me).depth.load(RLX)) {
      lent = true;
      m.lend(true);
    }
    if (main) {
      try {
        check_signals();
      } catch (...) {
        finish(false);
        throw;
      }
    }
  }
}

nb::object make_task(nb::handle memory, PyMemory& pm, u64 key) {
  Memory& m = *pm.m;
  const u32 s = key_slot(key);
  Spec* t = m.spec(s);
  if (!t) throw std::runtime_error("a claimed task has no spec");
  nb::object o = nb::inst_alloc(nb::type<PyTask>());
  PyTask* x = new (nb::inst_ptr<PyTask>(o)) PyTask;
  nb::inst_mark_ready(o);
  x->mem = &pm;
  x->owner = memory.inc_ref().ptr();
  x->key = x->first = key;
  if (t->flags & F_REBUILD) x->first = m.first_of(*t, key);
  x->function = t->flags & F_ACTOR ? 0 : t->function;
  x->actor = t->callee();
  x->caller = t->caller();
  x->parent = t->parent;
  x->method = t->method;
  x->attempt = claim_attempt(m.slot(s).claim.load(RLX));
  x->n_returns = t->flags & F_NO_RETURN ? 0 : t->n_returns;
  x->flags = t->flags;
  x->job = t->job;
  x->queue = t->queue;
  x->n_dependencies = t->n_dependencies;
  x->place = m.claimed_place;
  x->limit = t->limit;
  x->max_retries = t->max_retries;
  if (t->flags & F_TIMED) t->times()->taken.store(platform::now_ns(), RLX);
  return o;
}

// ---- classes

static PyObject* reduce_restore = nullptr;

static PyObject* restore_function(PyObject*, PyObject* arg) {
  try {
    return restore_ref(u32(PyLong_AsUnsignedLong(arg))).release().ptr();
  } catch (nb::python_error& e) {
    e.restore();
  } catch (std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  }
  return nullptr;
}
static PyMethodDef restore_def = {
    "_restore_ref", restore_function, METH_O,
    "Called by pickles: the ref at this place of the table of what is being loaded."};

static int view_getbuffer(PyObject* self, Py_buffer* out, int flags) {
  View* v = nb::inst_ptr<View>(self);
  return PyBuffer_FillInfo(out, self, v->data, Py_ssize_t(v->size), 1, flags);
}
static PyType_Slot view_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(view_getbuffer)},
                                   {0, nullptr}};

// As people read numbers: highest byte first.
static u8* put_number(u8* out, u64 number, int bytes) {
  for (int i = bytes; i-- > 0; number >>= 8) out[i] = u8(number);
  return out + bytes;
}

// The id, drawn in `_base/typed_ids.py`. What is not in the key stands in node memory, and is gone
// with it: closed is looked at last.
static void write_id(nb::handle self, u8* out) {
  Ref& r = nb::cast<Ref&>(self);
  r.mem->usable();
  Ancestry from{};
  if (!r.mem->m->closed.load(ACQ) && r.mem->m->foreign_id(r.key, out)) return;
  if (!r.mem->m->closed.load(ACQ)) r.mem->m->ancestry(r.key, from);
  if (r.mem->m->closed.load(ACQ)) {
    if (r.mem->about.is_valid() && !r.mem->about.is_none()) r.mem->about(self, "ended");
    throw_closed();
  }
  out = put_number(out, from.task ? from.task : ~0ull, 8);
  std::memcpy(out, &r.mem->m->node_id, 4);
  out = put_number(out + 4, from.actor ? from.actor : ~0ull, 8);
  out = put_number(out, from.job, 4);
  put_number(out, r.key | u64(from.index) << 22, 8);
}

nb::class_<PyTask> bind_values(nb::module_& m) {
  reduce_restore =
      PyCFunction_NewEx(&restore_def, nullptr, nb::str("shoal._native").release().ptr());
  m.attr("_restore_ref") = nb::borrow(reduce_restore);
  nb::class_<Pin>(m, "_Pin");
  nb::class_<View>(m, "_View", nb::type_slots(view_slots));

  nb::class_<Ref> ref(m, "ObjectRef", nb::is_generic(), "A counted handle to one object.");
  ref.def_prop_ro("key", [](Ref& r) { return r.key; })
      .def_prop_ro("memory", [](Ref& r) { return nb::borrow(r.owner); })
      .def("binary",
           [](nb::object self) {
             u8 b[ID_BYTES];
             write_id(self, b);
             return nb::bytes(b, ID_BYTES);
           })
      .def("hex",
           [](nb::object self) {
             u8 b[ID_BYTES];
             write_id(self, b);
             char t[2 * ID_BYTES + 1];
             for (int i = 0; i < ID_BYTES; i++) snprintf(t + 2 * i, 3, "%02x", b[i]);
             return nb::str(t);
           })
      .def("is_sealed",
           [](Ref& r) {
             r.mem->usable();
             return r.mem->m->is_ready(r.key);
           })
      .def("__await__", [](nb::object self) { return nb::cast<Ref&>(self).mem->wait(self); })
      .def("future", [](nb::object self) { return nb::cast<Ref&>(self).mem->future(self); })
      .def("__reduce__",
           [](nb::object self) -> nb::object {
             Ref& r = nb::cast<Ref&>(self);
             if (!context.capture) return nb::cast<nb::object>(r.mem->escaped(self));
             Py_ssize_t n = PyList_GET_SIZE(context.capture);
             if (PyList_Append(context.capture, self.ptr()) != 0) throw nb::python_error();
             return nb::make_tuple(nb::borrow(reduce_restore), nb::make_tuple(n));
           })
      .def("__hash__", [](Ref& r) { return Py_hash_t((r.key * 0x9e3779b97f4a7c15ull) >> 2); })
      .def(
          "__eq__",
          [](Ref& r, nb::object other) {
            return nb::isinstance<Ref>(other) && nb::cast<Ref&>(other).key == r.key &&
                   nb::cast<Ref&>(other).mem == r.mem;
          },
          nb::arg("other").none())
      .def("__repr__", [](nb::object self) -> nb::object {
        Ref& r = nb::cast<Ref&>(self);
        const PyMemory& pm = *r.mem;
        if (pm.m->forked || pm.m->closed.load(ACQ))
          return nb::str("ObjectRef(of a session that is not here any more)");
        return nb::str("ObjectRef(") + self.attr("hex")() + nb::str(")");
      });
  for (const char* name : {"as_future", "task_id", "job_id", "call_site"})
    ref.def(name, [name](nb::object self) { return nb::cast<Ref&>(self).mem->about(self, name); });
  allow_weak_references(nb::type<Ref>());

  nb::class_<PyTask> task(m, "Task");
  task.def_ro("key", &PyTask::key)
      .def_ro("first", &PyTask::first)
      .def_ro("function", &PyTask::function)
      .def_ro("method", &PyTask::method)
      .def_ro("attempt", &PyTask::attempt)
      .def_ro("n_returns", &PyTask::n_returns)
      .def_ro("max_retries", &PyTask::max_retries)
      .def_ro("flags", &PyTask::flags)
      .def_ro("job", &PyTask::job)
      .def_ro("queue", &PyTask::queue)
      .def_ro("actor", &PyTask::actor)
      .def_ro("caller", &PyTask::caller)
      .def_ro("parent", &PyTask::parent)
      .def_ro("n_dependencies", &PyTask::n_dependencies)
      .def_ro("limit", &PyTask::limit)
      .def_prop_ro("returns",
                   [](PyTask& t) {
                     Spec* s = running_spec(t);
                     nb::list out;
                     for (u32 i = 0; i < s->n_returns; i++) out.append(s->returns()[i]);
                     return out;
                   })
      .def_prop_ro("charged", [](PyTask& t) { return running_spec(t)->charged.load(RLX); })
      .def_prop_ro("left_s",
                   [](PyTask& t) {
                     Spec* s = running_spec(t);
                     if (!(s->flags & F_TIMED)) return -1.0;
                     const u64 now = platform::now_ns(), deadline = s->times()->deadline;
                     return deadline > now ? double(deadline - now) / 1e9 : 0.0;
                   })
      .def_prop_ro("ending",
                   [](PyTask& t) -> nb::object {
                     Memory& mem = *t.mem->m;
                     running_spec(t);
                     if (!(mem.slot(key_slot(t.key)).flags.load(ACQ) & CANCELLED_))
                       return nb::none();
                     const Bytes b = mem.given_up_record(t.key);
                     return nb::bytes(static_cast<const char*>(b.data), b.size);
                   })
      .def("payload",
           [](PyTask& t) -> nb::object {
             Memory& mem = *t.mem->m;
             Spec* s = running_spec(t);
             if (!s->payload_size) return nb::none();
             u8* p = mem.ro + (reinterpret_cast<u8*>(s) - mem.rw) + s->payload_offset;
             return nb::steal(PyMemoryView_FromMemory(reinterpret_cast<char*>(p),
                                                      Py_ssize_t(s->payload_size), PyBUF_READ));
           })
      .def("loading",
           [](PyTask& t) {
             Spec* s = running_spec(t);
             context.mem = t.mem;
             context.owner = t.owner;
             context.table = s->holds() + s->n_dependencies;
             context.n = s->n_contained;
           })
      .def("loaded", [](PyTask&) { end_loading(); })
      .def(
          "seal",
          [](PyTask& t, nb::handle v) {
            running_spec(t);
            if (t.n_returns > 1 || (t.flags & (F_STREAM | F_DYNAMIC | F_ITEMS)) ||
                (t.mem->m->slot(key_slot(t.key)).flags.load(RLX) & CANCELLED_) ||
                !write_simple(*t.mem->m, key_slot(t.key), v.ptr()))
              return false;
            commit_task(t);
            return true;
          },
          nb::arg("value").none())
      .def(
          "write_simple",
          [](PyTask& t, u32 i, nb::handle v) {
            return write_simple(*t.mem->m, running_return(t, i), v.ptr());
          },
          nb::arg("index"), nb::arg("value").none())
      .def(
          "write",
          [](PyTask& t, u32 i, int format, nb::handle data, nb::handle buffers,
             nb::handle contained, double timeout_s) {
            const u32 r = running_return(t, i);
            t.mem->m->discard_value(r);  // a value may be replaced by an error before the commit
            write_parts(*t.mem, r, format, data, buffers, contained, true, timeout_s, t.key);
            if (t.flags & F_DYNAMIC) t.mem->m->name_item(r, LIST_ITEM);
          },
          nb::arg("index"), nb::arg("format"), nb::arg("data"), nb::arg("buffers"),
          nb::arg("contained"), nb::arg("timeout_s") = 30.0)
      .def("forget", &forget_task)
      .def("commit", &commit_task);
  return task;
}

}  // namespace shoal
