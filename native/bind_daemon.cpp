// The Memory class in Python: what only the node daemon does, and the views that any process may
// ask for.
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <unistd.h>

#include <algorithm>
#include <tuple>

#include "bindings.hpp"

namespace shoal {

static Bytes bytes_of(nb::bytes& b) { return {b.c_str(), b.size()}; }

u32 process_index(u32 index) {
  if (index >= MAX_PROCS) throw nb::index_error("no such process index");
  return index;
}
u32 queue_index(u32 queue) {
  if (queue >= QUEUES) throw nb::index_error("no such queue");
  return queue;
}

// Of whoever has the descriptor and maps nothing: the zygote.
static void read_header(int fd, Header& h) {
  if (pread(fd, &h, sizeof h, 0) != ssize_t(sizeof h) || h.magic != MAGIC ||
      h.layout != layout_hash())
    throw std::runtime_error("the descriptor is not node memory of this build");
}
static double lease_of(int fd) {
  Header h;
  read_header(fd, h);
  return double(h.lease.load()) / 1e9;
}
static std::vector<u32> leased_processes(int fd) {
  Header h;
  read_header(fd, h);
  std::vector<u32> out;
  for (u32 p = 1; p < std::min(h.proc_high.load(), MAX_PROCS); p++) {
    u32 pid;
    const u64 place = h.off.procs + p * sizeof(Proc) + offsetof(Proc, leased);
    if (pread(fd, &pid, sizeof pid, off_t(place)) == ssize_t(sizeof pid) && pid) out.push_back(pid);
  }
  return out;
}

void bind_daemon(nb::module_& mod, nb::class_<PyMemory>& c) {
  bind_spilling(mod, c);
  mod.def("lease_of", &lease_of);
  mod.def("leased_processes", &leased_processes);
  c.def(
       "new_queue",
       [](nb::handle self, u32 kind, u32 job) {
         u32 q, gen;
         if (kind != 1 && kind != 2) throw nb::value_error("no such kind of queue");
         if (!of(self).m->new_queue(kind, job, q, gen))
           throw std::runtime_error("no queue is left");
         return std::make_tuple(q, gen);
       },
       nb::arg("kind"), nb::arg("job"))
      .def("free_queue",
           [](nb::handle self, u32 q) { return of(self).m->free_queue(queue_index(q)); })
      .def("queue_state",
           [](nb::handle self, u32 q) {
             Memory& m = *of(self).m;
             m.drop_stale(queue_index(q));
             return std::make_tuple(m.ring(q).entries() + (m.queue(q).redo.load() != 0),
                                    m.queue(q).ring.head.load(), m.queue(q).dead.load() != 0);
           })
      .def("set_hungry",
           [](nb::handle self, u32 q, bool hungry) {
             Memory& m = *of(self).m;
             queue_index(q);
             m.queue(q).hungry.store(hungry, SEQ);
             std::atomic_thread_fence(SEQ);
             if (m.queue(q).overflow.load()) m.refill(q);
             u64 h;
             u32 v;
             return m.ring(q).peek(h, v) || m.queue(q).redo.load() != 0;
           })
      .def("set_starving",
           [](nb::handle self, bool b) { of(self).m->header().starving.store(b, SEQ); })
      .def("kill_queue",
           [](nb::handle self, u32 q, nb::bytes record) {
             return of(self).m->kill_queue(queue_index(q), bytes_of(record));
           })
      .def("drain_dead",
           [](nb::handle self) {
             Memory& m = *of(self).m;
             nb::list out;
             m.each_queue([&](u32 q) {
               if (m.queue(q).dead.load() && m.ring(q).entries()) out.append(q);
             });
             return out;
           })
      .def("open_process",
           [](nb::handle self, u32 kind) {
             if (kind != DRIVER && kind != WORKER) throw nb::value_error("no such kind of process");
             return of(self).m->open_process(kind);
           })
      .def("assign",
           [](nb::handle self, u32 index, u32 queue) {
             Memory& m = *of(self).m;
             Proc& r = m.proc(process_index(index));
             r.assign.store(queue, SEQ);
             r.door.fetch_add(1, SEQ);
             platform::futex_wake(r.door);
           })
      .def("set_lease",
           [](nb::handle self, double until_s) {
             const u64 until = until_s > 0 ? u64(std::min(until_s, 1e9) * 1e9) : 0;
             of(self).m->header().lease.store(until, SEQ);
           })
      .def("set_leased",
           [](nb::handle self, u32 index, u32 pid) {
             of(self).m->proc(process_index(index)).leased.store(pid, SEQ);
           })
      .def("process_state",
           [](nb::handle self, u32 index) {
             Memory& m = *of(self).m;
             Proc& r = m.proc(process_index(index));
             // The outermost; of calls that run side by side, any.
             auto* table = m.running_of(index);
             u32 d = r.depth.load(ACQ);
             u64 key = d ? table[0].load() : 0;
             if (d && !key) key = table[d - 1].load();
             return std::make_tuple(r.assign.load(), r.attached.load(), d, r.blocked.load() != 0,
                                    key);
           })
      .def("ring",
           [](nb::handle self, u32 index) {
             Proc& r = of(self).m->proc(process_index(index));
             r.door.fetch_add(1, SEQ);
             platform::futex_wake(r.door);
           })
      .def("repair",
           [](nb::handle self, u32 index) {
             std::vector<RunningTask> tasks;
             of(self).m->repair(process_index(index), tasks);
             nb::list out;
             for (auto& t : tasks)
               out.append(
                   nb::make_tuple(t.key, t.attempt, t.max_retries, t.charged, t.flags, t.queue));
             return out;
           })
      .def("has_forked",
           [](nb::handle self, u32 index) {
             return of(self).m->proc(process_index(index)).forked.load(ACQ) != 0;
           })
      .def("fork_mark",
           [](nb::handle self, u32 index) { return of(self).m->fork_mark(process_index(index)); })
      .def("release_pins",
           [](nb::handle self, u32 index) { of(self).m->release_pins(process_index(index)); })
      .def("close_process",
           [](nb::handle self, u32 index) { of(self).m->close_process(process_index(index)); })
      .def("requeue",
           [](nb::handle self, u64 key, bool charged, bool front) {
             PyMemory& pm = of(self);
             return names_slot(key) && pm.m->requeue(key, charged, front);
           })
      .def(
          "fail",
          [](nb::handle self, u64 key, nb::bytes record, nb::handle kept) {
            PyMemory& pm = of(self);
            std::vector<u32> slots;
            for (nb::handle r : kept) {
              Ref& ref = nb::cast<Ref&>(r);
              if (ref.mem != &pm) throw nb::value_error("a ref of another session cannot be kept");
              slots.push_back(key_slot(ref.key));
            }
            return names_slot(key) && pm.m->fail(key, bytes_of(record), true, slots);
          },
          nb::arg("key"), nb::arg("record"), nb::arg("kept") = nb::make_tuple())
      .def("contained",
           [](nb::handle self, u64 key) {
             PyMemory& pm = of(self);
             return names_slot(key) ? pm.m->contained(key) : std::vector<u64>{};
           })
      .def("loading", [](nb::handle self, nb::handle ref) { begin_loading(self, of(self), ref); })
      .def("loaded", [](PyMemory&) { end_loading(); })
      .def("call_of",
           [](nb::handle self, u64 key) -> nb::object {
             Memory& m = *of(self).m;
             Spec* t = names_slot(key) && !m.is_ready(key) ? m.spec(key_slot(key)) : nullptr;
             if (!t) return nb::none();
             const u8* p = reinterpret_cast<u8*>(t) + t->payload_offset;
             return nb::make_tuple(t->function, t->callee(), t->method, t->flags, t->job,
                                   t->n_dependencies,
                                   nb::bytes(reinterpret_cast<const char*>(p), t->payload_size));
           })
      .def(
          "cancel",
          [](nb::handle self, u64 key, bool recursive, nb::bytes held, nb::bytes queued,
             bool late) {
            PyMemory& pm = of(self);
            std::vector<Memory::Attempt> running;
            if (names_slot(key))
              for (u64 k : recursive ? pm.m->family(key) : std::vector<u64>{key})
                pm.m->cancel(k, bytes_of(held), bytes_of(queued), late, running);
            for (auto& r : running)
              if (r.flags & F_ACTOR) {
                pm.m->tell_given_up();
                break;
              }
            nb::list out;
            for (auto& r : running) out.append(nb::make_tuple(r.key, r.attempt, r.worker, r.flags));
            return out;
          },
          nb::arg("key"), nb::arg("recursive"), nb::arg("held"), nb::arg("queued"),
          nb::arg("late") = false)
      .def("task_state",
           [](nb::handle self, u64 key) -> nb::object {
             PyMemory& pm = of(self);
             Memory::Stages s;
             if (!names_slot(key) || !pm.m->stages(key, s)) return nb::none();
             return nb::make_tuple(s.state, s.attempt, s.worker, s.flags, double(s.held) / 1e9,
                                   double(s.queued) / 1e9, double(s.running) / 1e9);
           })
      .def("is_running",
           [](nb::handle self, u64 key, u32 attempt) {
             PyMemory& pm = of(self);
             return names_slot(key) && pm.m->is_running(key, attempt);
           })
      .def(
          "end_children",
          [](nb::handle self, const std::vector<u64>& parents, nb::bytes record) {
            return of(self).m->end_children(parents, bytes_of(record));
          },
          nb::arg("parents"), nb::arg("record"))
      .def("fail_queued",
           [](nb::handle self, u32 q, nb::bytes record) {
             return of(self).m->fail_queued(queue_index(q), bytes_of(record));
           })
      .def("end_job", [](nb::handle self, u32 job,
                         nb::bytes record) { return of(self).m->end_job(job, bytes_of(record)); })
      .def("adopt",
           [](nb::handle self, u64 key) {
             PyMemory& pm = of(self);
             return names_slot(key) && pm.m->adopt(key);
           })
      .def("release",
           [](nb::handle self, u64 key) {
             PyMemory& pm = of(self);
             if (names_slot(key)) pm.m->release(key);
           })
      .def("handles",
           [](nb::handle self, u64 key) {
             PyMemory& pm = of(self);
             return names_slot(key) ? pm.m->handles(key) : 0;
           })
      .def("is_adopted",
           [](nb::handle self, u64 key) {
             Memory& m = *of(self).m;
             return names_slot(key) && (m.slot(key_slot(key)).flags.load(ACQ) & ADOPTED) &&
                    m.slot(key_slot(key)).state.load(ACQ) != FREE && m.is_live(key);
           })
      .def("is_live",
           [](nb::handle self, u64 key) { return names_slot(key) && of(self).m->is_live(key); })
      .def("inbox",
           [](nb::handle self) {
             Memory& m = *of(self).m;
             nb::list out;
             u32 s;
             RingView r = m.inbox();
             while (r.pop(s)) out.append(make_key(s, m.slot(s).gen.load()));
             const bool overflowed = m.header().inbox_full.exchange(0);
             m.inbox_overflows += overflowed;
             if (overflowed)
               for (u32 i = 1; i < m.header().chunk_high[0].load() * SLOTS_PER_CHUNK; i++)
                 if (m.slot(i).flags.load() & ADOPTED)
                   out.append(make_key(i, m.slot(i).gen.load()));
             return out;
           })
      .def("populate",
           [](nb::handle self, u64 budget, u64 headroom) {
             u64 done;
             bool more;
             of(self).m->populate(budget, headroom, done, more);
             return std::make_tuple(done, more);
           })
      .def("give_back",
           [](nb::handle self, u64 headroom) { return of(self).m->give_back(headroom); })
      .def_prop_ro("is_asked_for_memory",
                   [](nb::handle self) {
                     auto& h = of(self).m->header();
                     return h.want.load(SEQ) != 0 || h.want_room.load(SEQ) != 0;
                   })
      .def("collapse", [](nb::handle self, u32 budget) { return of(self).m->collapse(budget); })
      .def("punch",
           [](nb::handle self) {
             Memory& m = *of(self).m;
             platform::punch(m.fd, 0, m.size);
           })
      .def("usage",
           [](nb::handle self) {
             Memory& m = *of(self).m;
             u64 used, populated;
             m.count_extents(used, populated);
             return std::make_tuple(used, populated, m.header().capacity);
           })
      .def("audit",
           [](nb::handle self) {
             auto a = of(self).m->audit();
             nb::dict d;
             d["bytes"] = a.bytes;
             d["slots"] = a.slots;
             d["specs"] = a.specs;
             d["leaked_blocks"] = a.leaked_blocks;
             d["wrong_counts"] = a.wrong_counts;
             return d;
           })
      .def("list_tasks",
           [](nb::handle self, u64 limit) {
             nb::list out;
             for (auto& r : of(self).m->list_tasks(limit))
               out.append(nb::make_tuple(r.key, r.state, r.attempt, r.worker, r.function, r.queue,
                                         r.job, r.parent, r.caller, r.id_job));
             return out;
           })
      .def("list_objects",
           [](nb::handle self, u64 limit) {
             nb::list out;
             for (auto& r : of(self).m->list_objects(limit))
               out.append(nb::make_tuple(r.key, r.format, r.size, r.refs, r.pins, r.owner));
             return out;
           })
      .def("ancestry",
           [](nb::handle self, u64 key) -> nb::object {
             Ancestry from;
             if (!names_slot(key) || !of(self).m->ancestry(key, from)) return nb::none();
             return nb::make_tuple(from.task, from.actor, from.job, from.index);
           })
      .def("set_blocked", [](nb::handle self, bool b) { of(self).m->lend(b); })
      .def_prop_ro("running", [](nb::handle self) { return of(self).m->running_top(); })
      .def_prop_rw(
          "actor", [](PyMemory& p) { return p.m->own_actor; },
          [](PyMemory& p, u64 key) { p.m->own_actor = key; })
      .def("sight",
           [](nb::handle self, u64 key) -> nb::object {
             Memory::Sight s;
             if (!names_slot(key) || !of(self).m->sight(key, s)) return nb::none();
             nb::list out;
             for (u64 n : {s.task, s.format, s.state, s.attempt, s.worker, s.flags, s.about,
                           s.queue, s.job, s.parent, s.dependency, s.predecessor, s.is_cell,
                           s.deadline, s.submitted, s.taken, s.size})
               out.append(n);
             out.append(s.owner);
             for (u64 n : {s.from.task, s.from.actor, u64(s.from.job), u64(s.from.index)})
               out.append(n);
             return nb::tuple(out);
           })
      .def("process_sight",
           [](nb::handle self, u32 index) {
             auto s = of(self).m->process_sight(process_index(index));
             return nb::make_tuple(s.waits_for, double(s.waits_since) / 1e9, s.events, s.running,
                                   s.watched);
           })
      .def("list_holds",
           [](nb::handle self, u64 limit) {
             nb::list out;
             for (auto& r : of(self).m->list_holds(limit))
               out.append(nb::make_tuple(r.key, r.kind, r.holder, r.refs, r.pins));
             return out;
           })
      .def_prop_ro("events_lost", [](nb::handle self) { return of(self).m->events_lost(); })
      .def_prop_rw(
          "job", [](PyMemory& p) { return p.m->job; }, [](PyMemory& p, u32 job) { p.m->job = job; })
      .def("note",
           [](nb::handle self, u64 key, u32 kind, const std::string& text) {
             if (kind != EV_NAME && kind != EV_ERROR) throw nb::value_error("no kind of text");
             of(self).m->note(kind, key, {text.data(), text.size()});
           })
      .def("list_events", [](nb::handle self, u64 limit) {
        nb::list out;
        for (auto& r : of(self).m->list_events(limit))
          out.append(
              nb::make_tuple(r.time, r.process, r.kind, r.key, r.about, r.n, r.job, r.by_actor));
        return out;
      });
}

}  // namespace shoal
