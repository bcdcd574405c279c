// What victims do while they are killed: every operation of node memory in every role. `prepare` is
// done by another process that lives on until the victim has been repaired. `ask_daemon` stops the
// victim while the daemon does something for it (whose own death would end the session, and is no
// scenario). `every` looks after each so many instructions only, where one loop makes most of them.
#pragma once
#include <csignal>

#include "channels.hpp"

namespace shoal {

using Body = void (*)(Actor&);
struct Scenario {
  const char* name;
  Body prepare;
  Body body;
  void (*daemon)(World&, u64 running) = nullptr;
  int every = 1;
};

inline void nothing(Actor&) {}
inline void ask_daemon() { raise(SIGUSR1); }

// A value that is large enough to leave, with a ref in it.
inline void large_value(Actor& a) {
  const u32 inside = a.put(8), s = a.put(40000, {inside});
  a.drop(inside);
  a.w.moved = a.key_of(s);
}
// Out of memory, or back if it is out.
inline void move_value(World& w, u64) {
  Memory& m = *w.daemon;
  const u32 s = key_slot(w.moved);
  atom<u64>* hold;
  u64 number, size, offset;
  m.header().spills = SPILLS_RECORDS;
  if (!m.hold_key(w.moved, false, hold)) return;
  if (!m.spilled(s, number, size))
    m.spill(s, 1);
  else if (m.block_aside(size, s, offset) == Status::Ok)
    m.restore(s, offset);
  m.drop(hold);
}

inline const Scenario scenarios[] = {
    // ---- a driver and its worker in one
    {"submit, take, finish", nothing, [](Actor& a) { a.submit(), a.run(); }},
    {"drop before, between, after", nothing,
     [](Actor& a) {
       a.drop(a.submit());
       a.run();
       u32 s = a.submit();
       a.run();
       a.drop(s);
     }},
    {"several returns, some dropped", nothing,
     [](Actor& a) {
       a.submit({}, 3);
       a.drop(a.refs[1]);
       a.run();
       a.drop(a.refs[0]);
     }},
    {"dependency, held then fired", nothing,
     [](Actor& a) {
       u32 x = a.submit();
       a.submit({x});
       a.run();
       a.run();
     }},
    {"dependency that is there", nothing,
     [](Actor& a) {
       u32 x = a.put(8);
       a.submit({x, x});
       a.run();
     }},
    {"two dependencies, two dependents", nothing,
     [](Actor& a) {
       u32 x = a.submit(), y = a.submit();
       a.submit({x, y});
       a.submit({y, x});
       for (int i = 0; i < 4; i++) a.run();
     }},
    {"error cascade", nothing,
     [](Actor& a) {
       u32 x = a.submit();
       u32 y = a.submit({x});
       a.submit({y}, 2);
       a.submit({x});
       a.run(false, true);
       a.submit({x});  // failed already
     }},
    // ---- values
    {"nested values freed", nothing,
     [](Actor& a) {
       u32 x = a.put(100), y = a.put(200, {x}), z = a.put(300, {x, y});
       a.drop(x);
       a.drop(y);
       a.drop(z);
     }},
    {"a result is replaced by an error", nothing,
     [](Actor& a) {
       u32 x = a.put(100);
       a.submit();
       u64 key;
       a.m.take(a.w.queue, key);
       a.value(key_slot(key), 500, {x, x});
       a.m.discard_value(key_slot(key));
       a.m.seal_error(key_slot(key), {FULL_RECORD, sizeof FULL_RECORD});
       a.m.commit(key);
     }},
    // ---- lineage
    {"results that can be made again", [](Actor& a) { a.m.header().lineage_most.store(1 << 20); },
     [](Actor& a) {
       u32 x = a.put(100);
       u32 s = a.submit({x}, 2, false, {x});
       u32 other = a.refs[1];
       a.drop(x);
       a.made(40000);
       u32 t = a.submit({s});  // holds the recipe of its argument
       a.drop(s);
       a.made(200);
       a.drop(other);
       a.drop(t);
     },
     nullptr, 37},
    {"a result with a place for the recipe of its home", nothing,
     [](Actor& a) {
       u32 x = a.put(100);
       u32 s = a.submit();
       u64 key;
       a.m.take(a.w.queue, key);
       a.value(key_slot(key), 9000, {x, 0});
       a.m.commit(key);
       a.drop(x);
       a.drop(s);
     },
     nullptr, 37},
    {"a value is made again",
     [](Actor& a) {
       a.m.header().lineage_most.store(1 << 20);
       u32 x = a.put(100);
       a.submit({x}, 2);
       a.made(300);
       Memory& daemon = *a.w.daemon;
       std::vector<u32> returns;
       if (daemon.rebuild(daemon.recipe_of(a.refs[0]), {x}, {}, returns) != Status::Ok) _exit(9);
       for (u32 r : returns) daemon.clear_bits(r, OWNER);
     },
     [](Actor& a) { a.made(300); }},
    {"items that can be made again", [](Actor& a) { a.m.header().lineage_most.store(1 << 20); },
     [](Actor& a) {
       const u32 cell = a.stream(), end = a.refs[0];
       a.produce(2, true);
       a.drop(cell);
       a.drop(end);
     },
     nullptr, 37},
    {"items are made again",
     [](Actor& a) {
       a.m.header().lineage_most.store(1 << 20);
       const u32 cell = a.stream();
       a.produce(2, true);
       Memory& daemon = *a.w.daemon;
       auto* table =
           reinterpret_cast<atom<u64>*>(a.m.at<ValueHeader>(a.m.slot(cell).block.load()) + 1);
       const u32 item = hold_slot(table[0].load());
       std::vector<u32> returns;
       if (daemon.rebuild(daemon.recipe_of(item), {}, {{0, item}, {1, 0}}, returns) != Status::Ok)
         _exit(9);
       for (u32 r : returns) daemon.clear_bits(r, OWNER);
     },
     [](Actor& a) { a.made(300); }},
    {"refs inside arguments", nothing,
     [](Actor& a) {
       u32 x = a.put(100);
       u32 t = a.submit({x}, 1, false, {x});
       a.drop(x);
       a.run();
       a.drop(t);
     }},
    {"runs of extents", nothing,
     [](Actor& a) {
       u32 x = a.large();
       a.drop(x);
       a.large();
     }},
    {"a full store", nothing,
     [](Actor& a) {
       std::vector<u32> all;
       u64 offset;
       for (int i = 0; i < 3; i++) {
         u32 s = a.m.new_slot(OWNER);
         if (a.m.new_block(5 << 20, s, false, false, offset) != Status::Ok) {
           a.m.wait_memory(1);
           a.drop(s);
           continue;
         }
         *a.m.at<ValueHeader>(offset) = {0, 0, sizeof(ValueHeader), 0};
         a.m.seal_mine(s);
         all.push_back(s);
       }
       for (u32 s : all) a.drop(s);
     },
     nullptr, 37},
    {"holds in the ledger", nothing,
     [](Actor& a) {
       u32 x = a.put(100);
       atom<u64>* e;
       a.m.hold_key(a.key_of(x), true, e);
       a.drop(x);
       a.m.drop(e);
     }},
    {"a fork while a value is looked at", nothing,
     [](Actor& a) {
       u32 x = a.put(100);
       atom<u64>*e, *f;
       a.m.hold_key(a.key_of(x), true, e);
       a.m.begin_fork();
       a.m.hold_key(a.key_of(x), true, f);
       a.drop(x);
       a.m.drop(e);
     }},
    // ---- ordered calls
    {"ordered calls", nothing,
     [](Actor& a) {
       u32 x = a.submit();
       a.submit({x}, 1, true);
       a.submit({}, 1, true);
       a.submit({}, 1, true);
       a.run();
       for (int i = 0; i < 3; i++) a.run(true);
     }},
    {"ordered calls behind a failure", nothing,
     [](Actor& a) {
       u32 x = a.submit();
       a.submit({x}, 1, true);
       a.drop(a.submit({}, 1, true));
       a.run(false, true);
       a.run(true);
       a.submit({}, 1, true);
     }},
    {"calls at a dead actor",
     [](Actor& a) {
       a.submit({}, 1, true);
       a.w.daemon->kill_queue(a.w.actor_queue, {FULL_RECORD, sizeof FULL_RECORD});
     },
     [](Actor& a) {
       a.submit({}, 1, true);
       a.submit({}, 1, true);
     }},
    {"the last handle of an actor", [](Actor& a) { a.w.daemon->adopt(a.key_of(a.put(100))); },
     [](Actor& a) {
       a.w.adopted = a.key_of(a.put(100));
       atom<u64>* e;
       a.m.hold_key(a.w.adopted, false, e);
       u32 place = a.m.running_push(a.w.adopted);  // tells the daemon which
       ask_daemon();
       a.m.running_pop(place);
       a.drop(key_slot(a.w.adopted));
       a.m.drop(e);
       a.w.adopted = a.key_of(a.put(8));
       place = a.m.running_push(a.w.adopted);
       ask_daemon();
       a.m.running_pop(place);
       a.drop(key_slot(a.w.adopted));
     },
     [](World& w, u64 key) { w.daemon->adopt(key); }},
    // ---- a worker of somebody else's tasks
    {"a worker", [](Actor& a) { a.submit({a.submit()}, 2), a.submit(); },
     [](Actor& a) { a.run(), a.run(), a.run(); }},
    {"a worker puts, submits and returns refs", [](Actor& a) { a.submit(); },
     [](Actor& a) {
       u64 key;
       if (!a.m.take(a.w.queue, key)) return;
       u32 inner = a.submit();
       a.value(key_slot(key), 300, {inner, a.put(10)});
       a.m.commit(key);
       a.run();
     }},
    {"a worker that waits, and helps", [](Actor& a) { a.submit({a.submit()}); },
     [](Actor& a) {
       u64 key;
       if (!a.m.take(a.w.queue, key)) return;
       a.m.proc(a.m.me).attached.store(a.w.queue);
       u32 x = a.submit(), y = a.submit({x});
       if (u64 t = a.m.helpable(y); t && a.m.claim(t)) {
         a.write(a.m.running_top());
         a.m.commit(a.m.running_top());
       }
       a.m.lend(true);
       Doubt doubt{1};
       a.m.wait_slot(y, a.m.slot(y).gen.load(), 0, 0, doubt);  // one look around
       a.m.lend(false);
       a.write(key);
       a.m.commit(key);
     }},
    {"a worker runs out of work", nothing,
     [](Actor& a) {  // as `take` of the binding does it
       u64 key, until = 0;
       Proc& r = a.m.proc(a.m.me);
       Queue& q = a.m.queue(a.w.queue);
       q.hungry.store(1);
       a.m.promise(a.w.queue, until);
       int token = a.m.take_token();
       a.m.spin([&] { return a.m.take(a.w.queue, key); }, 1000);
       a.m.give_token(token);
       a.m.end_promise(a.w.queue, until);
       a.m.spin_on(a.m.for_task, [&] { return a.m.take(a.w.queue, key); });
       const u32 seen = r.door.load();
       r.sleeping.store(1);
       q.idle[a.m.me / 64].fetch_or(1ull << (a.m.me % 64));
       a.m.sleep_on(r.door, seen, platform::now_ns() + 1000, 0);
       a.submit();
       r.sleeping.store(0);
       q.idle[a.m.me / 64].fetch_and(~(1ull << (a.m.me % 64)));
       a.run();
     }},
    {"waiting for many", [](Actor& a) { a.submit(), a.submit(); },
     [](Actor& a) {
       u32 x = a.submit(), y = a.submit();
       a.m.watch(a.key_of(x), 1);
       a.m.watch(a.key_of(y), 2);
       a.m.watch(a.key_of(y), 3);
       while (a.run()) {
       }
       a.m.drain_completions();
       a.drop(x);
     }},
    {"deadlines", nothing,
     [](Actor& a) {
       a.timeout = 1000000000;
       u32 x = a.submit();
       a.submit({x});
       u64 key;
       if (!a.m.take(a.w.queue, key)) return;
       a.timeout = 0;
       a.submit();  // has what its parent has left
       a.write(key);
       a.m.commit(key);
       while (a.run()) {
       }
     }},
    // ---- streams
    {"a stream, consumed by its producer", nothing,
     [](Actor& a) {
       const u32 cell = a.stream(), end = a.refs[0];
       a.produce(2);
       a.drop(cell);
       a.drop(end);
     }},
    {"a producer whose consumer waits",
     [](Actor& a) {
       const u32 cell = a.stream();
       a.m.watch(a.key_of(cell), 1);
       a.m.watch(a.key_of(a.refs[0]), 2);
       a.submit({cell});
     },
     [](Actor& a) { a.produce(2), a.run(); }},
    {"a consumer that goes", [](Actor& a) { a.submit(); },
     [](Actor& a) {
       const u32 cell = a.stream();
       a.drop(a.refs[0]);
       a.drop(cell);
     }},
    {"an exception is retried", [](Actor& a) { a.submit({}, 2); },
     [](Actor& a) {
       u64 key;
       if (!a.m.take(a.w.queue, key)) return;
       a.value(key_slot(key), 300);
       ask_daemon();
       a.m.running_pop(0);
       a.run();
     },
     [](World& w, u64 key) { w.daemon->requeue(key, true, false); }},
    {"an actor's interrupted call",
     [](Actor& a) {
       a.submit({}, 1, true);
       a.submit({}, 1, true);
     },
     [](Actor& a) {
       u64 key;
       if (!a.m.take(a.w.actor_queue, key)) return;
       ask_daemon();
       a.m.running_pop(0);
       a.run(true);
       a.run(true);
     },
     [](World& w, u64 key) { w.daemon->requeue(key, true, true); }},
    {"calls side by side, ended in another order",
     [](Actor& a) {
       for (int i = 0; i < 3; i++) a.submit({}, 1, true);
     },
     [](Actor& a) {
       a.m.side_by_side = true;
       u64 key[3];
       u32 place[3];
       auto begin = [&](int i) {
         if (!a.m.take(a.w.actor_queue, key[i])) _exit(9);
         place[i] = a.m.claimed_place;
       };
       auto end = [&](int i) {
         a.write(key[i]);
         a.m.commit(key[i], place[i]);
       };
       begin(0), begin(1);
       end(0);    // leaves a place below the other
       begin(2);  // which is taken again
       end(1), end(2);
     }},
    {"a stale entry and an overflow", [](Actor& a) { a.submit(), a.submit(); },
     [](Actor& a) {
       u32 x = a.submit();
       if (a.m.claim(a.key_of(x))) {  // its entry stays in the ring
         a.write(a.key_of(x));
         a.m.commit(a.key_of(x));
       }
       a.m.queue(a.w.queue).overflow.store(1);
       ask_daemon();
       while (a.run()) {
       }
     },
     [](World& w, u64) { w.daemon->refill(w.queue); }},
    // ---- memory that stays writable
    {"a shared block", nothing,
     [](Actor& a) {
       const u32 s = a.m.new_slot(OWNER);
       if (SharedBlock::create(a.m, s, 64) != Status::Ok) _exit(9);
       a.m.seal_mine(s);
       if (!SharedBlock::is_one(a.m, s)) _exit(9);
       SharedBlock b;
       b.open(a.m, s);
       Doubt doubt{1};
       sleep_at(a.m, b.bell(1), [] { return false; }, platform::now_ns() + 1000, 0, doubt);
       b.bell(0).sleepers.store(1);
       b.store(0, 3);
       if (b.add(0, 4) != 7 || !b.compare_swap(0, 7, -1)) _exit(9);
       a.drop(s);
     }},
    {"a channel is made and dropped", nothing,
     [](Actor& a) {
       Ends::make(a, 2, 1);
       Ends ends(a);
       ends.write(1, 8, true);  // freed with the channel
       a.drop(key_slot(a.w.channel));
     }},
    {"the writer of a channel", [](Actor& a) { Ends::make(a, 2, 2); },
     [](Actor& a) {
       Ends ends(a);
       ends.c.head->arrived.sleepers.store(1);
       ends.write(1, 20);
       ends.write(2, 130);
     }},
    {"the writer of a message with refs", [](Actor& a) { Ends::make(a, 1, 1); },
     [](Actor& a) {
       Ends ends(a);
       ends.write(1, 8, true);
       ends.read(0);
       ends.write(2, 8, true);
     }},
    {"a reader of a channel",
     [](Actor& a) {
       Ends::make(a, 2, 2);
       Ends ends(a);
       ends.write(1, 8, true), ends.write(2, 130);
       ends.read(1);
     },
     [](Actor& a) {
       Ends ends(a);
       ends.c.head->freed.sleepers.store(1);
       ends.read(0), ends.read(0, true);
     }},
    {"who closes a channel",
     [](Actor& a) {
       Ends::make(a, 1, 1);
       Ends(a).write(1, 8);
     },
     [](Actor& a) {
       Ends ends(a);
       const u32 cause = a.put(100);
       ends.c.close(cause);
       a.drop(cause);
     }},
    // ---- values that leave for files
    {"a value that was spilled is read and dropped", large_value,
     [](Actor& a) {
       atom<u64>*ref, *pin;
       a.m.hold_key(a.w.moved, false, ref);
       ask_daemon();
       a.m.hold_key(a.w.moved, true, pin);
       a.m.ask_back(key_slot(a.w.moved));
       ask_daemon();
       if (a.m.slot(key_slot(a.w.moved)).block.load() & SPILLED) _exit(9);
       a.m.drop(pin);
       ask_daemon();
       a.m.drop(ref);
     },
     move_value},
    {"the last ref of a spilled value", large_value,
     [](Actor& a) {
       atom<u64>* ref;
       a.m.hold_key(a.w.moved, false, ref);
       ask_daemon();
       if (!(a.m.slot(key_slot(a.w.moved)).block.load() & SPILLED)) _exit(9);
       a.m.drop(ref);
     },
     [](World& w, u64) {
       move_value(w, 0);
       w.daemon->clear_bits(key_slot(w.moved), OWNER);  // whoever made it has let go
     }},
    {"leaving the session", [](Actor& a) { a.submit(); },
     [](Actor& a) {
       a.submit({a.put(100)});
       a.m.close();
     }},
};

}  // namespace shoal
