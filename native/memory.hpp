// One process's view of node memory, and every operation on it.
//
// Who may call what: all operations of one Memory run on one thread at a time (in Python: under the
// GIL), so a process has at most one intent of each kind. Only copying, spinning with a token and
// sleeping happen without it, and none of them leaves an intent set. No operation allocates from
// the C heap between an intent and its clearing, except the private hint vectors, which are
// reserved beforehand.
//
// The parts, one file each:
//   memory.cpp   mapping, leased chunks, queues, process records, events
//   slot.cpp     making and freeing slots, holds
//   block.cpp    blocks and extents, populating
//   hollow.cpp   memory inside extents in use, given back
//   task.cpp     build, submit, take, finish, publish
//   cancel.cpp   ending tasks on request, deadlines
//   pending.cpp  slots that are sealed without a task, chains of a stream
//   spill.cpp    values that leave for files and come back; lineage.cpp, that are made again
//   bridge.cpp   tasks and values of other nodes
//   advance.cpp  dependencies: watch, fire, advance, the error cascade
//   wait.cpp     doorbells, spinning, waiting, completions
//   channel.cpp  memory that stays writable: shared blocks and channels (channel.hpp)
//   repair.cpp   what the daemon does for the dead, for actors' queues and for jobs
//   audit.cpp    recounting, and the tables of `shoal.state`
#pragma once
#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "layout.hpp"
#include "platform.hpp"
#include "ring.hpp"

namespace shoal {

inline u64 make_key(u32 slot, u32 gen) { return u64(gen) << 32 | slot; }
inline u32 key_slot(u64 key) { return static_cast<u32>(key); }
inline u32 key_gen(u64 key) { return static_cast<u32>(key >> 32); }

enum class Status { Ok, Full, TooBig, Pending, Dead, Gone, NeedMemory };

struct Bytes {
  const void* data = nullptr;
  u64 size = 0;
};

// What is written into a slot: bytes, out-of-band buffers, and the refs inside them.
struct ValueParts {
  u8 format = NONE;
  Bytes data;
  std::vector<Bytes> buffers;
  std::vector<u32> contained;  // slots
};

struct Call {  // the fixed part of a task
  u64 function = 0, actor = 0;
  u32 queue = 0, queue_gen = 0, job = 0, method = 0, n_returns = 1, flags = 0;
  i64 max_retries = 0;
  u64 parent = 0;  // who submits, where several tasks run side by side
  u32 limit = 0;
  u64 timeout = 0;               // ns that it may take, 0: any time
  u32 actor_job = 0;             // of a call: the job that the actor's id says
  u32 attempt = 0, charged = 0;  // of a rebuild: those that were before
};

struct Ancestry {  // what an object's id is made of, besides its key
  u64 task, actor;
  u32 job, index;  // from 1, of the return; 0: it was put
};

struct RunningTask {
  u64 key;
  u32 attempt;
  i64 max_retries;
  u32 charged, flags, queue;
};

// Whether to spin on after the free 3 us, learned from how long waits of one kind took either way.
//
// Spinning pays when the answer comes within less than a wake-up (30 to 50 us across cores), and
// does harm when whoever is to answer needs this very core: then sleeping at once takes 5 us and
// spinning all of its time. Both happen with the same program, depending on what else the machine
// does, so each is timed (moving averages, long waits count as WORTH) and the better one chosen;
// every TRY-th wait tries the other one, since what was bad a moment ago may be good now.
struct Patience {
  static constexpr u64 LONGEST = 100000, WORTH = 200000, TRY = 32;
  u64 spun = 5000, slept = 50000;  // ns, averages over about eight waits
  u64 begun = 0;
  u32 count = 0;
  bool is_spinning = false;
  u64 window(u64 now) {  // ns to spin; 0: sleep at once
    begun = now;
    const bool other = ++count % TRY == 0;
    // When both are short, both sides looking is what makes them shorter.
    const bool pays = spun < 30000 ? spun < slept + 2000 : spun + spun / 4 < slept;
    is_spinning = pays != other;
    return !is_spinning ? 0 : other ? LONGEST : std::min(LONGEST, 2 * spun + 10000);
  }
  void ended(u64 now) {
    if (!begun) return;
    u64& average = is_spinning ? spun : slept;
    average += (std::min(now - begun, WORTH) >> 3) - (average >> 3);
    begun = 0;
  }
};

// When a waiter next looks whether a task stands beside workers who sleep. The first time is past
// the end of every promise that was made before the wait; the growth bounds the looks of a long
// wait by its logarithm.
struct Doubt {
  static constexpr u64 FIRST = 300000, GROWTH = 8;
  static_assert(FIRST > Patience::LONGEST + 5000);
  u64 after_ns = FIRST;
};

class Memory {
 public:
  static Memory* create(u64 capacity, u32 cores, u64 node_id, u32 max_extents);
  static Memory* attach(int fd, int bell, u32 index);
  // A second view of the same mapping, for programs that play several processes as threads (one
  // mapping, so that the thread sanitizer sees the races).
  static Memory* share(const Memory& other, u32 index);
  ~Memory();
  Memory(const Memory&) = delete;

