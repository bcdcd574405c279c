// What the binding files share: the Python objects around a Memory.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cxxabi.h>
#include <unistd.h>

#include <unordered_set>
#include <vector>

#include "channel.hpp"

namespace nb = nanobind;

namespace shoal {

// Without the GIL until the end of the block. A thread that comes back while the interpreter ends
// is ended by Python, by unwinding it: through a destructor that is noexcept (as nanobind's is)
// that aborts the program. Here it sleeps instead, until the process is gone.
class Unlocked {
 public:
  Unlocked() : state(PyEval_SaveThread()) {}
  Unlocked(const Unlocked&) = delete;
  ~Unlocked() {
    try {
      PyEval_RestoreThread(state);
    } catch (abi::__forced_unwind&) {
      for (;;) ::pause();
    }
  }

 private:
  PyThreadState* state;
};

struct Pin;

// Values that were alive when user code forked: their holds stay until the child has gone (PROTOCOL
// B4).
//
// What ends with a pin: its hold, or the acknowledgement of a channel's message.
struct Kept {
  u64 number = 0;  // of the pin
  atom<u64>* record = nullptr;
  PyObject* channel = nullptr;  // with a strong reference, while the message is owed
  u32 reader = 0, place = 0;
};
struct ForkGuard {
  int pipe;  // the read end says EOF when the last descendant that could see the values has exited
  u64 last_pin;  // pins numbered up to here existed at the fork
  std::vector<Kept> kept;
};

struct PyMemory {
  Memory* m = nullptr;
  nb::object loads, error, help, future, wait, escaped, about, timed;
  nb::object current;  // the context variable of the running task, where several run side by side
  std::unordered_set<Pin*> pins;
  std::vector<ForkGuard> guards;
  u64 pin_count = 0;
  int fork_pipe[2] = {-1, -1};
  bool is_forking = false;
  bool poked = false;

