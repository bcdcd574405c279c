// Layout of node memory: what every byte of the shared file means.
//
//   0        Header (one per node)            words that belong to nobody in particular
//   procs    Proc    x 4096                   intents, doorbell
//   running  u64 x 16384 per process          what it runs: keys
//   queues   Queue   x 9216                   1024 class queues, then 8192 actor queues
//   rings    u64 cells                        2^20 per class queue, 2^16 per actor queue
//   inbox    u64 cells x 2^16                 adopted objects that lost their last handle
//   comps    u64 cells x 4096 per process     completion rings
//   owners   u32 x chunks (3 tables)          who leases which chunk of slots, ledger, nodes
//   slots    Slot    x 4 M                    the 128-byte futures
//   ledger   u64     x 8 M                    what processes hold of others' objects
//   nodes    Node    x 4 M                    "tell me when this slot is sealed"
//   events   Event   x 4096 per process       always-on tracing
//   extents  u64 x n, warm u8 x n             one word per 2 MiB extent
//   holders  u32 x 16384 per extent           one word per block: slot + 1 of its owner, or 0
//   data     n x 2 MiB                        the blocks
//
// The file is sparse: what nobody touches costs nothing. Everything is an offset from the start; no
// pointer is ever stored. A Slot is two cache lines:
//
//   line 0  | state 4 | gen 4 | claim 8 | life 8 | block 8 | size 8 | spec 8 | watch 4 | succ 4 |
//           | queue 4 | job 2 | kind 1 | flags 1 |
//   line 1  | up to 64 bytes of value |
//
//   claim   gen:32 attempt:8 st:4 worker:20       who may run it; DONE is the commit of all returns
//   life    seq:12 who:12 task:1 owner:1 pins:14 refs:24
//           all 40 count bits set: FREEING (seq 1, by `who`) or FREED (seq 0)
//   watch   CLOSED:1 tag:1 index:30               list of who waits; a popped node leaves it first
//
// The hash below covers every size and offset; a process with another hash maps nothing more (E-1).
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

#ifdef SHOAL_COUNT
#include "test/counted.hpp"
#endif

