// Races, for the thread sanitizer: N "processes" are threads of one program over one mapping (the
// sanitizer sees nothing across two mappings of a page). At the end of each phase everything must
// have run exactly once and the audit must find nothing.
//
//   tasks    submitters and workers on one class queue and one actor's: dependencies, lanes, drops
//   lane     a call behind one that another process is just freeing (step by step, in one thread)
//   values   all hold, pin, read, contain and drop the same values, whose owners drop them too;
//            large ones take and give back runs of extents
//   waits    workers that submit, watch, help and sleep, as the binding does it
//   channels one writer, three readers, of whom one keeps what it may, one who closes; counters
//            that all add to and wait for
//   spills   the daemon moves values out of memory and back while others read and hold them
//   hollows  the daemon gives memory back from inside extents, in which others put, read and free
//
// Keys go from one thread to another by relaxed words, so that nothing but the protocol orders what
// they name. Built with -DSHOAL_BREAK_SEAL a value is sealed without an order, which the sanitizer
// must see; with -DSHOAL_BREAK_SPILL memory is given away that somebody looks at.
//
//   race [tasks per submitter]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "channel.hpp"

using namespace shoal;

static std::unique_ptr<Memory> d;
static u32 queue, gen, lane, lane_gen;
static std::atomic<u64> ran{0}, submitted{0};
static std::atomic<int> errors{0};
static std::vector<std::unique_ptr<Memory>> views;

static void start(int drivers, int workers) {
  views.clear();
  d.reset(Memory::create(64 << 20, 2, 7, 64));
  d->new_queue(1, 1, queue, gen);
  d->new_queue(2, 1, lane, lane_gen);
  u64 done;
  bool more = true;
  d->header().want = 24;
  while (more) d->populate(1 << 26, 1ull << 40, done, more);
  ran = submitted = 0;
  errors = 0;
  for (int i = 0; i < drivers + workers; i++)
    views.emplace_back(Memory::share(*d, u32(d->open_process(i < drivers ? DRIVER : WORKER))));
}

static bool ended(const char* phase, u64 expected) {
  auto a = d->audit();
  printf(
      "%s: submitted %llu, ran %llu, errors %d; left: slots %llu specs %llu bytes %llu leaked %llu "
      "wrong %llu\n",
      phase, (unsigned long long)submitted.load(), (unsigned long long)ran.load(), errors.load(),
      (unsigned long long)a.slots, (unsigned long long)a.specs, (unsigned long long)a.bytes,
      (unsigned long long)a.leaked_blocks, (unsigned long long)a.wrong_counts);
  fflush(stdout);
  return ran == submitted && submitted == expected && !errors && !a.slots && !a.specs && !a.bytes &&
         !a.leaked_blocks && !a.wrong_counts;
}

// ---- values

// A value whose every byte says which it is: 2,000 bytes inside, or three extents.
static u32 put_bytes(Memory& m, u8 mark, u64 size, std::vector<u32> contained) {
  const std::vector<u8> bytes(size, mark);
  ValueParts v;
  v.format = PICKLE;
  v.data = {bytes.data(), bytes.size()};
  v.contained = contained;
  const u32 s = m.new_slot(OWNER);
  if (m.write_value(s, v, true, platform::copy) != Status::Ok) {
    m.clear_bits(s, OWNER);
    return 0;
  }
  m.seal_mine(s);
  return s;
}

static u32 put(Memory& m, u8 mark, bool large, std::vector<u32> contained) {
  return put_bytes(m, mark, large ? 5 << 20 : 2000, contained);
}

static void read(Memory& m, u64 key) {
  const u32 s = key_slot(key);
  if ((m.slot(s).state.load(ACQ) & ~WAITERS) != SEALED) return;
  const Bytes b = m.value_bytes(s, false);
  auto* bytes = static_cast<const u8*>(b.data);
  for (u64 i = 0; i < b.size; i += 499)
    if (bytes[i] != bytes[0]) errors++;
}

