// Shared blocks in Python, and the waiting that blocks and channels have in common.
//
// A SharedBlock keeps a ref to its object and a pin. Its buffer is the writable mapping: while
// Python has one exported, the pin says where, so that children of a fork may look too and the end
// of the session leaves a private copy.
#include <cstring>

#include "bindings.hpp"

namespace shoal {

static PyObject *make_failed, *translate, *open_block, *dump, *pack;

Memory& alive(PyMemory& pm) {
  pm.usable();
  if (pm.m->closed.load(RLX)) throw_closed();
  return *pm.m;
}

// What only Python can do stands in one module, which sets the hooks when it is imported: programs
// without channels never do.
static void need_hooks() {
  if (!make_failed) nb::module_::import_("shoal._runtime.channels");
  if (!make_failed) throw std::runtime_error("set_channel_hooks was not called");
}

void raise_object(nb::handle e) {
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(e.ptr())), e.ptr());
  throw nb::python_error();
}

void raise_failed(const char* kind, nb::object a, nb::object b) {
  need_hooks();
  raise_object(nb::borrow(make_failed)(kind, a, b));
}

// What native code raises has a public name: that is what users of blocks and channels see.
void raise_translated(nb::handle memory, nb::python_error& error) {
  if (!error.matches(session_lost) && !error.matches(forked_error) && !error.matches(full_error))
    throw error;
  need_hooks();
  raise_object(nb::borrow(translate)(error.value(), nb::borrow(memory)));
}

nb::object call_dumps(nb::handle memory, nb::handle value) {
  need_hooks();
  return nb::borrow(dump)(nb::borrow(memory), nb::borrow(value));
}

nb::object call_pack(nb::handle memory, nb::handle error) {
  need_hooks();
  return nb::borrow(pack)(nb::borrow(memory), nb::borrow(error));
}

// The first sleep of a wait is not shorter: the kernel looks at its clock that often anyway, and a
// timer that ends before costs a virtual machine 7 us (two exits) per sleep.
static constexpr u64 QUIET = 10000000;

// As `Memory::spin`, giving the core to others between the looks.
static bool look(u64 ns, const std::function<bool()>& done) {
  const u64 end = platform::now_ns() + ns;
  do {
    for (int i = 0; i < 16; i++) {
      if (done()) return true;
      platform::pause();
    }
    platform::give_way();
  } while (platform::now_ns() < end);
  return done();
}

bool wait_until(PyMemory& pm, Bell& bell, Patience& patience, const std::function<bool()>& done,
                const std::optional<double>& timeout_s, Berth berth) {
  Memory& m = alive(pm);
  if (done()) return true;
  const u64 deadline = deadline_of(timeout_s);
  if (timeout_s && *timeout_s <= 0) return false;
  const bool main = is_main_thread();
  const bool in_task = m.proc(m.me).depth.load(RLX) != 0;
  auto over = [&] { return done() || m.closed.load(RLX); };
  const u64 begun = berth.home() ? platform::now_ns() : 0;
  if (!begun && m.spin(over, 3000)) {
    alive(pm);
    return true;
  }
  bool lent = false;
  struct Ending {  // however it ends: the CPU is taken back, the wait is learned from
    Memory& m;
    Patience& patience;
    bool& lent;
    ~Ending() {
      patience.ended(platform::now_ns());
      if (lent && !m.closed.load(RLX)) m.lend(false);
    }
  } ending{m, patience, lent};
  Doubt doubt{QUIET};
  for (bool spun = false;; spun = true) {
    Memory::Wait w = Memory::Wait::Interrupted;
    bool hit = false;
    {
      SleepingOn registered(m, bell.rung);
      Unlocked unlocked;
      if (!spun) hit = begun ? look(berth.look_ns(), over) : m.spin_on(patience, over);
      // As in `wait_sealed`: before it sleeps for long the CPU is lent.
      const u64 slice = in_task && !lent ? QUIET : main ? 500000000ull : 0;
      if (!hit) {
        Confined confined(berth.home());
        w = sleep_at(m, bell, over, deadline, slice, doubt);
      }
    }
    if (begun && platform::now_ns() - begun > Berth::LASTS) berth = {};
    if (m.closed.load(RLX)) throw_closed();
    if (done()) return true;
    if (w == Memory::Wait::Timeout) return false;
    if (in_task && !lent && w != Memory::Wait::Doubted) m.lend(lent = true);
    if (main) check_signals();
  }
}

struct PyBlock {
  PyMemory* mem = nullptr;
  PyObject *owner = nullptr, *ref = nullptr, *pin = nullptr;
  SharedBlock block;
  u64 exports = 0;
  Patience patience;
  PyBlock() = default;
  PyBlock(const PyBlock&) = delete;
  ~PyBlock() {
    Py_XDECREF(pin);
    Py_XDECREF(ref);
    Py_XDECREF(owner);
  }
  // The word, or IndexError.
  u64 index(i64 i) {
    alive(*mem);
    if (i < 0 || u64(i) >= block.words())
      throw nb::index_error(("the block has " + std::to_string(block.words()) + " words").c_str());
    return u64(i);
  }
};

static int block_getbuffer(PyObject* self, Py_buffer* out, int flags) {
  PyBlock* b = nb::inst_ptr<PyBlock>(self);
  if (b->mem->m->forked || b->mem->m->closed.load(RLX)) {
    PyErr_SetString(PyExc_BufferError, "the session of this block has ended, or is the parent's");
    return -1;
  }
  if (PyBuffer_FillInfo(out, self, b->block.data, Py_ssize_t(b->block.size), 0, flags) != 0)
    return -1;
  b->exports++;
  nb::inst_ptr<Pin>(b->pin)->end = b->block.data + b->block.size;
  return 0;
}
static void block_releasebuffer(PyObject* self, Py_buffer*) {
  PyBlock* b = nb::inst_ptr<PyBlock>(self);
  // After the end of the session the pin still says where the private copy is, to be given back.
  if (--b->exports == 0 && !b->mem->m->closed.load(RLX))
    nb::inst_ptr<Pin>(b->pin)->end = b->block.data;
}
static PyType_Slot block_slots[] = {
    {Py_bf_getbuffer, reinterpret_cast<void*>(block_getbuffer)},
    {Py_bf_releasebuffer, reinterpret_cast<void*>(block_releasebuffer)},
    {0, nullptr}};