namespace shoal {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i64 = std::int64_t;
#ifdef SHOAL_COUNT  // test/scale.cpp counts what processes change in common
template <class T>
using atom = Counted<T>;
#else
template <class T>
using atom = std::atomic<T>;
#endif
static_assert(atom<u64>::is_always_lock_free && atom<u32>::is_always_lock_free);

inline constexpr auto ACQ = std::memory_order_acquire;
inline constexpr auto REL = std::memory_order_release;
inline constexpr auto RLX = std::memory_order_relaxed;
inline constexpr auto SEQ = std::memory_order_seq_cst;

// ---- sizes -------------------------------------------------------------------------------------
inline constexpr u32 MAX_PROCS = 4096;  // 12 bits in the life word; index 0 is the daemon
inline constexpr u32 CLASS_QUEUES = 1024;
inline constexpr u32 ACTOR_QUEUES = 8192;
inline constexpr u32 QUEUES = CLASS_QUEUES + ACTOR_QUEUES;
inline constexpr u32 CLASS_CELLS_LOG = 20;
inline constexpr u32 ACTOR_CELLS_LOG = 16;
inline constexpr u32 INBOX_LOG = 16;
inline constexpr u32 COMPLETION_LOG = 12;
inline constexpr u32 CHUNKS = 16384;  // of each kind
inline constexpr u32 SLOTS_PER_CHUNK = 256;
inline constexpr u32 SLOTS = CHUNKS * SLOTS_PER_CHUNK;
inline constexpr u32 LEDGER_PER_CHUNK = 512;
inline constexpr u32 NODES_PER_CHUNK = 256;
inline constexpr u32 EVENTS_PER_PROC = 4096;
inline constexpr u32 RUNNING_MAX = 16384;  // the last four are reserve for what needs no claim
inline constexpr u64 EXTENT = 2ull << 20;
inline constexpr u32 WARM_RESERVE = 512;  // extents kept warm at most while nobody asks: 1 GiB
inline constexpr u32 MIN_BLOCK = 128;
inline constexpr u32 HOLDERS_PER_EXTENT = EXTENT / MIN_BLOCK;
inline constexpr u32 INLINE_BYTES = 64;
inline constexpr u32 ID_BYTES = 32;
inline constexpr u32 MAX_TOKENS = 64;

// ---- slot words --------------------------------------------------------------------------------
inline constexpr u32 FREE = 0, PENDING = 1, SEALED = 2, WAITERS = 0x80000000u;

enum Format : u8 {
  NONE = 1,
  TRUE_ = 2,
  FALSE_ = 3,
  INT = 4,
  FLOAT = 5,
  STR = 6,
  BYTES = 7,
  PICKLE = 8,
  ERROR_PICKLE = 9,
  ERROR_RECORD = 10,
  RECIPE = 11,  // how other values are made again, see lineage.cpp; nobody loads it
};
inline bool is_error(u8 kind) { return kind == ERROR_PICKLE || kind == ERROR_RECORD; }

// A value of which only a stub is in node memory, in its block word (spill.cpp). Smaller values
// stay: who reads them takes no pin.
inline constexpr u64 SPILLED = 1ull << 63, BARE = 1ull << 62;
// ... and its bytes are on another node (bridge.cpp).
inline constexpr u64 ELSEWHERE = 1ull << 61;
// What stands in node memory of a value with this block word: its block, its stub, or nothing (0).
inline u64 block_of(u64 word) {
  return !(word & SPILLED) ? word : word & BARE ? 0 : word & ~(SPILLED | ELSEWHERE);
}
inline bool is_away(u64 word) { return (word & SPILLED) && (word & ELSEWHERE); }
inline constexpr u64 SPILLED_LEAST = 32768;
inline constexpr u32 SPILLS_NOT = 0, SPILLS = 1, SPILLS_RECORDS = 2;  // there are records in files
inline bool is_spillable(u64 size) { return size >= SPILLED_LEAST && !(size >> 63); }

enum Claim : u64 { NO_CLAIM = 0, HELD = 1, QUEUED = 2, RUNNING = 3, DONE = 4, CANCELLED = 5 };
inline u64 make_claim(u64 gen, u64 attempt, u64 st, u64 worker) {
  return gen << 32 | (attempt & 0xff) << 24 | st << 20 | worker;
}
inline u32 claim_gen(u64 c) { return static_cast<u32>(c >> 32); }
inline u32 claim_attempt(u64 c) { return c >> 24 & 0xff; }
inline u64 claim_state(u64 c) { return c >> 20 & 15; }
inline u32 claim_worker(u64 c) { return c & 0xfffff; }

inline constexpr u64 REF_ONE = 1, REFS = (1ull << 24) - 1;
inline constexpr u64 PIN_ONE = 1ull << 24, PINS = ((1ull << 14) - 1) << 24;
inline constexpr u64 OWNER = 1ull << 38, TASK = 1ull << 39, COUNTS = (1ull << 40) - 1;
inline u64 stamp(u64 who, u64 seq) { return (who & 0xfff) << 40 | (seq & 0xfff) << 52; }
inline u32 life_who(u64 w) { return w >> 40 & 0xfff; }
inline u32 life_seq(u64 w) { return w >> 52 & 0xfff; }
inline constexpr u64 FREED = COUNTS;
inline u64 freeing(u64 who) { return COUNTS | stamp(who, 1); }
inline bool is_ending(u64 w) { return (w & COUNTS) == COUNTS; }

// What an object knows of its ancestry for as long as it lives (Memory::ancestry), so that its id
// can say it. Its job stands in `job` (of a call: the actor's). A put value keeps the key of the
// task that put it in {queue, succ}, the second and later returns that of the first: neither is
// ever queued or in a lane. The actor that made it and the number of the return stand in the spec
// word, whose top bit tells them from an offset: of a first return once its spec is gone, of all
// others from the start. 0 there: a task's first return, or a value that no actor put.
//
//   63  | index 9 | generation 32 and slot 22 of the actor's key, 0: no actor |
inline constexpr u64 ORIGIN = 1ull << 63;
inline constexpr u32 INDEX_MOST = 511;  // of returns beyond it
inline u64 make_origin(u64 actor, u32 index) {
  const u64 known = index < INDEX_MOST ? index : INDEX_MOST;
  return ORIGIN | known << 54 | (actor >> 32) << 22 | (actor & 0x3fffff);
}
// In the spec word of a proxy: its id, which another node made, stands in its last inline bytes.
// (As an origin it would name an actor in slot 0, which nobody has.)
inline constexpr u64 FOREIGN = ORIGIN | 1ull << 22;
inline u64 origin_actor(u64 w) {
  return (w & ORIGIN) && w != FOREIGN ? (w >> 22 & 0xffffffff) << 32 | (w & 0x3fffff) : 0;
}
inline u32 origin_index(u64 w) { return w & ORIGIN ? w >> 54 & INDEX_MOST : 0; }

inline constexpr u32 CLOSED = 0x80000000u, NODE_TAG = 0x40000000u, INDEX = 0x3fffffffu;

// Whose turn it is to advance a HELD task: kept in the size word of its first return slot
// (type-stable, unlike the spec), marked by the top bit, which no size has. 0 process: nobody, the
// task is linked on what it waits for.
inline u64 make_turn(u32 gen, u32 process_plus_1) {
  return 1ull << 63 | u64(gen & 0x7fffffff) << 32 | process_plus_1;
}
inline bool is_turn(u64 size) { return size >> 63; }

// The error record that always fits inline: msgpack of ["ObjectStoreFullError", {}].
inline constexpr u8 FULL_RECORD[] = {0x92, 0xb4, 'O', 'b', 'j', 'e', 'c', 't', 'S', 't', 'o', 'r',
                                     'e',  'F',  'u', 'l', 'l', 'E', 'r', 'r', 'o', 'r', 0x80};

enum SlotFlag : u8 {
  ADOPTED = 1,  // the daemon is told when only its hold (or the task's) is left
  HAS_TABLE = 2,
  IS_CELL = 4,     // a pending slot, see pending.cpp
  CANCELLED_ = 8,  // of a task that runs: it is to end without a value, see cancel.cpp
  GIVEN_UP = 16,   // of a call that runs: whoever waits for it need not
  LATE = 32,       // ... because its time is over
  SHARED = 64,     // a block that stays writable, see channel.hpp
  CHANNEL = 128,   // a channel, see there
};

struct alignas(128) Slot {
  atom<u32> state;
  atom<u32> gen;
  atom<u64> claim;
  atom<u64> life;
  atom<u64> block;  // offset of the value's block, 0: inline; or SPILLED
  atom<u64> size;   // bytes of the value
  atom<u64> spec;   // offset of the task's spec, in its first return slot; or where it is from
  atom<u32> watch;
  atom<u32> succ;   // next call of the same caller; link of the freeing stack later
  atom<u32> queue;  // where it is queued; link of the cascade list once DONE
  atom<u16> job;    // of the task that made it; of a call's returns: the actor's
  atom<u8> kind;
  atom<u8> flags;
  u8 inline_bytes[INLINE_BYTES];
  // {state, gen} as one word, so that FREE and gen + 1 are one store.
  atom<u64>& head() { return *reinterpret_cast<atom<u64>*>(this); }
};
static_assert(sizeof(Slot) == 128 && offsetof(Slot, inline_bytes) == 64);

// A hold: slot + 1, and whether it is a pin. 0: none. Same form in ledgers, specs and tables.
inline constexpr u64 HOLD_PIN = 1ull << 32;
inline u32 hold_slot(u64 record) { return static_cast<u32>(record) - 1; }

// ---- queues ------------------------------------------------------------------------------------
struct alignas(128) Ring {
  atom<u64> head;
  alignas(128) atom<u64> tail;
};

struct alignas(128) Queue {
  Ring ring;
  alignas(128) atom<u64> searching;  // ns until which somebody promises to look; 0: nobody
  atom<u32> hungry;                  // the daemon could attach more workers
  atom<u32> dead;
  atom<u32> redo;  // an actor's interrupted call: taken before the ring
  atom<u32> gen;
  atom<u32> overflow;  // QUEUED tasks that are in no cell: the daemon refills
  atom<u32> used;      // 0 free, 1 class, 2 actor
  u32 job;
  atom<u32> space;  // futex of drivers that wait for room
  alignas(128) atom<u64> idle[MAX_PROCS / 64];
};

// ---- processes ---------------------------------------------------------------------------------
enum Op : u64 { OP_HOLD = 1, OP_ALLOC = 2, OP_RUN = 3, OP_FREE = 4, OP_CLOSE = 5 };
enum TaskOp : u64 { TASK_BUILD = 1, TASK_ADVANCE = 2, TASK_FIRE = 3 };
inline constexpr u64 OP_DONE = 1ull << 63;
inline u64 make_op(u32 slot, u64 n) { return (n & 0x7fffffff) << 32 | slot; }
inline u64 make_task_op(u64 kind, u32 slot, u32 node = 0) {
  return kind << 60 | u64(slot) << 32 | node;
}

enum ProcKind : u32 { NO_PROC = 0, DRIVER = 1, WORKER = 2, DAEMON = 3 };

struct alignas(128) Proc {
  atom<u64> op;         // {done:1, n:31, slot:32}; 0: no operation
  atom<u64> op_record;  // what the operation is about: address << 8 | sign, pin and kind
  atom<u64> task_op;    // {kind:4, slot:28, node:32}
  atom<u32> freeing;    // stack of slots this process is freeing, linked through succ
  atom<u32> freeing_next;
  atom<u32> cascade;  // list of slots DONE by this process and not yet published
  atom<u32> depth;    // entries of its table of running tasks up to the last that is not 0
  atom<u64>
      lane_hold;  // hold on the ordered call that is being pushed, until its successor is known
  atom<u32> kind, epoch;
  atom<u32> forked;              // user code has forked here while values were looked at
  alignas(128) atom<u32> door;   // futex of take
  alignas(128) atom<u32> cdoor;  // futex of wait and completions
  atom<u32> rescan;              // completion ring was full: look at every watched slot
  atom<u32> assign, attached, blocked, sleeping;
  atom<u32> leased;  // its pid, if it must not outlive the node's lease: the zygote sees to that
  Ring completions;
  atom<u64> event_seq;
  // What it sleeps for, and since when (ns): for explanations only. Of several threads the last
  // one that went to sleep.
  atom<u64> waits_for, waits_since;
};
inline constexpr u64 WAITS_FOR_ROOM = ~0ull;  // for node memory; no key has this value

struct Node {
  atom<u32> next;
  atom<u32> state;  // 0 free, 1 linked, 2 fired
  atom<u32> proc, epoch;
  atom<u64> key;
  u64 pad;
};
static_assert(sizeof(Node) == 32);

struct Event {
  atom<u64> time, what, key;
  // EV_SUBMIT: key of the parent. EV_TAKE: key of the function, or `method_event`; so EV_SEAL of
  // what was failed without being run, and of what an actor ran. EV_NAME, EV_ERROR: eight bytes of
  // text. EV_PUT: key of the task that put it, or `method_event` of an actor outside its calls.
  // EV_FREE: key of the next that was freed, 0: none. EV_FREE_MORE: so are `about` and `time`.
  atom<u64> about;
};  // what: kind:6 | EV_BY_ACTOR | EV_NEAR | took:18 at 8 | format:5 at 26 | EV_ENDED | at 32,
    // 16 bits: of EV_TAKE the attempt, of EV_SEAL the format of the first return, of a text which
    // eight bytes | job of the slot:16
inline u32 event_kind(u64 what) { return u32(what & 0x3f); }
inline constexpr u64 EV_BY_ACTOR = 1 << 6;  // written by an actor's process
// Of EV_TAKE: the worker went straight on, and began it at that time, or when it was submitted. Of
// EV_SUBMIT: between that time, which the record before it has, and the next record's.
inline constexpr u64 EV_NEAR = 1 << 7;
// Of EV_TAKE: the attempt has ended too, `took` ns later, with that format of its first return.
// Written where nothing else has happened in between; what took longer leaves an EV_SEAL.
inline constexpr u64 EV_ENDED = 1ull << 31;
inline constexpr u64 TOOK_MOST = (1 << 18) - 1, FORMAT_MOST = 31;
inline u64 event_end(u64 took, u64 format) { return EV_ENDED | took << 8 | format << 26; }
inline u64 event_took(u64 what) { return what >> 8 & TOOK_MOST; }
inline u32 event_format(u64 what) { return u32(what >> 26 & FORMAT_MOST); }
inline constexpr u64 EV_METHOD = 1ull << 63;
inline constexpr u32 NO_METHOD = 1023;  // or one whose number is too large
static_assert(SLOTS <= 1u << 22);
inline u64 method_event(u64 actor, u32 method) {  // both can be told from it
  return EV_METHOD | actor | u64(method < NO_METHOD ? method : NO_METHOD) << 22;
}
inline constexpr u32 FREED_UNTIMED = 13;  // so many may follow in the record of one that was timed
// So many submits may follow one that looked at the clock, if the look before it was SUBMITS_NEAR
// ns ago at most, and while the kernel's clock has not ticked.
inline constexpr u32 SUBMITS_UNTIMED = 7;
inline constexpr u64 SUBMITS_NEAR = 50000;
inline constexpr u32 NOTE_PIECES = 8;  // of a text; what is longer is cut
enum EventKind : u32 {
  EV_SUBMIT = 1,
  EV_TAKE = 2,
  EV_SEAL = 3,
  EV_PUT = 4,
  EV_FREE = 5,
  EV_REPAIR = 6,
  EV_NAME = 7,   // of a call that was given a name of its own
  EV_ERROR = 8,  // class of what a task failed with
  EV_SPILL = 9,
  EV_RESTORE = 10,
  EV_LOST = 11,
  EV_REBUILD = 12,   // about: the task that makes it again; n: its attempt
  EV_FREE_MORE = 13  // up to three keys, freed after those of the record before it
};

// ---- blocks ------------------------------------------------------------------------------------
// extent word: kind:4 | size class or run length:28 | owner slot + 1 : 32
enum ExtentKind : u64 { EXT_FREE = 0, EXT_SMALL = 1, EXT_HEAD = 2, EXT_TAIL = 3, EXT_CLOSING = 4 };
// In a holder word: nobody's, and no memory is behind it (see hollow.cpp).
inline constexpr u32 HOLE = ~0u;
inline u64 make_extent(u64 kind, u64 arg, u64 owner) { return kind << 60 | arg << 32 | owner; }
inline u64 extent_kind(u64 w) { return w >> 60; }
inline u32 extent_arg(u64 w) { return static_cast<u32>(w >> 32) & 0x0fffffff; }
inline u32 extent_owner(u64 w) { return static_cast<u32>(w); }

// A value's block: table of contained refs, table of buffers, pickle, buffers.
struct ValueHeader {
  u32 n_contained, n_buffers;
  u64 data_offset, data_size;
  // u64 contained[n_contained]; {u64 offset, size} buffers[n_buffers]; ...
};

// A task: written once by its submitter, read by whoever runs it. `next` and `link` belong to
// advance.
enum SpecFlag : u32 {
  F_HELP = 1,
  F_ACTOR = 2,
  F_RETRY = 4,
  F_FILLS = 8,
  F_LANE = 16,
  F_NO_RETURN = 32,
  F_UNORDERED = 64,
  F_STREAM = 128,  // its last two contained refs are where its chain of cells stands
  F_DYNAMIC = 256,
  F_TIMED = 512,     // has `Times`
  F_REBUILD = 1024,  // of a recipe, which is its last contained ref
  F_ITEMS = 2048,    // ... of a generator: its returns are items, by the numbers in the ref before
  F_PLACE = 4096     // of another node, which has recipes of its own: large results have an empty
                     // last entry in their tables for that
};
struct Times {  // ns; of a task with a deadline, just before its payload
  u64 deadline, submitted;
  atom<u64> queued, taken;
};
struct Spec {
  // Of a plain task `actor` is the one in whose process it was submitted, and of a call, which has
  // no function, `function` is; 0: none. So an id of the parent can be made when the parent is
  // gone.
  u64 function, actor, parent;
  u32 queue, job, method, flags;
  i64 max_retries;
  atom<u32> charged;
  u32 n_returns, n_dependencies, n_contained;
  atom<u32> next;         // index of the dependency being watched
  atom<u32> link;         // list of the watched slot
  atom<u32> predecessor;  // slot of the caller's previous call, while it is not pushed
  u32 limit;              // of a stream: unseen items at most, 0: any number
  u64 payload_offset, payload_size;
  // atom<u64> holds[n_dependencies + n_contained + 2]; u64 returns[n_returns] (keys); payload
  atom<u64>* holds() { return reinterpret_cast<atom<u64>*>(this + 1); }
  u32 n_holds() const { return n_dependencies + n_contained + 2; }
  u64 callee() const { return flags & F_ACTOR ? actor : 0; }
  u64 caller() const { return flags & F_ACTOR ? function : actor; }
  Times* times() {
    return reinterpret_cast<Times*>(reinterpret_cast<u8*>(this) + payload_offset - sizeof(Times));
  }
  u64* returns() { return reinterpret_cast<u64*>(holds() + n_holds()); }
};

// Which item of its generator a value is, and how often it was made again; only the daemon counts
// that. Of a value in a block, the inline bytes of its slot.
struct ItemFacts {
  atom<u32> number, times;
};
// "Item" of a generator whose results are a list of refs (F_DYNAMIC): that list.
inline constexpr u32 LIST_ITEM = 0x7fffffff;

// What a task was: all that is needed to run it again. Key of each argument, then (if it is an item
// of a generator) which, then the key of each return (as they were called in its first life), then
// the payload.
struct Recipe {
  u64 function, actor, parent, made, cost;  // made: ns; cost: bytes that only it keeps
  u64 timeout;                              // ns that each run may take, 0: any time
  u32 queue, queue_gen, job, method, flags, limit;
  i64 max_retries;
  u32 attempt, charged;  // of the last run; the daemon changes them
  u32 n_returns, n_dependencies, n_contained, pad;
  u64 payload_size;
  void fill(const Spec& t, u32 its_attempt, u32 gen, u64 its_timeout) {
    *this = {t.function,
             t.actor,
             t.parent,
             0,
             0,
             its_timeout,
             t.queue,
             gen,
             t.job,
             t.method,
             t.flags,
             t.limit,
             t.max_retries,
             its_attempt,
             t.charged.load(std::memory_order_relaxed),
             t.n_returns,
             t.n_dependencies,
             t.n_contained,
             0,
             t.payload_size};
  }
  u32 n_arguments() const { return n_dependencies + n_contained; }
  bool is_generator() const { return flags & (F_STREAM | F_DYNAMIC); }
  u64 bytes() const {
    return sizeof(Recipe) + 8ull * (n_arguments() + (n_arguments() + 1) / 2 + n_returns) +
           payload_size;
  }
  u64* arguments() { return reinterpret_cast<u64*>(this + 1); }
  u32* items() { return reinterpret_cast<u32*>(arguments() + n_arguments()); }
  u64* returns() { return arguments() + n_arguments() + (n_arguments() + 1) / 2; }
  u8* payload() { return reinterpret_cast<u8*>(returns() + n_returns); }
};

// ---- header ------------------------------------------------------------------------------------
struct Offsets {
  u64 procs, running, queues, rings, inbox, comps, owners, slots, ledger, nodes, events, extents,
      warm, hints, holders, data, end;
};

struct Header {
  u64 magic, layout;
  u64 node_id, capacity;
  u32 cores, n_extents;
  // Of a node of a cluster: until when (ns of CLOCK_BOOTTIME) it may begin anything; 0: for ever.
  // Workers look before each claim, so that also those of a daemon that stands still begin nothing.
  atom<u64> lease;
  Offsets off;
  alignas(128) atom<u32> space;  // futex bumped when room appears
  atom<u32> space_waiters;
  atom<u32> want;       // longest run of extents somebody asks the daemon for
  atom<u32> want_room;  // the same, by those who must leave the reserve alone
  atom<u32> refused;    // bumped when the daemon cannot give it
  atom<u32> spills;     // SPILLS...: values may leave for files, who finds no room asks first
  atom<u32> restored;   // futex bumped when a spilled value is back, or will not come
  atom<u32> starving;
  atom<u32> proc_high;      // indexes ever used
  atom<u32> queue_high[2];  // class and actor queues ever used
  atom<u32> chunk_high[3];  // chunks ever leased: slots, ledger, nodes
  atom<u32> extent_high;    // extents ever populated
  atom<u64> populated;      // extents backed by memory now; only the daemon writes it
  atom<u64> hollow;         // extents' worth of memory that was given back from inside others
  atom<u64> extents_used;   // a hint, recounted by the daemon
  atom<u32> audit_epoch;
  atom<u32> turn;  // process + 1 of who may wait for room beside values that it looks at already
  atom<u64> lineage_most;                     // bytes that recipes may keep; 0: none are made
  atom<u64> lineage_bytes;                    // what they keep, about; the daemon counts exactly
  atom<u32> lineage_over;                     // it is more
  atom<u32> served;                           // how often who waited in turn has found room
  alignas(128) atom<u32> tokens[MAX_TOKENS];  // process index + 1 of who may spin
  alignas(128) Ring inbox;
  atom<u32> inbox_full;
};

inline constexpr u64 MAGIC = 0x314c414f4853ull;  // "SHOAL1"

constexpr u64 layout_hash() {
  u64 h = 1469598103934665603ull;
  for (u64 x : {u64(sizeof(Header)),
                u64(sizeof(Proc)),
                u64(sizeof(Queue)),
                u64(sizeof(Slot)),
                u64(sizeof(Node)),
                u64(sizeof(Event)),
                u64(sizeof(Spec)),
                u64(sizeof(Recipe)),
                u64(sizeof(ValueHeader)),
                u64(offsetof(Proc, door)),
                u64(offsetof(Proc, completions)),
                u64(offsetof(Proc, waits_for)),
                u64(offsetof(Proc, leased)),
                u64(RUNNING_MAX),
                u64(offsetof(Queue, searching)),
                u64(offsetof(Queue, idle)),
                u64(offsetof(Slot, watch)),
                u64(offsetof(Spec, next)),
                u64(offsetof(Spec, payload_offset)),
                u64(offsetof(Header, lease)),
                u64(offsetof(Header, space)),
                u64(offsetof(Header, tokens)),
                u64(offsetof(Header, inbox)),
                u64(MAX_PROCS),
                u64(QUEUES),
                u64(CHUNKS),
                u64(SLOTS_PER_CHUNK),
                u64(LEDGER_PER_CHUNK),
                u64(NODES_PER_CHUNK),
                u64(EVENTS_PER_PROC),
                u64(CLASS_CELLS_LOG),
                u64(ACTOR_CELLS_LOG),
                u64(MIN_BLOCK),
                u64(5 /* protocol */)})
    h = (h ^ x) * 1099511628211ull;
  return h;
}

}  // namespace shoal