  // ---- the mapping
  Header& header() { return *at<Header>(0); }
  template <class T>
  T* at(u64 offset) {
    return reinterpret_cast<T*>(rw + offset);
  }
  Slot& slot(u32 i) { return slots[i]; }
  Proc& proc(u32 i) { return procs[i]; }
  Queue& queue(u32 i) { return queues[i]; }
  RingView ring(u32 q);
  RingView inbox();
  RingView completions(u32 p);
  bool is_live(u64 key) { return slot(key_slot(key)).gen.load(ACQ) == key_gen(key); }

  u8 *rw = nullptr, *ro = nullptr;
  u64 size = 0, node_id = 0;
  int fd = -1, bell = -1;
  u32 me = 0;
  Offsets off{};
  Slot* slots = nullptr;
  Proc* procs = nullptr;
  Queue* queues = nullptr;
  atom<u64>* mine = nullptr;  // my running tasks
  bool owns_mapping = true;
  bool forked = false;
  void* mark = nullptr;  // mapped at the first such fork: children inherit it, and whose they are
  std::atomic<bool> closed{false};
  platform::EventClock event_clock;

  // ---- queues and processes (memory.cpp)
  bool new_queue(u32 kind, u32 job, u32& q, u32& gen);
  bool free_queue(u32 q);
  template <class F>
  void each_queue(F f) {
    for (u32 k = 0; k < 2; k++)
      for (u32 q = k ? CLASS_QUEUES : 1; q < header().queue_high[k].load(); q++)
        if (queue(q).used.load(RLX)) f(q);
  }
  i64 open_process(u32 kind);
  // User code is about to fork while it looks at values. Said before there is a child, so that
  // whoever repairs us knows of it, and finds it by its mark.
  void begin_fork();
  // Where the mark of process p stands in the file: its completion ring, a place of its own.
  u64 fork_mark(u32 p) { return off.comps + (u64(p) * 8 << COMPLETION_LOG); }
#ifdef SHOAL_NO_EVENTS  // benchmarks/tracing.py: what would it cost without?
  void event(u32, u64, u64 = 0, u32 = 0) {}
  void event_taken(u64, u64, u32, bool) {}
  void event_sealed(u64, u32) {}
  void event_freed(u64) {}
  void event_submitted(u64, u64) {}
#else
  void event(u32 kind, u64 key, u64 about = 0, u32 n = 0);
  void event_taken(u64 key, u64 about, u32 attempt, bool goes_on);
  void event_sealed(u64 key, u32 format);  // by who ran it
  void event_freed(u64 key);
  void event_submitted(u64 key, u64 parent);
#endif
  std::atomic<u64> sealed_at{0};      // when what I ran last ended, while nothing else has happened
  std::atomic<u32> freed_untimed{0};  // how many more may stand there without a time
  // The same of submits: how many, the last look at the clock, and the tick that it was in.
  std::atomic<u32> submits_untimed{0};
  std::atomic<u64> submit_looked{0}, submit_tick{0};
  void note(u32 kind, u64 key, Bytes text);
  void note_failed(u64 key, u64 about, u8 format, Bytes error);
  static u64 event_of(const Spec& t) {
    return t.flags & F_ACTOR ? method_event(t.actor, t.method) : t.function;
  }
  void set_maker(u32 s, u64 task);
  bool ancestry(u64 key, Ancestry& out);
  void ring_daemon() { platform::ring_bell(bell); }