static bool values(int rounds) {
  const int n = 5;
  start(0, n);
  std::atomic<u64> shown[4] = {};  // keys that anybody may try to hold
  std::vector<std::thread> threads;
  for (int i = 0; i < n; i++)
    threads.emplace_back([&, i] {
      Memory& m = *views[size_t(i)];
      u64 dice = u64(i) * 7 + 1;
      for (int k = 0; k < rounds; k++) {
        dice = dice * 6364136223846793005ull + 1442695040888963407ull;
        const u32 place = dice >> 60 & 3;
        atom<u64>*ref = nullptr, *pin = nullptr;
        const u64 key = shown[place].load(RLX);
        if (key && m.hold_key(key, false, ref)) {
          if (m.hold_key(key, true, pin)) read(m, key);
          if (k % 2) {  // inside another value, which I drop again, or leave to be dropped
            if (const u32 outer = put(m, u8(i), false, {key_slot(key), key_slot(key)}))
              m.clear_bits(outer, OWNER);
          }
        }
        if (const u32 mine = put(m, u8(k), k % 16 == 0, {})) {
          shown[place].store(make_key(mine, m.slot(mine).gen.load()), RLX);
          m.clear_bits(mine, OWNER);  // beside those who are about to hold it
        }
        const u32 kept = put(m, u8(k), false, {});
        shown[dice >> 58 & 3].store(make_key(kept, m.slot(kept).gen.load()), RLX);
        if (pin) m.drop(pin);
        if (ref) m.drop(ref);
        if (k % 4 == 0) std::this_thread::yield();
        m.clear_bits(kept, OWNER);
      }
    });
  for (auto& t : threads) t.join();
  return ended("values", 0);
}

// ---- spills

static void move_values(Memory& m, const std::vector<u64>& keys, const std::atomic<int>& readers) {
  std::vector<std::vector<u8>> file(1);  // by number
  u64 dice = 99;
  while (readers.load()) {
    dice = dice * 6364136223846793005ull + 1442695040888963407ull;
    const u64 key = keys[(dice >> 40) % keys.size()];
    const u32 s = key_slot(key);
    atom<u64>* hold;
    u64 number, size, offset;
    for (u32 asked; m.inbox().pop(asked);) {
    }
    if (!m.hold_key(key, false, hold)) continue;
    if (m.spilled(s, number, size)) {
      if (m.block_aside(size, s, offset) == Status::Ok) {
        platform::copy(m.rw + offset, file[number].data(), size);
        m.restore(s, offset);
      }
    } else if (const u64 block = m.slot(s).block.load(ACQ); m.may_spill(s, block)) {
      if (file.size() < 4096) file.emplace_back(m.ro + block, m.ro + block + m.slot(s).size.load());
      // The bytes are those of any earlier time: look which record is this value's.
      for (number = file.size(); --number;)
        if (file[number].size() == m.slot(s).size.load() &&
            !memcmp(file[number].data(), m.ro + block, file[number].size()))
          break;
      if (number) m.spill(s, number);
    }
    m.drop(hold);
  }
  for (u64 key : keys) {  // who waits for the last one is answered
    u64 number, size, offset;
    if (m.spilled(key_slot(key), number, size) &&
        m.block_aside(size, key_slot(key), offset) == Status::Ok) {
      platform::copy(m.rw + offset, file[number].data(), size);
      m.restore(key_slot(key), offset);
    }
    m.clear_bits(key_slot(key), OWNER);
  }
}

