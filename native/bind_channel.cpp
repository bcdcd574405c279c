// Channels in Python: one call per write and per read.
//
// Who writes has the right to write while it waits for a place, serializes and copies, so a second
// thread or process that writes is told so; the same for each reader. Small values are copied out
// and acknowledged at once. Large arrays are seen where they stand: a pin stands for what the
// reader owes, and acknowledges when the last array is gone. Where half of the places are kept
// already, the reader gets a copy of its own.
//
// Refs inside a message: its value becomes an ordinary object, which holds them, and the message
// holds that object until everybody has read it.
#include "bindings.hpp"

namespace shoal {

static PyObject* open_channel;

static constexpr u64 KEPT_BYTES = 32768;  // below, a copy is quicker than a pin

struct PyChannel {
  PyMemory* mem = nullptr;
  PyObject *owner = nullptr, *ref = nullptr, *pin = nullptr;
  Channel c;
  Patience for_reading, for_writing;
  // Who follows a channel waits where that one's writer says (berth.hpp).
  PyObject* leader = nullptr;
  atom<u32>* home = nullptr;
  Leading leading, *led_by = nullptr;
  PyChannel() = default;
  PyChannel(const PyChannel&) = delete;
  ~PyChannel() {
    Py_XDECREF(leader);
    Py_XDECREF(pin);
    Py_XDECREF(ref);
    Py_XDECREF(owner);
  }
  bool usable() { return !mem->m->forked && !mem->m->closed.load(RLX); }
};

void acknowledge(PyObject* channel, u32 reader, u32 place) {
  nb::inst_ptr<PyChannel>(nb::handle(channel))->c.acknowledge(reader, place);
}

// A right that ends with the call, however it ends.
struct Right {
  PyChannel& p;
  i64 reader;  // -1: of the writer
  bool held = false;
  void take() {
    held = reader < 0 ? p.c.begin() : p.c.begin_read(u32(reader));
    if (!held)
      throw std::runtime_error(reader < 0 ? "another thread or process writes into this channel now"
                                          : "another thread or process reads as this reader now");
  }
  ~Right() {
    if (!held || !p.usable()) return;
    if (reader < 0)
      p.c.end_write();
    else
      p.c.end_read(u32(reader));
  }
};

[[noreturn]] static void raise_closed(PyChannel& p) {
  nb::object cause = nb::none();
  if (p.c.closed() == CHANNEL_CAUSED)
    if (u64 e = p.c.cause().load(ACQ)) {
      const u32 s = hold_slot(e);
      const Bytes b = p.mem->m->value_bytes(s, true);
      cause = p.mem->error(int(p.mem->m->slot(s).kind.load(RLX)),
                           nb::bytes(static_cast<const char*>(b.data), b.size), nb::none());
    }
  raise_failed("closed", cause, nb::none());
}

// ---- writing

// What a value becomes: parts that point into Python objects, which are kept here.
struct Outgoing {
  Simple simple;
  ValueParts parts;
  Buffers keep;
  nb::object pickled, contained;