  // ---- slots and holds (slot.cpp)
  u32 new_slot(u64 bits);  // 0 when there is none
  bool hold(u32 slot, int d, bool pin,
            atom<u64>* record);  // false: the counter is full or the slot is ending
  bool hold_key(u64 key, bool pin,
                atom<u64>*& record);  // a hold in my ledger, if the key is still live
  atom<u64>* ledger_take();           // a free entry; nullptr when the ledger is full
  void ledger_return(atom<u64>* entry);
  void drop(atom<u64>* entry);          // hold -1 and give the entry back
  void clear_bits(u32 slot, u64 bits);  // owner or task bit; frees at zero
  void claim_free(u32 slot);            // counts are zero: free it if nobody else does
  void work_freeing();
  void finish_op(u32 p);  // repair's half of hold and free
  void finish_freeing(u32 p);

  // ---- blocks (block.cpp)
  Status new_block(u64 bytes, u32 slot, bool is_spec, bool reserve, u64& offset);
  void free_block(u64 offset, u64 bytes_hint, u32 slot);
  void replace_spec(u32 slot, u64 origin);
  bool block_is(u64 offset, u32 slot);  // does `slot` hold the block at `offset`?
  u64 block_bytes(u64 offset);
  u32 asked_extents = 0;     // what the last NeedMemory wanted
  bool spares_last = false;  // the daemon, for a value that comes back
  bool asked_room = false;   // ... below the reserve
  u64 extents_to_have(u64 headroom);
  u64 all_extents() { return header().capacity / EXTENT + header().hollow.load(SEQ); }
  u32 inbox_overflows = 0;              // of the daemon: rows that were not told
  Status wait_memory(u64 deadline_ns);  // sleeps until the daemon gave or refused; without intents
  void finish_alloc(u32 p, u64 op, u64 record);
  bool ready_extent(u64 headroom);
  void populate(u64 budget, u64 headroom, u64& done, bool& more);
  bool cool(u32 e);
  u64 give_back(u64 headroom);
  u8 back(u32 first, u32 n);
  bool makes_huge_pages = true;  // until the kernel says that it cannot
  bool collapse(u32 budget);
  void count_extents(u64& used_bytes, u64& populated);

  // ---- spilling (spill.cpp): the daemon only, but for ask_back
  struct Spillable {
    u32 extent;
    double n_extents;  // below 1: others in the extent stay
    std::vector<u64> keys;
    u64 mark;  // changes whenever one of them is looked at
  };
  bool is_looked_at(u32 slot);
  bool may_spill(u32 slot, u64 block);
  std::vector<Spillable> list_spillable();
  u32 shortage(u64 headroom);
  void answer_room(bool is_given);
  Status block_aside(u64 bytes, u32 slot, u64& offset);
  u64 spill(u32 slot, u64 number);
  bool spilled(u32 slot, u64& number, u64& size);
  void restore(u32 slot, u64 offset);
  void lose(u32 slot, Bytes record);
  void drop_aside(u32 slot, u64 offset);
  void tell_restored();
  void ask_back(u32 slot);

  void give_to(u64 offset, u32 slot);

  // ---- bridging (bridge.cpp): the daemon only
  u32 new_proxy(u32 its_job, const u8* id);
  bool is_open_proxy(u64 key);
  void seal_proxy(u32 slot);
  bool foreign_id(u64 key, u8* out);
  u64 image_size(u32 slot, u64 block);
  std::vector<u64> image_table(u64 block);
  bool is_image(u64 block, u64 size, u64 n_refs);
  bool hold_table(u32 slot, u64 block, const std::vector<u32>& contained);
  void take_table(u32 slot, u64 block, u64 stub);
  Status write_image(u32 slot, u8 format, bool in_block, Bytes image,
                     const std::vector<u32>& contained);
  Status write_whole(u32 slot, const ValueParts& v);
  Status write_elsewhere(u32 slot, u8 format, u64 bytes, const std::vector<u32>& contained);
  bool is_elsewhere(u32 slot);
  bool arrive(u32 slot, u64 offset, u64 bytes, const std::vector<u32>& contained);
  std::vector<u64> queued(u32 q, u64 most);

  // ---- memory inside extents in use (hollow.cpp): the daemon only
  void hollow_out(u64 most);
  void sweep_hollow();
  std::vector<u32> holes;  // pages that were given back, by extent
  u64 hole_pages = 0;