static bool spills(int rounds) {
  const int n = 3;
  start(0, n);
  d->header().spills = SPILLS_RECORDS;
  std::vector<u64> keys;
  for (int i = 0; i < 5; i++) {
    const u32 inside = put(*d, 1, false, {});
    const u32 s = i ? put_bytes(*d, u8(10 + i), 40000, {inside}) : put(*d, 9, true, {inside});
    d->clear_bits(inside, OWNER);
    keys.push_back(make_key(s, d->slot(s).gen.load()));
  }
  std::atomic<int> readers{n};
  std::vector<std::thread> threads;
  for (int i = 0; i < n; i++)
    threads.emplace_back([&, i] {
      Memory& m = *views[size_t(i)];
      u64 dice = u64(i) * 7 + 1;
      for (int k = 0; k < rounds; k++) {
        dice = dice * 6364136223846793005ull + 1442695040888963407ull;
        const u64 which = (dice >> 40) % keys.size(), key = keys[which];
        const u32 s = key_slot(key);
        atom<u64>* pin;
        if (!m.hold_key(key, true, pin)) continue;
        std::atomic_thread_fence(SEQ);
        u64 block;
        for (;;) {
          const u32 seen = m.header().restored.load(SEQ);
          if (!((block = m.slot(s).block.load(SEQ)) & SPILLED)) break;
          m.ask_back(s);
          m.sleep_on(m.header().restored, seen, 0, 1000000);
        }
        const Bytes seen = m.data_in(block, false);
        auto* bytes = static_cast<const u8*>(seen.data);
        for (u64 b = 0; b < seen.size; b += seen.size / 8) {
          if (bytes[b] != (which ? 10 + which : 9)) errors++;
          std::this_thread::yield();
        }
        m.drop(pin);
      }
      readers--;
    });
  move_values(*d, keys, readers);
  for (auto& t : threads) t.join();
  return ended("spills", 0);
}

// ---- hollows

static bool hollows(int rounds) {
  const int n = 3;
  start(0, n);
  std::atomic<u64> shown[4] = {};
  std::atomic<int> busy{n};
  u64 most = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < n; i++)
    threads.emplace_back([&, i] {
      Memory& m = *views[size_t(i)];
      std::deque<u32> kept;
      u64 dice = u64(i) * 7 + 1;
      for (int k = 0; k < rounds; k++) {
        dice = dice * 6364136223846793005ull + 1442695040888963407ull;
        atom<u64>* pin;
        const u64 key = shown[dice >> 60 & 3].load(RLX);
        if (key && m.hold_key(key, true, pin)) {
          read(m, key);
          m.drop(pin);
        }
        if (const u32 mine = put_bytes(m, u8(k), k % 8 ? 300000 : (2 << 20) + 70000, {})) {
          shown[dice >> 58 & 3].store(make_key(mine, m.slot(mine).gen.load()), RLX);
          kept.push_back(mine);
        }
        // Any of mine: what becomes free lies between what stays.
        if (kept.size() > 4) {
          std::swap(kept.front(), kept[dice >> 50 & 3]);
          m.clear_bits(kept.front(), OWNER);
          kept.pop_front();
        }
      }
      for (u32 s : kept) m.clear_bits(s, OWNER);
      busy--;
    });
  bool more;
  for (u64 done; busy.load(); d->sweep_hollow()) {
    d->hollow_out(8);
    most = std::max(most, d->header().hollow.load());
    d->populate(8 << 20, 1ull << 40, done, more);
  }
  for (auto& t : threads) t.join();
  d->sweep_hollow();
  if (!most) errors++;  // nothing was ever hollow
  return ended("hollows", 0);
}

// ---- waits

static void run_task(Memory& m, u64 key) {
  Spec* t = m.spec(key_slot(key));
  for (u32 k = 0; k < t->n_returns; k++)
    m.write_inline(key_slot(t->returns()[k]), INT, "resultAB", 8);
  m.commit(key);
  ran++;
}