static nb::object block_of(nb::handle memory, PyMemory& pm, nb::object ref) {
  const u32 s = key_slot(nb::cast<Ref&>(ref).key);
  nb::object o = nb::inst_alloc(nb::type<PyBlock>());
  PyBlock* b = new (nb::inst_ptr<PyBlock>(o)) PyBlock;
  nb::inst_mark_ready(o);
  b->mem = &pm;
  b->owner = memory.inc_ref().ptr();
  b->block.open(*pm.m, s);
  b->ref = ref.release().ptr();
  b->pin = make_pin(memory, pm, s, b->block.data, b->block.data).release().ptr();
  return o;
}

static nb::object make_block(nb::handle self, u64 bytes, double timeout_s) {
  PyMemory& pm = of(self);
  Memory& m = *pm.m;
  if (bytes > m.header().capacity) throw_status(Status::TooBig, bytes, m);
  const u32 s = fresh_slot(m);
  nb::object ref = make_ref(self, pm, make_key(s, m.slot(s).gen.load(RLX)), nullptr);
  patiently(pm, bytes, timeout_s, [&] { return SharedBlock::create(m, s, bytes); });
  SharedBlock block;
  block.open(m, s);
  {
    Unlocked unlocked;
    std::memset(block.data, 0, block.size);
  }
  alive(pm);
  m.seal_mine(s);
  return block_of(self, pm, ref);
}

static PyObject* open_function(PyObject*, PyObject* arg) {
  try {
    Ref& ref = nb::cast<Ref&>(nb::handle(arg));
    alive(*ref.mem);
    if (!SharedBlock::is_one(*ref.mem->m, key_slot(ref.key))) throw nb::value_error("no block");
    return block_of(nb::handle(ref.owner), *ref.mem, nb::borrow(arg)).release().ptr();
  } catch (nb::python_error& e) {
    e.restore();
  } catch (nb::builtin_exception& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  } catch (std::exception& e) {
    PyErr_SetString(PyExc_TypeError, "a ref to a shared block is needed");
  }
  return nullptr;
}
static PyMethodDef open_def = {"_open_block", open_function, METH_O,
                               "Called by pickles: the block of this ref."};

template <class F>
static auto translated(PyBlock& b, F f) {
  try {
    return f();
  } catch (nb::python_error& e) {
    raise_translated(b.owner, e);
  }
}

void bind_blocks(nb::module_& m, nb::class_<PyMemory>& memory) {
  m.def(
      "set_channel_hooks",
      [](nb::object dumps, nb::object packs, nb::object failed, nb::object translated) {
        dump = dumps.release().ptr();  // as long as the process
        pack = packs.release().ptr();
        translate = translated.release().ptr();
        make_failed = failed.release().ptr();
      },
      nb::kw_only(), nb::arg("dumps"), nb::arg("pack"), nb::arg("failed"), nb::arg("translate"));
  open_block = PyCFunction_NewEx(&open_def, nullptr, nb::str("shoal._native").release().ptr());
  m.attr("_open_block") = nb::borrow(open_block);
  nb::class_<PyBlock>(m, "SharedBlock", nb::type_slots(block_slots))
      .def_prop_ro("ref", [](PyBlock& b) { return nb::borrow(b.ref); })
      .def_prop_ro("nbytes", [](PyBlock& b) { return b.block.size; })
      .def(
          "load",
          [](PyBlock& b, i64 i) {
            return translated(b, [&] { return b.block.word(b.index(i)).load(SEQ); });
          },
          nb::arg("index"))
      .def(
          "store",
          [](PyBlock& b, i64 i, i64 value) {
            translated(b, [&] { b.block.store(b.index(i), value); });
          },
          nb::arg("index"), nb::arg("value"))
      .def(
          "add",
          [](PyBlock& b, i64 i, i64 delta) {
            return translated(b, [&] { return b.block.add(b.index(i), delta); });
          },
          nb::arg("index"), nb::arg("delta"))
      .def(
          "compare_swap",
          [](PyBlock& b, i64 i, i64 old, i64 next) {
            return translated(b, [&] { return b.block.compare_swap(b.index(i), old, next); });
          },
          nb::arg("index"), nb::arg("old"), nb::arg("new"))
      .def(
          "wait",
          [](nb::handle self, i64 i, i64 old, std::optional<double> timeout_s) {
            PyBlock& b = nb::cast<PyBlock&>(self);
            nb::object keep = nb::borrow(self);
            return translated(b, [&] {
              atom<i64>& word = b.block.word(b.index(i));
              auto moved = [&] { return word.load(SEQ) != old; };
              wait_until(*b.mem, b.block.bell(u64(i)), b.patience, moved, timeout_s);
              return word.load(SEQ);
            });
          },
          nb::arg("index"), nb::arg("old"), nb::arg("timeout_s") = nb::none())
      .def("__reduce__", [](PyBlock& b) {
        return nb::make_tuple(nb::borrow(open_block), nb::make_tuple(nb::borrow(b.ref)));
      });
  memory.def("shared_block", make_block, nb::arg("size_bytes"), nb::arg("timeout_s") = 0.0);
}

}  // namespace shoal