  // ---- lineage (lineage.cpp)
  bool is_recipe(u32 slot);
  u32 recipe_of(u32 slot);
  Recipe* recipe(u32 slot);
  u64 first_of(const Spec& t, u64 key);
  int recipe_index(u32 slot, u64 key);
  atom<u64>* hold_recipe_of(u32 slot);
  static constexpr u32 NO_RECIPE_YET = ~0u;
  u32 recipe_for(u64 key, bool may_wait = false);
  void drop_recipe(u64 key);
  void forget_cost(u32 slot);
  u32 trim_lineage(u64 most, const std::set<u64>& spared);
  std::vector<u64> needed();
  ItemFacts& item_facts(u32 slot);
  void name_item(u32 slot, u32 number);
  void seal_item(u32 slot, u32 number);
  struct WantedItem {
    u32 number, slot;  // slot 0: it is gone
  };
  Status put_numbers(const std::vector<u32>& numbers, u32& slot);
  std::vector<u32> numbers_of(Spec& t);
  std::vector<u32> items_away(u32 recipe);
  std::set<u32> queues_of_recipes();
  Status rebuild(u32 slot, std::vector<u32> arguments, const std::vector<WantedItem>& items,
                 std::vector<u32>& returns);
  void set_lost(u32 slot);
  bool is_lost(u32 slot);
  void take_over(u32 slot, u32 from);
  void drop_stub(u32 slot, u64 stub);

  // ---- values (task.cpp)
  Status write_value(u32 slot, const ValueParts& v, bool reserve,
                     const std::function<void(void*, const void*, u64)>& copier);
  void write_inline(u32 slot, u8 format, const void* data, u32 size);
  void discard_value(u32 slot);
  // The data part of a sealed value: of one that may leave memory only by the block that its reader
  // has found, for the block word may change for a moment (see spill.cpp).
  Bytes value_bytes(u32 slot, bool read_only);
  Bytes data_in(u64 block, bool read_only);
  void seal_mine(u32 slot);  // a put: nobody else can know the slot

  // ---- tasks (task.cpp)
  Status submit(const Call& c, Bytes payload, const std::vector<u32>& dependencies,
                const std::vector<u32>& contained, std::vector<u32>& returns);
  bool take(u32 q, u64& key, bool goes_on = false);
  bool may_begin() {  // false: this node's lease is over; the daemon runs nothing, it sends it on
    const u64 until = header().lease.load(RLX);
    return !until || me == 0 || platform::boot_ns() < until;
  }
  bool claim(u64 key, bool goes_on = false);  // QUEUED -> RUNNING by me, for helping
  void commit(u64 key, u32 place);
  void commit(u64 key) { commit(key, proc(me).depth.load(RLX) - 1); }  // the innermost
  void publish(u64 key, bool unconditional);
  void cleanup(u64 key);  // drop what a task holds, clear its task bits
  void end_return(u64 key);
  bool has_task(u64 key);  // is the task bit of this very generation still set?
  bool push(u32 s);        // QUEUED and into the ring, wake
  void wake(u32 q);
  Spec* spec(u32 s);  // nullptr when it is freed
  u32 room_needed(u32 q);
  void drop_stale(u32 qi);
  void refill(u32 q);
  // What this process runs. Plain tasks lie above each other (who waits may help); calls of one
  // actor may run side by side and end in any order: then a place that is left says 0 and is
  // taken again.
  atom<u64>* running_of(u32 p) { return at<atom<u64>>(off.running) + u64(p) * RUNNING_MAX; }
  u64 running_top();
  u32 running_push(u64 key);  // its place
  void running_pop(u32 place);

  // ---- cancelling (cancel.cpp)
  struct Attempt {
    u64 key;
    u32 attempt, worker, flags;
  };
  struct Stages {
    u64 state;
    u32 attempt, worker, flags;
    u64 held = 0, queued = 0, running = 0;  // ns, of a task with a deadline
  };
  u64 deadline_for(const Call& c, u64 parent);
  bool stages(u64 key, Stages& out);
  bool is_running(u64 key, u32 attempt);
  std::vector<u64> family(u64 root);
  void cancel(u64 key, Bytes held, Bytes queued, bool is_late, std::vector<Attempt>& running);
  void tell_given_up();
  void end_dependents();
  Bytes given_up_record(u64 key);  // what waiting for such a call raises
  bool is_given_up(u32 s) {
    Slot& x = slot(s);
    return (x.flags.load(SEQ) & GIVEN_UP) && (x.state.load(SEQ) & ~WAITERS) != SEALED;
  }
  // Whether who waits for it may go on: it has a value, or is a call that was given up.
  bool is_ready(u64 key) {
    Slot& x = slot(key_slot(key));
    return (x.state.load(SEQ) & ~WAITERS) == SEALED || (x.flags.load(SEQ) & GIVEN_UP);
  }