  void add(int format, nb::handle data, nb::handle buffers) {
    keep.views.reserve(1 + nb::len(buffers));
    parts.format = u8(format);
    parts.data = keep.add(data.ptr());
    for (nb::handle b : buffers) parts.buffers.push_back(keep.add(b.ptr()));
  }
  void value(PyChannel& p, nb::handle v) {
    if (simple_parts(v.ptr(), simple)) {
      parts.format = simple.format;
      parts.data = simple.data;
    } else if (PyBytes_CheckExact(v.ptr())) {
      parts.format = BYTES;
      parts.data = {PyBytes_AS_STRING(v.ptr()), u64(PyBytes_GET_SIZE(v.ptr()))};
    } else {
      pickled = call_dumps(p.owner, v);
      add(PICKLE, pickled[0], pickled[1]);
      contained = pickled[2];
    }
  }
};

// The object that carries a value with refs.
static nb::object carrier(PyChannel& p, Outgoing& out) {
  for (nb::handle r : out.contained) {
    Ref& ref = nb::cast<Ref&>(r);
    if (ref.mem != p.mem) throw nb::value_error("a ref of another session cannot be sent");
    if (ref.key == nb::inst_ptr<Ref>(nb::handle(p.ref))->key)
      throw nb::value_error("a channel cannot carry itself: it would never be freed");
    out.parts.contained.push_back(key_slot(ref.key));
  }
  Memory& m = *p.mem->m;
  const u32 s = fresh_slot(m);
  nb::object ref =
      make_ref(nb::handle(p.owner), *p.mem, make_key(s, m.slot(s).gen.load(RLX)), nullptr);
  write_patiently(*p.mem, s, out.parts, false, 2.0);
  alive(*p.mem);
  m.seal_mine(s);
  out.parts = ValueParts{};
  return ref;
}

static void send(PyChannel& p, Outgoing& out, const std::optional<double>& timeout_s) {
  Channel& c = p.c;
  const u64 size = Channel::parts_size(out.parts);
  if (size > c.area) raise_failed("large", nb::int_(size), nb::int_(c.capacity));
  if (c.closed()) raise_closed(p);
  nb::object carried;
  if (out.contained.is_valid() && nb::len(out.contained)) carried = carrier(p, out);
  auto room = [&] { return c.can_write(); };
  if (!wait_until(*p.mem, c.head->freed, p.for_writing, room, timeout_s))
    raise_failed("write", nb::float_(*timeout_s), nb::none());
  if (c.closed()) raise_closed(p);
  const int place = c.free_place();
  if (place < 0) throw std::runtime_error("a place of the channel was taken by somebody else");
  const u32 s = carried.is_valid() ? key_slot(nb::cast<Ref&>(carried).key) : 0;
  if (!c.fill(u32(place), out.parts, s, copy_without_gil)) throw_status(Status::Gone, 0, *p.mem->m);
  alive(*p.mem);
  c.publish(u32(place));
}

static void write(nb::handle self, nb::handle value, std::optional<double> timeout_s) {
  PyChannel& p = nb::cast<PyChannel&>(self);
  nb::object keep = nb::borrow(self);
  try {
    alive(*p.mem);
    Outgoing out;
    out.value(p, value);
    Right right{p, -1};
    alive(*p.mem);
    right.take();
    send(p, out, timeout_s);
    right.held = false;  // publishing ends it
  } catch (nb::python_error& e) {
    raise_translated(p.owner, e);
  }
}

static void write_error(nb::handle self, nb::handle error, std::optional<double> timeout_s) {
  PyChannel& p = nb::cast<PyChannel&>(self);
  nb::object keep = nb::borrow(self);
  try {
    alive(*p.mem);
    Outgoing out;
    out.pickled = call_pack(p.owner, error);
    out.add(nb::cast<int>(out.pickled[0]), out.pickled[1], nb::list());
    if (!is_error(out.parts.format)) throw nb::value_error("this is no error");
    Right right{p, -1};
    alive(*p.mem);
    right.take();
    send(p, out, timeout_s);
    right.held = false;
  } catch (nb::python_error& e) {
    raise_translated(p.owner, e);
  }
}

// ---- reading

// Acknowledges a message at the end of reading it, unless arrays keep it; then the next one is due.
struct Reading {
  PyChannel& p;
  u32 reader, place;
  bool is_kept = false;
  ~Reading() {
    if (!p.usable()) return;
    if (!is_kept) p.c.acknowledge(reader, place);
    p.c.move_on(reader);
  }
};

static nb::object load_carried(PyChannel& p, u32 place) {
  Memory& m = *p.mem->m;
  const u64 e = p.c.hold_of(place).load(ACQ);
  atom<u64>* record;
  const u32 s = hold_slot(e);
  const u64 key = make_key(s, m.slot(s).gen.load(ACQ));
  if (!e || !m.hold_key(key, false, record)) throw_status(Status::Gone, 0, m);
  nb::object ref = make_ref(nb::handle(p.owner), *p.mem, key, record);
  return load_slot(nb::handle(p.owner), *p.mem, s);
}

// The buffers of a message: where they stand if they are large and may stay there, else copies.
static nb::list buffers_of(nb::handle self, PyChannel& p, const Message& x, Reading& reading) {
  Memory& m = *p.mem->m;
  const u8* area = m.ro + (p.c.area_of(reading.place) - m.rw);
  auto* table = reinterpret_cast<const u64*>(area);
  const u32 n = x.n_buffers;
  u64 total = 0;
  for (u32 i = 0; i < n; i++) total += table[2 * i + 1];
  nb::list views;
  if (total < KEPT_BYTES || !p.c.keep(reading.place)) {
    for (u32 i = 0; i < n; i++)
      views.append(load_simple(BYTES, area + table[2 * i], table[2 * i + 1]));
    return views;
  }
  Kept kept;
  kept.channel = self.inc_ref().ptr();
  kept.reader = reading.reader;
  kept.place = reading.place;
  u8* end = const_cast<u8*>(area) + table[2 * n - 2] + table[2 * n - 1];
  nb::object pin = make_pin(nb::handle(p.owner), *p.mem, kept, const_cast<u8*>(area), end);
  reading.is_kept = true;
  for (u32 i = 0; i < n; i++) views.append(make_view(pin, area + table[2 * i], table[2 * i + 1]));
  return views;
}

static nb::object load_message(nb::handle self, PyChannel& p, Reading& reading) {
  Memory& m = *p.mem->m;
  const Message& x = p.c.message(reading.place);
  if (x.format == CARRIED) return load_carried(p, reading.place);
  const bool is_inline = !x.n_buffers && x.data_size <= INLINE_BYTES;
  const u8* from = is_inline ? x.inline_bytes : p.c.area_of(reading.place) + x.data_offset;
  if (x.format < PICKLE) return load_simple(x.format, from, x.data_size);
  if (is_error(x.format)) {
    nb::bytes data(from, x.data_size);
    raise_object(p.mem->error(int(x.format), data, nb::none()));
  }
  nb::object data = nb::steal(PyMemoryView_FromMemory(reinterpret_cast<char*>(m.ro + (from - m.rw)),
                                                      Py_ssize_t(x.data_size), PyBUF_READ));
  if (!x.n_buffers) return call_loads(*p.mem, data, nb::handle());
  nb::list views = buffers_of(self, p, x, reading);
  return call_loads(*p.mem, data, views);
}

static nb::object read(nb::handle self, i64 reader, std::optional<double> timeout_s) {
  PyChannel& p = nb::cast<PyChannel&>(self);
  nb::object keep = nb::borrow(self);
  try {
    alive(*p.mem);
    if (reader < 0 || reader >= i64(p.c.readers))
      throw nb::index_error(
          ("the channel has " + std::to_string(p.c.readers) + " readers").c_str());
    Right right{p, reader};
    right.take();
    u32 place;
    for (;;) {
      const u32 closed = p.c.closed();
      if (p.c.next(u32(reader), place)) break;
      if (closed) raise_closed(p);
      auto come = [&] { return p.c.can_read(u32(reader)); };
      const Berth berth{p.home ? p.home->load(RLX) : 0};
      if (!wait_until(*p.mem, p.c.head->arrived, p.for_reading, come, timeout_s, berth))
        raise_failed("read", nb::float_(*timeout_s), nb::none());
      if (p.led_by) p.led_by->has_waited(platform::now_ns());
    }
    if (!p.mem->guards.empty()) p.mem->release_guards();
    Reading reading{p, u32(reader), place};
    return load_message(self, p, reading);
  } catch (nb::python_error& e) {
    raise_translated(p.owner, e);
  }
}

// ---- the class

static nb::object channel_of(nb::handle memory, PyMemory& pm, nb::object ref) {
  const u32 s = key_slot(nb::cast<Ref&>(ref).key);
  nb::object o = nb::inst_alloc(nb::type<PyChannel>());
  PyChannel* p = new (nb::inst_ptr<PyChannel>(o)) PyChannel;
  nb::inst_mark_ready(o);
  p->mem = &pm;
  p->owner = memory.inc_ref().ptr();
  p->c.open(*pm.m, s);
  p->ref = ref.release().ptr();
  u8* head = reinterpret_cast<u8*>(p->c.head);
  p->pin = make_pin(memory, pm, s, head, head).release().ptr();
  return o;
}

static nb::object make_channel(nb::handle self, u64 capacity, u32 slots, u32 readers,
                               double timeout_s) {
  PyMemory& pm = of(self);
  Memory& m = *pm.m;
  if (slots < 1 || slots > CHANNEL_SLOTS) throw nb::value_error("slots must be 1 to 64");
  if (readers < 1 || readers > CHANNEL_READERS) throw nb::value_error("readers must be 1 to 64");
  if (capacity > m.header().capacity) throw_status(Status::TooBig, capacity, m);
  const u32 s = fresh_slot(m);
  nb::object ref = make_ref(self, pm, make_key(s, m.slot(s).gen.load(RLX)), nullptr);
  patiently(pm, capacity * slots, timeout_s,
            [&] { return Channel::create(m, s, capacity, slots, readers); });
  m.seal_mine(s);
  return channel_of(self, pm, ref);
}

static PyObject* open_function(PyObject*, PyObject* arg) {
  try {
    Ref& ref = nb::cast<Ref&>(nb::handle(arg));
    alive(*ref.mem);
    if (!Channel::is_one(*ref.mem->m, key_slot(ref.key)))
      throw nb::value_error("the object of this ref is no channel");
    return channel_of(nb::handle(ref.owner), *ref.mem, nb::borrow(arg)).release().ptr();
  } catch (nb::python_error& e) {
    e.restore();
  } catch (nb::builtin_exception& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  } catch (std::exception& e) {
    PyErr_SetString(PyExc_TypeError, "a ref to a channel is needed");
  }
  return nullptr;
}
static PyMethodDef open_def = {"_open_channel", open_function, METH_O,
                               "Called by pickles: the channel of this ref."};

static void close(nb::handle self, nb::object error) {
  PyChannel& p = nb::cast<PyChannel&>(self);
  nb::object keep = nb::borrow(self);
  try {
    Memory& m = alive(*p.mem);
    if (error.is_none()) return p.c.close(0);
    const nb::object packed = call_pack(p.owner, error);
    const int format = nb::cast<int>(packed[0]);
    if (!is_error(u8(format))) throw nb::value_error("this is no error");
    alive(*p.mem);
    const u32 s = fresh_slot(m);
    nb::object cause =
        make_ref(nb::handle(p.owner), *p.mem, make_key(s, m.slot(s).gen.load(RLX)), nullptr);
    try {
      write_parts(*p.mem, s, format, packed[1], nb::list(), nb::list(), true, 2.0);
    } catch (nb::python_error&) {
      // No room for the reason: closing needs none.
      return p.c.close(0);
    }
    alive(*p.mem);
    m.seal_mine(s);
    p.c.close(s);
  } catch (nb::python_error& e) {
    raise_translated(p.owner, e);
  }
}

// ---- where readers sleep

static void follow(nb::handle self, nb::handle leader) {
  PyChannel &p = nb::cast<PyChannel&>(self), &l = nb::cast<PyChannel&>(leader);
  alive(*p.mem);
  if (l.mem != p.mem) throw nb::value_error("the two channels are of different sessions");
  if (p.home) throw nb::value_error("this channel follows one already");
  if (l.leader) throw nb::value_error("the leader follows another channel");
  // One that kept itself would never be let go.
  if (!leader.is(self)) p.leader = leader.inc_ref().ptr();
  p.home = &l.c.head->home;
  p.led_by = &l.leading;
}

// Where the session has ended nothing happens: the write that follows says so.
static void lead(PyChannel& p, bool is_alone, bool may_look) {
  if (!p.usable()) return;
  u32 home = 0;
  if (is_alone)
    home = p.leading.begin(platform::now_ns(), may_look);
  else
    p.leading.crowd();
  atom<u32>& word = p.c.head->home;
  if (word.load(RLX) != home) word.store(home, RLX);
}

void bind_channels(nb::module_& m, nb::class_<PyMemory>& memory) {
  open_channel = PyCFunction_NewEx(&open_def, nullptr, nb::str("shoal._native").release().ptr());
  m.attr("_open_channel") = nb::borrow(open_channel);
  nb::class_<PyChannel>(m, "Channel")
      .def_prop_ro("ref", [](PyChannel& p) { return nb::borrow(p.ref); })
      .def_prop_ro("memory", [](PyChannel& p) { return nb::borrow(p.owner); })
      .def_prop_ro("capacity_bytes", [](PyChannel& p) { return p.c.capacity; })
      .def_prop_ro("slots", [](PyChannel& p) { return p.c.slots; })
      .def_prop_ro("readers", [](PyChannel& p) { return p.c.readers; })
      .def_prop_ro("is_closed", [](PyChannel& p) { return !p.usable() || p.c.closed() != 0; })
      .def(
          "unread",
          [](PyChannel& p, u32 reader) {
            alive(*p.mem);
            if (reader >= p.c.readers) throw nb::index_error("no such reader");
            return p.c.unread(reader);
          },
          nb::arg("reader") = 0)
      .def("write", write, nb::arg("value").none(), nb::arg("timeout_s") = nb::none())
      .def("write_error", write_error, nb::arg("error"), nb::arg("timeout_s") = nb::none())
      .def("read", read, nb::arg("reader") = 0, nb::arg("timeout_s") = nb::none())
      .def("follow", follow, nb::arg("leader"))
      .def("lead", lead, nb::arg("is_alone"), nb::arg("may_look"))
      .def("close", close, nb::arg("error") = nb::none())
      .def("__reduce__", [](PyChannel& p) {
        return nb::make_tuple(nb::borrow(open_channel), nb::make_tuple(nb::borrow(p.ref)));
      });
  memory.def("channel", make_channel, nb::arg("capacity_bytes"), nb::arg("slots"),
             nb::arg("readers"), nb::arg("timeout_s") = 0.0);
}

}  // namespace shoal