  ~PyMemory();
  void usable() const;     // throws ForkedError
  void let_go(Kept kept);  // now, or when no child can see the value any more
  void release_guards();
};

struct Ref {
  PyMemory* mem = nullptr;  // with a strong reference to the Python object
  PyObject* owner = nullptr;
  u64 key = 0;
  atom<u64>* record = nullptr;  // nullptr: the owner bit of the slot is what we hold
  PyObject* weak_list = nullptr;
  static Py_ssize_t place;  // of a Ref in its Python object
  Ref() = default;
  Ref(const Ref&) = delete;
  ~Ref();
};

struct Pin {
  PyMemory* mem = nullptr;
  PyObject* owner = nullptr;
  Kept kept;
  u8 *begin = nullptr, *end = nullptr;
  Pin() = default;
  Pin(const Pin&) = delete;
  ~Pin();
};

struct View {  // read-only bytes of a sealed value; keeps its pin
  PyObject* pin = nullptr;
  u8* data = nullptr;
  u64 size = 0;
  View() = default;
  View(const View&) = delete;
  ~View() { Py_XDECREF(pin); }
};

struct PyTask {
  PyMemory* mem = nullptr;
  PyObject* owner = nullptr;
  u64 key = 0, first = 0, function = 0, actor = 0, caller = 0, parent = 0;
  u32 method = 0, attempt = 0, n_returns = 1, flags = 0, job = 0, queue = 0, n_dependencies = 0;
  u32 place = 0;  // in the table of running tasks
  u32 limit = 0;
  i64 max_retries = 0;
  PyTask() = default;
  PyTask(const PyTask&) = delete;
  ~PyTask() { Py_XDECREF(owner); }
};

// The refs that a pickle being made names, and the table that a pickle being read names. Per
// thread.
struct Context {
  PyObject* capture = nullptr;  // list, borrowed
  PyMemory* mem = nullptr;
  PyObject* owner = nullptr;
  atom<u64>* table = nullptr;
  u32 n = 0;
  PyObject* keep = nullptr;  // what the table stands in, if nobody else keeps it
};
extern thread_local Context context;

void register_memory(PyMemory* p);  // for what happens at a fork
void forget_memory(PyMemory* p);
nb::object make_ref(nb::handle memory, PyMemory& pm, u64 key, atom<u64>* record);
// `deadline` (0: none) is for a value that has to be made again first.
nb::object load_slot(nb::handle memory, PyMemory& pm, u32 s, u64 deadline = 0);
[[noreturn]] void raise_value(nb::handle memory, PyMemory& pm, u32 s);
[[noreturn]] void raise_given_up(nb::handle memory, PyMemory& pm, u64 key);
void tell_submitted(PyMemory& pm, u64 key, const std::vector<u32>& dependencies);
u32 fresh_slot(Memory& m);  // mine, or FullError
bool write_simple(Memory& m, u32 s, PyObject* value);
// None, bool, int64, float, short str and bytes: values that need no pickle.
struct Simple {
  u8 format = NONE;
  i64 integer = 0;
  double real = 0;
  Bytes data;
};
bool simple_parts(PyObject* value, Simple& out);                // false: it is none
nb::object load_simple(u8 format, const void* data, u64 size);  // any but PICKLE and errors
void copy_without_gil(void* to, const void* from, u64 size);
struct Buffers {  // exported while they are copied
  std::vector<Py_buffer> views;
  ~Buffers() {
    for (auto& v : views) PyBuffer_Release(&v);
  }
  Bytes add(PyObject* o);
};
nb::object call_loads(PyMemory& pm, nb::handle data, nb::handle buffers);
nb::object make_view(nb::handle pin, const u8* data, u64 size);
void acknowledge(PyObject* channel, u32 reader, u32 place);
void write_parts(PyMemory& pm, u32 s, int format, nb::handle data, nb::handle buffers,
                 nb::handle contained, bool reserve, double timeout_s, u64 task = 0);
// Do what needs memory, waiting for it.
void patiently(PyMemory& pm, u64 bytes, double timeout_s, const std::function<Status()>& step);
// Write, waiting for memory and, for timeout_s, for others to free some; throws FullError.
void write_patiently(PyMemory& pm, u32 s, const ValueParts& v, bool reserve, double timeout_s);
// Keeps the value of `s` while [begin, end) of it can be seen by Python.
nb::object make_pin(nb::handle memory, PyMemory& pm, u32 s, u8* begin, u8* end);
nb::object make_pin(nb::handle memory, PyMemory& pm, const Kept& kept, u8* begin, u8* end);
// The block of a pinned value, once it is in node memory.
u64 come_back(PyMemory& pm, u32 s, u64 deadline = 0);
// The turn (bind_many.cpp), if it is free; given back at the end.
struct Turn {
  explicit Turn(Memory& m) : m(m) {}
  ~Turn();
  bool take();
  Memory& m;
  bool mine = false, is_served = false;
};
struct Patient {  // how long `come_back` waits in this thread while no value of anybody comes back
  explicit Patient(double seconds);
  ~Patient();
  Patient(const Patient&) = delete;
  u64 before;
};
struct Moving {  // a value on its way
  PyMemory* mem = nullptr;
  PyObject* owner = nullptr;
  atom<u64>* record = nullptr;
  u32 s = 0;
  u64 aside = 0;  // the block for it, on the way back
  u8* data = nullptr;
  u64 size = 0;
  Moving() = default;
  Moving(const Moving&) = delete;
  ~Moving() {
    if (mem && !mem->m->forked && !mem->m->closed.load(RLX)) {
      if (aside) mem->m->drop_aside(s, aside);
      if (record) mem->m->drop(record);
    }
    Py_XDECREF(owner);
  }
};
// The value of a key, held or pinned; nothing if it is gone.
nb::object hold_value(nb::handle self, u64 key, bool pin = false);
void bind_lineage(nb::module_& m, nb::class_<PyMemory>& c);
void bind_bridge(nb::class_<PyMemory>& c);
void bind_images(nb::class_<PyTask>& task);
void bind_items(nb::class_<PyTask>& task);
void bind_many(nb::class_<PyMemory>& c, nb::class_<PyTask>& task);
bool wait_sealed(nb::handle memory, PyMemory& pm, u64 key, u64 deadline_ns, bool may_help);
nb::object make_task(nb::handle memory, PyMemory& pm, u64 key);
Spec* running_spec(PyTask& t);         // throws unless this process runs this very attempt
u32 running_return(PyTask& t, u32 i);  // the slot of its return i
void commit_task(PyTask& t);
void forget_task(PyTask& t);
nb::object restore_ref(u32 index);
// Make the refs that value `key` holds those that `restore_ref` reads.
void begin_loading(nb::handle memory, PyMemory& pm, nb::handle ref);
void end_loading();
u64 deadline_of(const std::optional<double>& timeout_s);
void check_signals();
void throw_closed();
void throw_status(Status st, u64 asked, const Memory& m);
void refuse_pending(Memory& m, const std::vector<u32>& slots);
bool is_main_thread();
// Arguments from Python that name places in node memory: looked at before they are used. A key that
// names no slot is the key of something that is gone.
u32 process_index(u32 index);
u32 queue_index(u32 queue);
inline bool names_slot(u64 key) { return key_slot(key) - 1 < SLOTS - 1; }

nb::class_<PyTask> bind_values(nb::module_& m);
void bind_memory(nb::module_& m, nb::class_<PyTask>& task);
void bind_drafts(nb::module_& m, nb::class_<PyMemory>& memory);
void bind_blocks(nb::module_& m, nb::class_<PyMemory>& memory);
void bind_channels(nb::module_& m, nb::class_<PyMemory>& memory);
void bind_pending(nb::class_<PyMemory>& memory, nb::class_<PyTask>& task);
void bind_daemon(nb::module_& mod, nb::class_<PyMemory>& c);
void bind_spilling(nb::module_& m, nb::class_<PyMemory>& c);
PyMemory& of(nb::handle self);  // throws when the memory was closed or the process forked
extern PyObject *session_lost, *forked_error, *full_error, *pending_error;

Memory& alive(PyMemory& pm);  // as `of`, where the Memory is known
// What the Python side makes of failures (`set_channel_hooks`): never returns.
[[noreturn]] void raise_failed(const char* kind, nb::object a, nb::object b);
[[noreturn]] void raise_object(nb::handle error);
nb::object call_dumps(nb::handle memory, nb::handle value);
nb::object call_pack(nb::handle memory, nb::handle error);
[[noreturn]] void raise_translated(nb::handle memory, nb::python_error& error);
// Spin, then sleep at the bell, until `done`; false when time is up. Throws for signals and the end
// of the session. Without the GIL while it sleeps or spins for longer.
bool wait_until(PyMemory& pm, Bell& bell, Patience& patience, const std::function<bool()>& done,
                const std::optional<double>& timeout_s, Berth berth = {});

// Registers a word that this thread is about to sleep on, so that close() can wake it. With the
// GIL.
struct SleepingOn {
  Memory& m;
  atom<u32>& word;
  SleepingOn(Memory& mem, atom<u32>& w) : m(mem), word(w) { m.sleeping_on.push_back(&w); }
  ~SleepingOn() {  // threads that sleep side by side wake in any order
    auto& all = m.sleeping_on;
    all.erase(std::find(all.begin(), all.end(), &word));
  }
};

}  // namespace shoal