// A task of a worker: it submits children and waits for all of them, one way or the other.
static void parent(Memory& m, int k) {
  Call c;
  c.queue = queue;
  c.queue_gen = gen;
  c.job = 1;
  c.flags = F_HELP;
  c.max_retries = 3;
  std::vector<u32> children, out;
  for (int i = 0; i < 3; i++) {
    const std::vector<u32> deps = i ? std::vector<u32>{children.back()} : std::vector<u32>{};
    if (m.submit(c, {"argument", 8}, deps, {}, out) != Status::Ok) errors++;
    submitted++;
    children.push_back(out[0]);
  }
  const auto key_of = [&](u32 s) { return make_key(s, m.slot(s).gen.load(RLX)); };
  const auto sealed = [&](u32 s) { return (m.slot(s).state.load(ACQ) & ~WAITERS) == SEALED; };
  m.lend(true);
  if (k % 2) {  // wait
    for (u32 s : children) m.watch(key_of(s), s);
    for (;;) {
      const u32 seen = m.proc(m.me).cdoor.load(SEQ);
      m.drain_completions();
      if (sealed(children[0]) && sealed(children[1]) && sealed(children[2])) break;
      if (const u64 t = m.helpable(children[2]); t && m.claim(t)) {
        run_task(m, t);
        continue;
      }
      Doubt doubt;
      m.doubt_on(m.proc(m.me).cdoor, seen, 0, 2000000, doubt);
    }
    m.drain_completions();
    m.ready.clear();
  } else {  // get, the last one first
    while (!sealed(children[2])) {
      if (const u64 t = m.helpable(children[2]); t && m.claim(t)) {
        run_task(m, t);
        continue;
      }
      Doubt doubt;
      m.wait_slot(children[2], key_gen(key_of(children[2])), 0, 2000000, doubt);
    }
  }
  m.lend(false);
  for (u32 s : children) m.clear_bits(s, OWNER);
}

static void idle(Memory& m, const std::function<bool()>& ends) {
  Proc& r = m.proc(m.me);
  auto& word = m.queue(queue).idle[m.me / 64];
  const u64 bit = 1ull << (m.me % 64);
  u64 until = 0, h;
  u32 v;
  const auto work = [&] { return m.ring(queue).peek(h, v) || ends(); };
  m.promise(queue, until);
  const bool hit = m.spin(work, 2000) || m.spin_on(m.for_task, work);
  if (hit) return;
  m.end_promise(queue, until);
  const u32 seen = r.door.load(SEQ);
  r.sleeping.store(1, SEQ);
  word.fetch_or(bit, SEQ);
  if (!work()) m.sleep_on(r.door, seen, 0, 20000000);
  r.sleeping.store(0, SEQ);
  word.fetch_and(~bit, SEQ);
}

static bool waits(int tasks) {
  const int n = 4;
  start(1, n);
  std::atomic<bool> all{false};
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    Memory& m = *views[0];
    Call c;
    c.queue = queue;
    c.queue_gen = gen;
    c.job = 1;
    c.method = 1;  // a parent
    c.max_retries = 3;
    c.flags = F_HELP;
    std::vector<u32> out;
    for (int k = 0; k < tasks; k++) {
      if (m.submit(c, {"argument", 8}, {}, {}, out) != Status::Ok) errors++;
      submitted++;
      const u32 s = out[0], g = m.slot(s).gen.load();
      Doubt doubt;
      while (k % 3 == 0 && m.wait_slot(s, g, 0, 20000000, doubt) != Memory::Wait::Sealed) {
      }
      m.clear_bits(s, OWNER);
    }
    all = true;
  });
  for (int i = 1; i <= n; i++)
    threads.emplace_back([&, i] {
      Memory& m = *views[size_t(i)];
      m.proc(m.me).attached.store(queue);
      const auto ends = [&] { return all.load() && ran.load() == submitted.load(); };
      u64 key;
      for (int k = 0; !ends(); k++) {
        if (!m.take(queue, key)) {
          idle(m, ends);
          continue;
        }
        if (m.spec(key_slot(key))->method == 1) parent(m, k);
        run_task(m, key);
      }
    });
  for (auto& t : threads) t.join();
  return ended("waits", u64(tasks) * 4);
}

// ---- channels

static void sleep_until(Memory& m, Bell& bell, const std::function<bool()>& done) {
  Doubt doubt;
  while (!m.spin(done, 1000)) sleep_at(m, bell, done, 0, 0, doubt);
}

