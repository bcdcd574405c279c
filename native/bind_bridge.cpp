// Bridging in Python: proxies, values as other nodes have them, results of tasks that they ran.
//
// Nothing here waits: where there is no room the answer is False, `populate` is asked for it, and
// the daemon tries again.
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>

#include "bindings.hpp"

namespace shoal {

// Whoever else died in the middle would leave what no repair knows of.
static void only_daemon(const Memory& m) {
  if (m.me != 0) throw nb::value_error("only the daemon speaks for other nodes");
}

static std::vector<u32> slots_or_none(PyMemory& pm, nb::handle refs) {
  std::vector<u32> out;
  for (nb::handle r : refs) {
    if (r.is_none()) {
      out.push_back(0);
      continue;
    }
    Ref& ref = nb::cast<Ref&>(r);
    if (ref.mem != &pm) throw nb::value_error("a ref of another session cannot be stored");
    out.push_back(key_slot(ref.key));
  }
  return out;
}

static void check_format(int format, bool in_block) {
  // What a worker reads from a slot without looking for a block never has one (`write_simple`),
  // but for text that gave way to the id of its proxy.
  const int least = in_block ? int(STR) : int(NONE);
  if (format < least || format > int(ERROR_RECORD)) throw nb::value_error("unknown format");
}

// True: it is written. False: there is no room now; more was asked for.
static bool write(PyMemory& pm, u32 s, int format, bool in_block, nb::handle data,
                  nb::handle contained) {
  Memory& m = *pm.m;
  only_daemon(m);
  check_format(format, in_block);
  Buffers keep;
  const Bytes image = keep.add(data.ptr());
  const std::vector<u32> refs = slots_or_none(pm, contained);
  if (!in_block && (!refs.empty() || (image.size > INLINE_BYTES && format < int(STR))))
    throw nb::value_error("more than a slot has room for");
  if (image.size > m.header().capacity) throw_status(Status::TooBig, image.size, m);
  m.discard_value(s);
  const Status st = m.write_image(s, u8(format), in_block, image, refs);
  if (st == Status::NeedMemory && m.header().want.load(SEQ) < m.asked_extents)
    m.header().want.store(m.asked_extents, SEQ);
  if (st == Status::Gone) throw nb::value_error("the value is damaged");
  if (st == Status::TooBig) throw_status(st, image.size, m);
  return st == Status::Ok;
}

static u64 new_proxy(nb::handle self, u32 job, nb::bytes id) {
  Memory& m = *of(self).m;
  only_daemon(m);
  if (id.size() != 0 && id.size() != ID_BYTES) throw nb::value_error("an id has 32 bytes");
  const u32 s = m.new_proxy(job, id.size() ? reinterpret_cast<const u8*>(id.c_str()) : nullptr);
  if (!s) throw_status(Status::Full, 0, m);
  return make_key(s, m.slot(s).gen.load(RLX));
}

static nb::object seal_image(nb::handle self, u64 key, int format, bool in_block, nb::handle data,
                             nb::handle contained) {
  PyMemory& pm = of(self);
  if (!names_slot(key) || !pm.m->is_open_proxy(key)) return nb::none();
  if (!write(pm, key_slot(key), format, in_block, data, contained)) return nb::bool_(false);
  // Python has looked at the arguments: it may have done anything.
  if (pm.m->closed.load() || !pm.m->is_open_proxy(key)) return nb::none();
  pm.m->seal_proxy(key_slot(key));
  return nb::bool_(true);
}

static void check_elsewhere(int format, u64 size, const Memory& m) {
  only_daemon(m);
  if (format != BYTES && format != PICKLE) throw nb::value_error("errors travel at once");
  if (size < sizeof(ValueHeader)) throw nb::value_error("no image is that small");
  if (size > const_cast<Memory&>(m).header().capacity) throw_status(Status::TooBig, size, m);
}

// A sealed value as it can be sent: nothing while it has no value; while it is in a file or on
// another node its pin alone, for which it comes back.
static nb::object open_image(nb::handle self, u64 key) {
  nb::object o = hold_value(self, key, true);
  if (o.is_none()) return o;
  Moving* v = nb::inst_ptr<Moving>(o);
  Memory& m = *v->mem->m;
  Slot& x = m.slot(v->s);
  if ((x.state.load(SEQ) & ~WAITERS) != SEALED) return nb::none();
  if (x.flags.load(ACQ) & (SHARED | CHANNEL))
    throw nb::value_error("memory that stays writable cannot leave its node");
  const u64 block = x.block.load(SEQ);
  if (block & SPILLED) return o;
  const int format = x.kind.load(RLX);
  if (!block) {
    const Bytes b = m.value_bytes(v->s, true);
    nb::bytes data(static_cast<const char*>(b.data), b.size);
    return nb::make_tuple(format, false, b.size, std::vector<u64>{}, data);
  }
  v->data = m.ro + block;
  v->size = m.image_size(v->s, block);
  return nb::make_tuple(format, true, v->size, m.image_table(block), o);
}

void bind_bridge(nb::class_<PyMemory>& c) {
  c.def("new_proxy", &new_proxy, nb::arg("job"), nb::arg("id") = nb::bytes("", 0))
      .def("seal_image", &seal_image, nb::arg("key"), nb::arg("format"), nb::arg("in_block"),
           nb::arg("data"), nb::arg("contained") = nb::make_tuple())
      .def(
          "seal_elsewhere",
          [](nb::handle self, u64 key, int format, u64 size) {
            Memory& m = *of(self).m;
            check_elsewhere(format, size, m);
            if (!names_slot(key) || !m.is_open_proxy(key)) return false;
            m.discard_value(key_slot(key));
            m.write_elsewhere(key_slot(key), u8(format), size, {});
            m.seal_proxy(key_slot(key));
            return true;
          },
          nb::arg("key"), nb::arg("format"), nb::arg("size"))
      .def("is_elsewhere",
           [](nb::handle self, u64 key) {
             PyMemory& pm = of(self);
             return names_slot(key) && pm.m->is_live(key) && pm.m->is_elsewhere(key_slot(key));
           })
      .def("open_image", &open_image)
      .def(
          "end_pull",
          [](nb::handle self, Moving& v, nb::handle contained) {
            PyMemory& pm = of(self);
            if (v.mem != &pm || !v.aside || !pm.m->is_elsewhere(v.s))
              throw nb::value_error("nothing is pulled here");
            const std::vector<u32> refs = slots_or_none(pm, contained);
            if (!v.aside || !pm.m->is_elsewhere(v.s) || !pm.m->arrive(v.s, v.aside, v.size, refs))
              return false;
            v.aside = 0;
            return true;
          },
          nb::arg("moving"), nb::arg("contained") = nb::make_tuple())
      .def("queued", [](nb::handle self, u32 queue, u64 most) {
        return of(self).m->queued(queue_index(queue), most);
      });
}

// Asks for memory where that is missing; whether it is there.
static bool is_written(Memory& m, Status st) {
  if (st == Status::NeedMemory && m.header().want.load(SEQ) < m.asked_extents)
    m.header().want.store(m.asked_extents, SEQ);
  return st == Status::Ok;
}

// What the value of a task holds here whose bytes are elsewhere: its recipe last, if it may run
// again. False: there is no room for that now.
static bool add_recipe(PyTask& t, std::vector<u32>& held) {
  Memory& m = *t.mem->m;
  const u32 recipe = m.recipe_for(t.key, true);
  if (recipe == Memory::NO_RECIPE_YET) return is_written(m, Status::NeedMemory);
  if (recipe) held.push_back(recipe);
  return true;
}

// (The list that a task has yielded into is made again here, and its end is no value to be lost.)
static bool write_elsewhere(PyTask& t, u32 i, int format, u64 size, nb::handle contained) {
  check_elsewhere(format, size, *t.mem->m);
  std::vector<u32> held = slots_or_none(*t.mem, contained);
  const u32 r = running_return(t, i);
  Memory& m = *t.mem->m;
  m.discard_value(r);
  if (!(t.flags & (F_STREAM | F_DYNAMIC)) && !add_recipe(t, held)) return false;
  const Status st = m.write_elsewhere(r, u8(format), size, held);
  if (st == Status::Gone) throw nb::value_error("a count is full");
  return is_written(m, st);
}

// An item that a generator has yielded on another node, where its bytes stay. None: there is no
// room now.
static nb::object item_elsewhere(PyTask& t, u32 number, int format, u64 size,
                                 nb::handle contained) {
  PyMemory& pm = *t.mem;
  check_elsewhere(format, size, *pm.m);
  std::vector<u32> held = slots_or_none(pm, contained);
  running_spec(t);
  Memory& m = *pm.m;
  if (!add_recipe(t, held)) return nb::none();
  const u32 s = fresh_slot(m);
  const Status st = m.write_elsewhere(s, u8(format), size, held);
  if (st != Status::Ok) m.clear_bits(s, OWNER);
  if (st == Status::Gone) throw nb::value_error("a count is full");
  if (!is_written(m, st)) return nb::none();
  m.seal_item(s, number);
  m.set_maker(s, t.key);
  m.slot(s).job.store(u16(t.job), RLX);
  if (t.actor) m.slot(s).spec.store(make_origin(t.actor, 0), RLX);
  return make_ref(t.owner, pm, make_key(s, m.slot(s).gen.load(RLX)), nullptr);
}

void bind_images(nb::class_<PyTask>& task) {
  task.def(
          "write_image",
          [](PyTask& t, u32 i, int format, bool in_block, nb::handle data, nb::handle contained) {
            return write(*t.mem, running_return(t, i), format, in_block, data, contained);
          },
          nb::arg("index"), nb::arg("format"), nb::arg("in_block"), nb::arg("data"),
          nb::arg("contained") = nb::make_tuple())
      .def("write_elsewhere", &write_elsewhere, nb::arg("index"), nb::arg("format"),
           nb::arg("size"), nb::arg("contained") = nb::make_tuple())
      .def("item_elsewhere", &item_elsewhere, nb::arg("number"), nb::arg("format"), nb::arg("size"),
           nb::arg("contained") = nb::make_tuple());
}

}  // namespace shoal
