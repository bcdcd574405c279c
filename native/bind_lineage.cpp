// Lineage in Python: what the daemon sees of recipes, and the results of a rebuild.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>

#include "bindings.hpp"

namespace shoal {

// The results of a rebuild, kept where they are: pinned, so that they do not leave for a file
// before they are taken over.
struct Rebuilt {
  PyMemory* mem = nullptr;
  PyObject* owner = nullptr;
  std::vector<u64> keys;
  double left_s = -1;  // until its deadline, < 0: it has none
  std::vector<atom<u64>*> pins;
  Rebuilt() = default;
  Rebuilt(const Rebuilt&) = delete;
  ~Rebuilt() {
    if (mem && !mem->m->forked && !mem->m->closed.load(RLX))
      for (auto* pin : pins) mem->m->drop(pin);
    Py_XDECREF(owner);
  }
};

static u32 live_slot(Memory& m, u64 key) {
  return names_slot(key) && m.is_live(key) && m.slot(key_slot(key)).state.load(ACQ) != FREE
             ? key_slot(key)
             : 0;
}

static bool is_generator(Memory& m, u32 s) {
  const Recipe* r = m.recipe(s);
  return r && r->is_generator();
}

// Of a lost value, or of another recipe: all that is needed to decide.
static nb::object describe(Memory& m, u32 s) {
  const u64 key = make_key(s, m.slot(s).gen.load(ACQ));
  Recipe* r = m.recipe(s);
  if (!r)
    return nb::make_tuple(key, false, 0, 0, 0, 0, false, false, nb::list(), nb::list(), false, 0);
  nb::list arguments, returns;
  const u64 block = m.slot(s).block.load(ACQ);
  auto* table = reinterpret_cast<atom<u64>*>(m.at<ValueHeader>(block) + 1);
  for (u32 i = 0; i < r->n_arguments(); i++) {
    const u64 argument = r->arguments()[i], entry = table[i].load(RLX);
    const u32 a = live_slot(m, argument), held = entry ? hold_slot(entry) : 0;
    const bool by_recipe = held && held != key_slot(argument) && m.is_recipe(held);
    const u32 recipe = by_recipe ? held : a ? m.recipe_of(a) : 0;
    const u64 its = recipe ? make_key(recipe, m.slot(recipe).gen.load(ACQ)) : 0;
    const ItemFacts* facts = recipe && a ? &m.item_facts(a) : nullptr;
    const bool is_item = recipe && is_generator(m, recipe);
    const u32 number = !is_item ? 0 : facts ? facts->number.load(RLX) : r->items()[i];
    const u32 times = is_item && facts ? facts->times.load(RLX) : 0;
    arguments.append(nb::make_tuple(argument, a != 0, a && m.is_lost(a), its, number, times));
  }
  for (u32 i = 0; i < r->n_returns; i++) returns.append(r->returns()[i]);
  const bool has_queue =
      m.queue(r->queue).gen.load(ACQ) == r->queue_gen && !m.queue(r->queue).dead.load(ACQ);
  return nb::make_tuple(key, true, r->attempt, r->charged, r->max_retries, r->function, has_queue,
                        (r->flags & F_ACTOR) != 0, arguments, returns, r->is_generator(), r->job);
}

static nb::object item_row(Memory& m, u32 s) {
  const ItemFacts& facts = m.item_facts(s);
  return nb::make_tuple(make_key(s, m.slot(s).gen.load(ACQ)), facts.number.load(RLX),
                        facts.times.load(RLX));
}

// An item that a generator has yielded: a value that a task's recipe can make again.
static nb::object put_item(PyTask& t, u32 number, int format, nb::handle data, nb::handle buffers,
                           nb::handle contained, double timeout) {
  running_spec(t);
  PyMemory& pm = *t.mem;
  Memory& m = *pm.m;
  const u32 s = fresh_slot(m);
  try {
    write_parts(pm, s, format, data, buffers, contained, false, timeout, t.key);
  } catch (...) {
    if (!m.closed.load()) m.clear_bits(s, OWNER);
    throw;
  }
  if (m.closed.load()) throw_closed();
  m.seal_item(s, number);
  return make_ref(t.owner, pm, make_key(s, m.slot(s).gen.load(RLX)), nullptr);
}

void bind_items(nb::class_<PyTask>& task) {
  task.def("put_item", &put_item, nb::arg("number"), nb::arg("format"), nb::arg("data"),
           nb::arg("buffers"), nb::arg("contained"), nb::arg("timeout_s") = 0.0)
      .def("items", [](PyTask& t) {
        Spec* spec = running_spec(t);
        return t.mem->m->numbers_of(*spec);
      });
}

void bind_lineage(nb::module_& mod, nb::class_<PyMemory>& c) {
  nb::class_<Rebuilt>(mod, "Rebuilt")
      .def_ro("keys", &Rebuilt::keys)
      .def_ro("left_s", &Rebuilt::left_s);
  c.def_prop_rw(
       "lineage_most", [](PyMemory& p) { return p.m->header().lineage_most.load(); },
       [](PyMemory& p, u64 bytes) { p.m->header().lineage_most.store(bytes, SEQ); })
      .def_prop_ro("lineage_bytes", [](PyMemory& p) { return p.m->header().lineage_bytes.load(); })
      .def_prop_ro("lineage_over",
                   [](PyMemory& p) { return p.m->header().lineage_over.load(SEQ) != 0; })
      .def("trim_lineage",
           [](nb::handle self, u64 most, const std::vector<u64>& spared) {
             return of(self).m->trim_lineage(most, {spared.begin(), spared.end()});
           })
      .def("queues_of_recipes",
           [](nb::handle self) {
             const auto found = of(self).m->queues_of_recipes();
             return std::vector<u32>(found.begin(), found.end());
           })
      .def("needed", [](nb::handle self) { return of(self).m->needed(); })
      .def("ready_extent",
           [](nb::handle self, u64 headroom) { return of(self).m->ready_extent(headroom); })
      .def("recipe_of",
           [](nb::handle self, u64 key) -> nb::object {
             Memory& m = *of(self).m;
             const u32 s = live_slot(m, key);
             const u32 r = s ? m.recipe_of(s) : 0;
             return r ? describe(m, r) : nb::none();
           })
      .def("recipe",
           [](nb::handle self, u64 key) -> nb::object {
             Memory& m = *of(self).m;
             const u32 s = live_slot(m, key);
             return s && m.is_recipe(s) ? describe(m, s) : nb::none();
           })
      .def("set_lost",
           [](nb::handle self, u64 key) {
             Memory& m = *of(self).m;
             const u32 s = live_slot(m, key);
             if (s) m.set_lost(s);
             return s && m.is_lost(s);
           })
      .def("is_lost",
           [](nb::handle self, u64 key) {
             Memory& m = *of(self).m;
             const u32 s = live_slot(m, key);
             return s && m.is_lost(s);
           })
      .def("evict",
           [](nb::handle self, u64 key) -> u64 {
             Memory& m = *of(self).m;
             const u32 s = live_slot(m, key);
             if (!s || !m.recipe_of(s)) return 0;
             atom<u64>* hold;
             if (!m.hold_key(key, false, hold)) return 0;
             const u64 bytes = m.spill(s, 0);
             m.drop(hold);
             return bytes;
           })
      .def("item",
           [](nb::handle self, u64 key) -> nb::object {
             Memory& m = *of(self).m;
             const u32 s = live_slot(m, key), r = s ? m.recipe_of(s) : 0;
             return r && is_generator(m, r) ? item_row(m, s) : nb::none();
           })
      .def("items_away",
           [](nb::handle self, u64 recipe) {
             Memory& m = *of(self).m;
             nb::list out;
             const u32 r = live_slot(m, recipe);
             if (r)
               for (u32 s : m.items_away(r)) out.append(item_row(m, s));
             return out;
           })
      .def(
          "rebuild",
          [](nb::handle self, u64 recipe, const std::vector<u64>& arguments,
             const std::vector<std::pair<u64, u32>>& items) -> nb::object {
            PyMemory& pm = of(self);
            Memory& m = *pm.m;
            const u32 s = live_slot(m, recipe);
            Recipe* r = s ? m.recipe(s) : nullptr;
            if (!r || arguments.size() != r->n_arguments() || r->is_generator() == items.empty())
              return nb::none();
            std::vector<u32> slots, returns;
            std::vector<Memory::WantedItem> wanted;
            for (auto& [key, number] : items) {
              const u32 item = live_slot(m, key);
              wanted.push_back({number, item && m.is_lost(item) ? item : 0});
            }
            for (u64 key : arguments) {
              const u32 a = live_slot(m, key);
              if (!a) return nb::none();
              slots.push_back(a);
            }
            const Status st = m.rebuild(s, slots, wanted, returns);
            if (st == Status::Dead) return nb::none();
            if (st != Status::Ok) return nb::bool_(false);
            nb::object o = nb::inst_alloc(nb::type<Rebuilt>());
            Rebuilt* x = new (nb::inst_ptr<Rebuilt>(o)) Rebuilt;
            nb::inst_mark_ready(o);
            x->mem = &pm;
            const u64 now = platform::now_ns(), deadline = m.last_deadline;
            if (deadline) x->left_s = deadline > now ? double(deadline - now) / 1e9 : 0.0;
            x->owner = self.inc_ref().ptr();
            for (u32 y : returns) {
              const u64 key = make_key(y, m.slot(y).gen.load(RLX));
              atom<u64>* pin = nullptr;
              if (m.hold_key(key, true, pin)) {
                x->keys.push_back(key);
                x->pins.push_back(pin);
              }
              m.clear_bits(y, OWNER);
            }
            return o;
          },
          nb::arg("recipe"), nb::arg("arguments"),
          nb::arg("items") = std::vector<std::pair<u64, u32>>())
      .def("fill", [](nb::handle self, u64 key, u64 from) {
        Memory& m = *of(self).m;
        const u32 s = live_slot(m, key), y = live_slot(m, from);
        // A result of a rebuild is known to nobody else, and pinned where it is.
        if (!s || !y || s == y || !m.is_lost(s) || (m.slot(y).life.load(ACQ) & (REFS | OWNER)) ||
            ((m.slot(y).block.load(ACQ) & SPILLED) && !m.is_elsewhere(y)) ||
            (m.slot(y).state.load(ACQ) & ~WAITERS) != SEALED)
          return false;
        atom<u64>* hold;
        if (!m.hold_key(key, false, hold)) return false;
        m.take_over(s, y);
        m.drop(hold);
        return true;
      });
}

}  // namespace shoal