  // ---- pending slots (pending.cpp)
  u32 new_pending(u32 number);  // 0 when there is none
  bool is_pending(u64 key);
  void seal_pending(u64 key);
  atom<u64>* stream_places(u32 s);
  bool advance_stream(u32 s, u32 cell);
  u32 stream_place(u32 s);

  // ---- dependencies (advance.cpp)
  void fire(u32 s);
  void fire_node(u32 s, u32 node);
  void tell_completion(u32 p);
  void advance(u32 t);
  u32 advance_one(u32 t);
  u32 end_lane(u32 t);
  void note_lane(u32 queue, u64 key);
  bool link_lane(u32 t, u32 predecessor);
  bool seal_like(u32 t, u32 dependency);
  void set_turn(u32 t, u32 process_plus_1);
  void work_cascade();
  void settle(u32 p, u32 t);  // repair of a task whose advancing was interrupted
  void finish_task_op(u32 p);

  // ---- waiting (wait.cpp)
  enum class Wait { Sealed, Timeout, Interrupted, Closed, Doubted };
  bool spin(const std::function<bool()>& done, u64 ns);
  u32 lookers();     // how many may spin for longer at once
  int take_token();  // -1: all are taken
  void give_token(int token);
  // After the free spin: spin on with a token, if `patience` says that it pays.
  bool spin_on(Patience& patience, const std::function<bool()>& done);
  void promise(u32 q, u64& until);
  bool end_promise(u32 q, u64& until);
  // Sleep until `s` is sealed, at most until deadline (0: for ever), in slices of slice_ns (0:
  // none).
  // Doubted: neither sealed nor at the end of the slice, but a look around was due.
  Wait wait_slot(u32 s, u32 gen, u64 deadline_ns, u64 slice_ns, Doubt& doubt);
  Wait doubt_on(atom<u32>& word, u32 value, u64 deadline_ns, u64 slice_ns, Doubt& doubt);
  void wake_forgotten();
  Wait sleep_on(atom<u32>& word, u32 value, u64 deadline_ns, u64 slice_ns);
  void lend(bool blocked);
  bool watch(u64 key, u64 token);
  void drain_completions();
  void give_node(u32 node, bool is_slot_gone);
  void close();
  void let_go(std::vector<std::pair<u64, u64>> keep);  // after close: unmap all but these bytes
  u64 helpable(u32 s);  // the task to run instead of waiting for `s`: its key, or 0

  // ---- the daemon (repair.cpp)
  void repair(u32 p, std::vector<RunningTask>& running);
  void release_pins(u32 p);
  void close_process(u32 p);
  bool requeue(u64 key, bool charged, bool front);
  // `kept`: slots that the error holds, as what the task was to work on.
  bool fail(u64 key, Bytes record, bool is_worker_dead = false, const std::vector<u32>& kept = {});
  // Keys that a sealed value, or the arguments of a task that cannot move, hold: of a task first
  // its dependencies.
  std::vector<u64> contained(u64 key);
  u32 kill_queue(u32 q, Bytes record);
  u32 fail_queued(u32 q, Bytes record);
  u32 end_job(u32 job, Bytes record);
  u32 end_children(std::vector<u64> parents, Bytes record);
  bool adopt(u64 key);
  void release(u64 key);
  u32 handles(u64 key);
  void ring_all();

  // ---- audit and views (audit.cpp)
  struct Audit {
    u64 bytes = 0, slots = 0, specs = 0, leaked_blocks = 0, wrong_counts = 0;
  };
  Audit audit();
  struct TaskRow {
    u64 key, state, attempt, worker, function, queue, job, parent, caller, id_job;
  };
  std::vector<TaskRow> list_tasks(u64 limit);
  struct ObjectRow {
    u64 key, format, size, refs, pins;
    i64 owner;
  };
  std::vector<ObjectRow> list_objects(u64 limit);
  struct EventRow {
    u64 time, process, kind, key, about, n, job;
    bool by_actor;
  };
  std::vector<EventRow> list_events(u64 limit);

