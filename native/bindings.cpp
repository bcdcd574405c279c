// The module shoal._native. Its manual is src/shoal/_native.pyi.
#include "bindings.hpp"

#include <fcntl.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>

namespace shoal {

void PyMemory::usable() const {
  if (m->forked) {
    PyErr_SetString(
        forked_error,
        "this process was forked by user code: its handles are inert; use them in the process that "
        "made them, or call shoal.init() here");
    throw nb::python_error();
  }
}

void PyMemory::let_go(Kept kept) {
  for (auto& g : guards)
    if (kept.number <= g.last_pin) {
      g.kept.push_back(kept);
      return;
    }
  if (!m->closed.load()) {
    if (kept.record) m->drop(kept.record);
    if (kept.channel) acknowledge(kept.channel, kept.reader, kept.place);
  }
  Py_XDECREF(kept.channel);
}

// Drop what was kept for children that have gone; what was alive at several forks moves on.
void PyMemory::release_guards() {
  for (size_t i = guards.size(); i-- > 0;) {
    pollfd p{guards[i].pipe, POLLIN, 0};
    if (poll(&p, 1, 0) == 0) continue;
    ::close(guards[i].pipe);
    auto all = std::move(guards[i].kept);
    guards.erase(guards.begin() + i64(i));
    for (auto& kept : all) let_go(kept);
  }
}

PyObject *session_lost, *forked_error, *full_error, *pending_error;

// pthread_atfork takes functions without arguments: the one list of this module. Touched with the
// GIL, or in a child that has one thread.
static std::vector<PyMemory*> memories;

void register_memory(PyMemory* p) { memories.push_back(p); }
void forget_memory(PyMemory* p) { std::erase(memories, p); }

// Children have the writable mapping only where Python shows parts of it: shared blocks, drafts.
static void keep_writable(PyMemory& pm, bool in_children) {
  for (Pin* pin : pm.pins)
    if (pin->end > pin->begin && pin->begin >= pm.m->rw && pin->end <= pm.m->rw + pm.m->size)
      platform::show_to_children(pin->begin, pin->end, in_children);
}

// C libraries fork too, so this is pthread_atfork and not os.register_at_fork.
static void before_fork() {
  for (PyMemory* p : memories)
    if (!p->m->forked && !p->m->closed.load() && !p->pins.empty()) {
      p->m->begin_fork();
      p->is_forking = true;
      keep_writable(*p, true);
      if (pipe2(p->fork_pipe, O_CLOEXEC) != 0) p->fork_pipe[0] = p->fork_pipe[1] = -1;
    }
}
static void after_fork_parent() {
  for (PyMemory* p : memories) {
    if (!p->is_forking) continue;
    p->is_forking = false;
    keep_writable(*p, false);
    // Without a pipe nobody says when the child has gone: the guard stays (poll ignores -1).
    if (p->fork_pipe[1] >= 0) ::close(p->fork_pipe[1]);
    p->guards.push_back({p->fork_pipe[0], p->pin_count, {}});
    p->fork_pipe[0] = p->fork_pipe[1] = -1;
  }
}
static void after_fork_child() {
  for (PyMemory* p : memories) {
    if (p->fork_pipe[0] >= 0)
      ::close(p->fork_pipe[0]);  // the write end stays open: its end is the signal
    p->m->forked = true;
  }
}

static PyObject* new_error(nb::module_& m, const char* name, PyObject* base, const char* doc) {
  std::string full = std::string("shoal._native.") + name;
  PyObject* e = PyErr_NewExceptionWithDoc(full.c_str(), doc, base, nullptr);
  m.attr(name) = nb::borrow(e);
  return e;
}

}  // namespace shoal

NB_MODULE(_native, m) {
  using namespace shoal;
  nb::set_leak_warnings(false);  // refs alive at the end of the interpreter are normal here
  session_lost =
      new_error(m, "SessionLostError", PyExc_Exception, "The session's memory was closed.");
  forked_error =
      new_error(m, "ForkedError", PyExc_RuntimeError, "Used in a child that user code forked.");
  full_error = new_error(m, "FullError", PyExc_MemoryError, "No room: (asked, capacity, kind).");
  pending_error = new_error(m, "PendingError", PyExc_RuntimeError, "The ring of the job is full.");
  m.attr("LAYOUT_HASH") = layout_hash();
  m.attr("FORMAT_PICKLE") = int(PICKLE);
  m.attr("FORMAT_BYTES") = int(BYTES);
  m.attr("FORMAT_ERROR_PICKLE") = int(ERROR_PICKLE);
  m.attr("FORMAT_ERROR_RECORD") = int(ERROR_RECORD);
  m.attr("FLAG_HELP") = int(F_HELP);
  m.attr("FLAG_ACTOR") = int(F_ACTOR);
  m.attr("FLAG_UNORDERED") = int(F_UNORDERED);
  m.attr("FLAG_RETRY_EXCEPTIONS") = int(F_RETRY);
  m.attr("FLAG_FILLS") = int(F_FILLS);
  m.attr("FLAG_NO_RETURN") = int(F_NO_RETURN);
  m.attr("FLAG_STREAM") = int(F_STREAM);
  m.attr("FLAG_DYNAMIC") = int(F_DYNAMIC);
  m.attr("FLAG_REBUILD") = int(F_REBUILD);
  m.attr("FLAG_ITEMS") = int(F_ITEMS);
  m.attr("FLAG_PLACE") = int(F_PLACE);
  m.attr("FORMAT_RECIPE") = int(RECIPE);
  m.attr("EXTENT_BYTES") = EXTENT;
  m.attr("QUEUE_CLASS") = 1;
  m.attr("QUEUE_ACTOR") = 2;
  m.attr("EVENT_METHOD") = EV_METHOD;
  m.attr("EVENT_NAME") = int(EV_NAME);
  m.attr("EVENT_ERROR") = int(EV_ERROR);
  m.attr("WORKER_EXIT") = 0xffffffffu;
  nb::class_<PyTask> task = bind_values(m);
  bind_memory(m, task);
  // What os.fork does more is about other threads: locks that one of them may hold, the table of
  // threads, hooks. In a process without others it is 150 page faults of each child for nothing.
  m.def(
      "fork_worker",
      [](std::pair<int, int> output, std::vector<int> kept, const std::string& name, int score) {
        int out[2] = {output.first, output.second};
        int pid = platform::fork_worker(out, kept.data(), int(kept.size()), name.c_str(), score);
        if (pid < 0) {
          PyErr_SetFromErrno(PyExc_OSError);
          throw nb::python_error();
        }
        if (pid == 0) PyThreadState_Get()->native_thread_id = PyThread_get_thread_native_id();
        return pid;
      },
      nb::arg("output"), nb::arg("kept"), nb::arg("name"), nb::arg("oom_score"));
  // Without ctypes, whose import takes 1 ms of every daemon and zygote.
  m.def("become_subreaper", platform::become_subreaper);
  pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}