static void write_messages(Memory& m, Channel& c, int messages) {
  for (int k = 0; k < messages; k++) {
    if (!c.begin()) errors++;
    sleep_until(m, c.head->freed, [&] { return c.can_write(); });
    if (c.closed()) errors++;
    std::vector<u8> part(size_t(k % 3 ? 40 : 9000), u8(k));
    ValueParts v;
    v.format = BYTES;
    v.data = {part.data(), part.size()};
    if (k % 3 == 0) v.buffers = {{part.data(), part.size()}};
    const u32 carried = k % 5 ? 0 : put(m, u8(k), false, {});
    const u32 place = u32(c.free_place());
    if (!c.fill(place, carried ? ValueParts{} : v, carried, platform::copy)) errors++;
    c.publish(place);
    if (carried) m.clear_bits(carried, OWNER);
    submitted++;
  }
}

static void read_messages(Memory& m, Channel& c, u32 reader, SharedBlock& block) {
  std::vector<u32> kept;
  for (int k = 0;; k++) {
    u32 place;
    if (!c.begin_read(reader)) errors++;
    sleep_until(m, c.head->arrived, [&] { return c.can_read(reader); });
    const u32 closed = c.closed();
    if (!c.next(reader, place)) {
      if (!closed) errors++;
      c.end_read(reader);
      break;
    }
    const Message& x = c.message(place);
    if (x.format == CARRIED) {
      atom<u64>* held;
      const u32 s = hold_slot(c.hold_of(place).load(ACQ));
      if (!m.hold_key(make_key(s, m.slot(s).gen.load(ACQ)), false, held)) errors++;
      read(m, make_key(s, m.slot(s).gen.load(ACQ)));
      m.drop(held);
    } else {
      const u8* from =
          x.data_size > INLINE_BYTES ? c.area_of(place) + x.data_offset : x.inline_bytes;
      for (u64 i = 0; i < x.data_size; i += 13)
        if (from[i] != u8(k)) errors++;
    }
    const bool keeps = reader == 0 && kept.size() < 3 && c.keep(place);
    if (keeps)
      kept.push_back(place);
    else
      c.acknowledge(reader, place);
    c.move_on(reader);
    c.end_read(reader);
    if (kept.size() == 3 && k % 3 == 0)
      for (; !kept.empty(); kept.pop_back()) c.acknowledge(reader, kept.back());
    block.add(reader, 1);
    if (reader == 0) ran++;
  }
  for (u32 place : kept) c.acknowledge(reader, place);
}

static bool channels(int messages) {
  start(0, 5);
  Memory& first = *views[0];
  const u32 s = first.new_slot(OWNER), b = first.new_slot(OWNER);
  if (Channel::create(first, s, 20000, 6, 3) != Status::Ok) errors++;
  if (SharedBlock::create(first, b, 64) != Status::Ok) errors++;
  SharedBlock zero;
  zero.open(first, b);
  for (u64 i = 0; i < zero.words(); i++) zero.store(i, 0);
  first.seal_mine(s), first.seal_mine(b);
  std::vector<std::thread> threads;
  for (u32 i = 0; i < 5; i++)
    threads.emplace_back([&, i] {
      Memory& m = *views[i];
      Channel c;
      c.open(m, s);
      SharedBlock block;
      block.open(m, b);
      if (i == 0) write_messages(m, c, messages);
      if (i >= 1 && i <= 3) read_messages(m, c, i - 1, block);
      if (i == 4) {  // closes when all have read everything, twice
        for (u64 r = 0; r < 3; r++)
          sleep_until(m, block.bell(r), [&] { return block.word(r).load() >= messages; });
        const u32 cause = put(m, 7, false, {});
        c.close(cause);
        m.clear_bits(cause, OWNER);
        c.close(0);
      }
    });
  for (auto& t : threads) t.join();
  Channel c;
  c.open(first, s);
  if (c.closed() != CHANNEL_CAUSED) errors++;
  for (u32 r = 0; r < 3; r++)
    if (zero.word(r).load() != messages || c.unread(r)) errors++;
  first.clear_bits(s, OWNER), first.clear_bits(b, OWNER);
  return ended("channels", u64(messages));
}

// ---- tasks