  // ---- what explanations look at (sight.cpp)
  struct Sight {
    u64 task, format, state, attempt, worker, flags, about, queue, job, parent, dependency,
        predecessor, is_cell, deadline, submitted, taken, size;
    i64 owner;
    Ancestry from;
  };
  bool sight(u64 key, Sight& out);
  bool names_task(u64 key);
  struct ProcessSight {
    u64 waits_for, waits_since, events;
    std::vector<u64> running, watched;
  };
  ProcessSight process_sight(u32 p);
  struct HoldRow {
    u64 key, kind, holder, refs, pins;
  };
  std::vector<HoldRow> list_holds(u64 limit);
  u64 events_lost();
  void seal_error(u32 s, Bytes record, const std::vector<u32>& kept = {});

  // ---- private hints: nothing here is needed after a death
  struct SizeClass {
    u32 extent = ~0u, cursor = 0;
    std::vector<u64> freed;
  };
  std::vector<SizeClass> classes;
  std::vector<u32> free_slots;
  std::vector<u32> my_chunks;
  std::vector<bool> listed;
  std::vector<atom<u64>*> free_ledger;
  std::vector<u32> free_nodes;
  struct Watched {
    u64 token;
    u32 node;
  };
  std::unordered_map<u64, Watched> watched;  // key -> what to do once it is sealed
  std::vector<u64> ready;                    // tokens of sealed watched refs
  std::unordered_map<u32, u64> lanes;   // actor queue -> key of my last call not pushed at once
  size_t lanes_looked_at = 64;          // so many, and those that are gone are forgotten
  std::vector<atom<u32>*> sleeping_on;  // words that threads of this process sleep on
  Patience for_value, for_completion, for_task;
  std::vector<u32> left_places;  // of `mine`, below depth; may be stale
  u32 claimed_place = 0;         // of the last task that was claimed
  bool side_by_side = false;     // several tasks run at once: each submit names its parent
  u64 last_deadline = 0;         // of the task submitted last
  u32 job = 0;                   // whose values this process makes
  u64 own_actor = 0;             // that lives in this process
  std::function<u64()> current;  // the task that runs here, where several do side by side
  std::unordered_map<u64, u32> own_recipes;  // made for tasks that run here, until they end
  u64 op_number = 0;
  u32 scan_chunk = 0, extent_hint = 0;
  bool working = false, cascading = false;
  bool keep_turn =
      false;  // the value being written belongs to a cancelled task: its size word is in use
  u64 bytes_in_use = 0;

  u32 lease_chunk(int table);
  void reset_hints();
  std::vector<u32> freed_watch;

 private:
  Memory() = default;
  void map_tables();
  bool alloc_small(u32 cls, u32 slot, bool is_spec, u64& offset);
  bool try_block(u64 extent, u32 index, u32 cls, u32 slot, bool is_spec, u64& offset);
  Status find_extents(u32 n, bool reserve, u32& first);
  Status alloc_run(u32 n, u32 slot, bool is_spec, bool reserve, u64& offset);
  bool close_extent(u64 e);
  u64 give_pages(u64 begin, u64 end);
  void set_holes(u64 e, u64 pages);
  void hollow_small(u64 e, u64 w);
  void hollow_run(u64 e, u64 w);
  bool take_hollow(u64 e, u64 w);
  void tell(u64 life, u32 slot);
  u64 begin_op(u32 slot, u64 kind, u64 address, int d, bool pin, u64 life);
  bool refill_slots();
  void sweep_chunks(u32 p);
  void sweep_ledger(u32 p, bool keep_pins);
  void tell_if_last(u32 s);
};

u32 size_class(u64 bytes);
u64 class_bytes(u32 cls);
inline constexpr u32 SIZE_CLASSES = 27;

// What is left of an error for which there is no block: a record of its class without fields, of at
// most INLINE_BYTES, to `out`. One that is no record becomes FULL_RECORD.
u32 bare_record(u8 format, Bytes error, u8* out);

// Says what a thread of this process is about to sleep for, until the end of its wait.
class Awaiting {
 public:
  explicit Awaiting(Memory& memory) : m(memory) {}
  ~Awaiting() {
    u64 mine = key;
    if (key) m.proc(m.me).waits_for.compare_exchange_strong(mine, 0, RLX);
  }
  template <class F>
  void say_first(const std::vector<u64>& keys, F is_ready) {
    for (u64 k : keys)
      if (!is_ready(k)) return say(k);
  }
  void say(u64 awaited) {
    if (awaited == key) return;
    key = awaited;
    m.proc(m.me).waits_since.store(platform::now_ns(), RLX);
    m.proc(m.me).waits_for.store(key, REL);
  }

 private:
  Memory& m;
  u64 key = 0;
};

}  // namespace shoal