static bool run_tasks(int tasks) {
  const int submitters = 3, workers = 3;
  start(submitters, workers);
  std::atomic<int> active{submitters};
  std::vector<std::thread> threads;
  for (int i = 0; i < submitters; i++)
    threads.emplace_back([&, i] {
      Memory& m = *views[size_t(i)];
      std::vector<u32> out, last;
      for (int k = 0; k < tasks; k++) {
        Call c;
        const bool ordered = k % 7 == 0;
        c.queue = ordered ? lane : queue;
        c.queue_gen = ordered ? lane_gen : gen;
        c.job = 1;
        c.flags = ordered ? F_ACTOR : F_HELP;
        c.n_returns = k % 5 == 0 ? 3 : 1;
        std::vector<u32> deps;
        if (k % 3 == 0 && !last.empty()) deps = {last[0]};
        const Status st = m.submit(c, {"argument", 8}, deps, {}, out);
        if (st != Status::Ok) {
          printf("task %d of submitter %d was refused: %d\n", k, i, int(st));
          errors++;
          break;
        }
        submitted++;
        for (u32 s : last) m.clear_bits(s, OWNER);
        last = out;
      }
      for (u32 s : last) m.clear_bits(s, OWNER);
      m.lanes.clear();
      active--;
    });
  for (int i = 0; i < workers; i++)
    threads.emplace_back([&, i] {
      Memory& m = *views[size_t(submitters + i)];
      u64 key;
      while (active.load() || ran.load() < submitted.load()) {
        if (!m.take(i == 0 ? lane : queue, key) && !(i == 0 && m.take(queue, key))) {
          std::this_thread::yield();
          continue;
        }
        Spec* t = m.spec(key_slot(key));
        for (u32 k = 0; k < t->n_returns; k++) {
          u32 r = key_slot(t->returns()[k]);
          if (k == 1) {
            std::vector<char> big(500, 'x');
            ValueParts v;
            v.format = PICKLE;
            v.data = {big.data(), big.size()};
            if (m.write_value(r, v, true, platform::copy) != Status::Ok) errors++;
          } else {
            m.write_inline(r, INT, "resultAB", 8);
          }
        }
        m.commit(key);
        ran++;
      }
    });
  for (auto& t : threads) t.join();
  return ended("tasks", u64(submitters) * u64(tasks));
}

// ---- lane

static u32 call(Memory& m, bool ordered, const std::vector<u32>& dependencies) {
  Call c;
  c.queue = ordered ? lane : queue;
  c.queue_gen = ordered ? lane_gen : gen;
  c.job = 1;
  c.flags = ordered ? F_ACTOR : 0;
  c.n_returns = 1;
  std::vector<u32> out;
  if (m.submit(c, {"argument", 8}, dependencies, {}, out) != Status::Ok) return 0;
  submitted++;
  return out[0];
}

static bool behind_one_that_is_freed() {
  start(1, 1);
  Memory &caller = *views[0], &worker = *views[1];
  u64 key;
  const u32 argument = call(caller, false, {});
  const u32 first = call(caller, true, {argument});  // cannot be pushed yet: the lane remembers it
  for (u32 q : {queue, lane})
    if (worker.take(q, key)) run_task(worker, key);
  worker.working = true;  // as if it stood between taking the slot and giving it back
  worker.clear_bits(first, OWNER);
  const u32 second = call(caller, true, {});
  worker.working = false;
  worker.work_freeing();
  if (worker.take(lane, key)) run_task(worker, key);
  for (u32 s : {argument, second})
    if (s) caller.clear_bits(s, OWNER);
  caller.lanes.clear();
  return ended("lane", 3);
}

int main(int argc, char** argv) {
  const int tasks = argc > 1 ? atoi(argv[1]) : 3000;
  const bool ok = run_tasks(tasks) & behind_one_that_is_freed();
  return !(values(tasks / 4) & spills(tasks / 4) & hollows(tasks / 4) & waits(tasks / 4) &
           channels(tasks / 4) & ok);
}
