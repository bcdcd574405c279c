// What the instruction tests share: one small node memory, the operations that scenarios are
// written in, and the judge who looks at a copy of the memory after a death.
//
// Every ref of a scenario belongs to processes that die in the end, so that after repair and
// draining the audit must find nothing at all: no slot, no spec, no byte, no wrong count.
#pragma once
#include <elf.h>
#include <unistd.h>

#include <cxxabi.h>
#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "memory.hpp"

namespace shoal {

// Tracer and traced on one core: a step is two wake-ups, 5 us there and 50 to 500 us across cores.
inline void stay_on_one_core(int number) {
  cpu_set_t allowed, one;
  sched_getaffinity(0, sizeof allowed, &allowed);
  number %= CPU_COUNT(&allowed);
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &allowed) && number-- == 0) {
      CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      sched_setaffinity(0, sizeof one, &one);
    }
}

// The actor that calls are for, and the job in the ids of what they return; others have job 1.
inline const u64 CALLED = make_key(SLOTS - 1, 77);
inline constexpr u32 CALLED_JOB = 2;

struct World {
  std::unique_ptr<Memory> daemon;
  u32 queue = 0, queue_gen = 0, actor_queue = 0, actor_gen = 0, victim = 0, other = 0, third = 0,
      drainer = 0;
  u64 adopted = 0;
  u64 channel = 0;  // what the scenario is about, if it is
  u64 moved = 0;    // a value that the daemon moves out of memory and back
  World() {
    daemon.reset(Memory::create(16 << 20, 2, 7, 16));
    daemon->makes_huge_pages = false;  // copies of small pages are cheaper, and every step is one
    u64 done;
    bool more = true;
    daemon->header().want = 8;
    while (more) daemon->populate(1 << 24, 1ull << 40, done, more);
    daemon->new_queue(1, 1, queue, queue_gen);
    daemon->new_queue(2, 1, actor_queue, actor_gen);
    victim = u32(daemon->open_process(DRIVER));
    other = u32(daemon->open_process(WORKER));
    third = u32(daemon->open_process(DRIVER));
    drainer = u32(daemon->open_process(WORKER));
  }
  ~World() {
    close(daemon->fd);
    close(daemon->bell);
  }
};

struct Actor {  // what the scenarios are written in
  Memory& m;
  World& w;
  std::vector<u32> refs;  // slots of several returns
  u64 timeout = 0;        // of what is submitted, in ns
  u64 key_of(u32 s) { return make_key(s, m.slot(s).gen.load()); }
  u32 submit(std::vector<u32> deps = {}, u32 returns = 1, bool actor = false,
             std::vector<u32> contained = {}) {
    Call c;
    c.queue = actor ? w.actor_queue : w.queue;
    c.queue_gen = actor ? w.actor_gen : w.queue_gen;
    c.job = 1;
    c.n_returns = returns;
    c.max_retries = 3;
    c.flags = actor ? F_ACTOR : F_HELP;
    if (actor) c.actor = CALLED, c.actor_job = CALLED_JOB;
    c.timeout = timeout;
    if (m.submit(c, {"payload", 8}, deps, contained, refs) != Status::Ok) _exit(9);
    return refs[0];
  }
  u32 stream() {  // a task that seals a chain; its first cell, refs[0] is its end
    const u32 cell = m.new_pending(0);
    Call c;
    c.queue = w.queue;
    c.queue_gen = w.queue_gen;
    c.job = 1;
    c.max_retries = 3;
    c.flags = F_STREAM;
    if (m.submit(c, {"payload", 8}, {}, {cell, cell}, refs) != Status::Ok) _exit(9);
    return cell;
  }
  u32 item(u64 key, u32 number) {  // that its generator can make again
    const u32 recipe = m.recipe_for(key), s = m.new_slot(OWNER);
    value(s, 40000, {recipe});
    m.seal_item(s, number);
    return s;
  }
  void produce(u32 items, bool large = false) {  // what a producer does, as in `streams.py`
    u64 key;
    if (!m.take(w.queue, key)) return;
    u32 cell = m.stream_place(key_slot(key));
    for (u32 i = 1; i <= items; i++) {
      const u32 next = m.new_pending(i), item = large ? this->item(key, i - 1) : put(8);
      if (m.is_pending(key_of(cell))) {
        m.discard_value(cell);
        value(cell, 100, {item, next});
        m.seal_pending(key_of(cell));
      }
      if (!m.advance_stream(key_slot(key), next)) _exit(9);
      if (i > 1) drop(cell);
      drop(item);
      cell = next;
    }
    drop(cell);
    write(key);
    m.commit(key);
  }
  void write(u64 key, bool error = false) {
    Spec* t = m.spec(key_slot(key));
    for (u32 i = 0; i < t->n_returns; i++)
      m.write_inline(key_slot(t->returns()[i]), error ? ERROR_RECORD : INT, "resultAB", 8);
  }
  bool run(bool actor = false, bool error = false) {
    u64 key;
    if (!m.take(actor ? w.actor_queue : w.queue, key)) return false;
    write(key, error);
    m.commit(key);
    return true;
  }
  void made(u64 bytes) {  // runs a task, whose results hold its recipe
    u64 key;
    if (!m.take(w.queue, key)) return;
    if (Spec* t = m.spec(key_slot(key)); m.numbers_of(*t).size() != (t->flags & F_ITEMS ? 2 : 0))
      _exit(9);
    for (u32 i = 0; i < m.spec(key_slot(key))->n_returns; i++) {
      const u32 recipe = m.recipe_for(key);
      if (!recipe) _exit(9);
      value(key_slot(m.spec(key_slot(key))->returns()[i]), bytes, {recipe});
    }
    m.commit(key);
  }
  u32 put(u64 bytes, std::vector<u32> contained = {}) {
    u32 s = m.new_slot(OWNER);
    value(s, bytes, contained);
    m.seal_mine(s);
    return s;
  }
  void value(u32 s, u64 bytes, std::vector<u32> contained = {}) {
    std::string data(bytes, 'x');
    ValueParts v;
    v.format = PICKLE;
    v.data = {data.data(), data.size()};
    v.contained = contained;
    if (m.write_value(s, v, true, platform::copy) != Status::Ok) _exit(9);
  }
  u32 large() {  // three extents, without three million single steps of copying
    u32 s = m.new_slot(OWNER);
    u64 offset;
    if (m.new_block(5 << 20, s, false, false, offset) != Status::Ok) _exit(9);
    *m.at<ValueHeader>(offset) = {0, 0, sizeof(ValueHeader), 0};
    m.slot(s).kind.store(PICKLE);
    m.seal_mine(s);
    return s;
  }
  void drop(u32 s) { m.clear_bits(s, OWNER); }
};

// What must hold after a death, asked of the memory itself or of a private copy of it.
struct Judge {
  World& w;
  std::unique_ptr<Memory> daemon, drainer;
  Judge(World& world, u8* memory) : w(world) {
    for (auto* view : {&daemon, &drainer}) {
      Memory* m = Memory::share(*w.daemon, view == &daemon ? 0 : w.drainer);
      m->rw = m->ro = memory;
      m->slots = m->at<Slot>(m->off.slots);
      m->procs = m->at<Proc>(m->off.procs);
      m->queues = m->at<Queue>(m->off.queues);
      m->mine = m->running_of(m->me);
      view->reset(m);
    }
  }
  const char* died(u32 p) {
    std::vector<RunningTask> running;
    daemon->repair(p, running);
    if (daemon->proc(p).forked.load()) daemon->release_pins(p);  // it has left no children
    for (auto& t : running)
      if (!daemon->requeue(t.key, true, t.queue == w.actor_queue))
        return "a running task could not be requeued";
    daemon->close_process(p);
    return nullptr;
  }
  // The next attempt goes on at the first cell that is not sealed.
  void end_stream(Memory& o, u32 cell) {
    u64 key;
    while (!o.is_pending(key = make_key(cell, o.slot(cell).gen.load()))) {
      auto* table = reinterpret_cast<atom<u64>*>(o.at<ValueHeader>(o.slot(cell).block.load()) + 1);
      cell = hold_slot(table[1].load());
    }
    o.discard_value(cell);
    o.write_inline(cell, INT, "resultAB", 8);
    o.seal_pending(key);
  }
  // Somebody else finishes the work: no attempt runs twice, nothing that a task holds is gone, and
  // in the end every slot that is left has a value.
  const char* drain() {
    std::set<std::pair<u64, u32>> ran;
    Memory& o = *drainer;
    u64 key;
    while (o.take(w.queue, key) || o.take(w.actor_queue, key)) {
      if (!ran.insert({key, claim_attempt(o.slot(key_slot(key)).claim.load())}).second)
        return "an attempt ran twice";
      Spec* t = o.spec(key_slot(key));
      if (!t) return "a task without a spec";
      for (u32 i = 0; i < t->n_holds(); i++)
        if (u64 e = t->holds()[i].load(); e && o.slot(hold_slot(e)).state.load() == FREE)
          return "an argument was freed early";
      if (u32 cell = o.stream_place(key_slot(key))) end_stream(o, cell);
      for (u32 i = 0; i < t->n_returns; i++)
        o.write_inline(key_slot(t->returns()[i]), INT, "resultAB", 8);
      o.commit(key);
      if (ran.size() > 64) return "endless work";
    }
    const u32 end = o.header().chunk_high[0].load() * SLOTS_PER_CHUNK;
    for (u32 s = 1; s < end; s++) {
      const u32 state = o.slot(s).state.load();
      if (state != FREE && (state & ~WAITERS) != SEALED && !(o.slot(s).flags.load() & IS_CELL))
        return "a result that never comes";
      Ancestry from;
      const bool is_call = state != FREE && o.slot(s).job.load() == CALLED_JOB;
      if (is_call && (!o.ancestry(make_key(s, o.slot(s).gen.load()), from) || from.actor != CALLED))
        return "a result that does not know its actor any more";
    }
    return nullptr;
  }
  // Objects that the daemon adopted: it must have been told that nobody else has them.
  const char* adopted() {
    std::set<u32> told;
    u32 s;
    RingView r = daemon->inbox();
    while (r.pop(s)) told.insert(s);
    const u32 end = daemon->header().chunk_high[0].load() * SLOTS_PER_CHUNK;
    for (s = 1; s < end; s++) {
      if (daemon->slot(s).state.load() == FREE || !(daemon->slot(s).flags.load() & ADOPTED))
        continue;
      const u64 key = make_key(s, daemon->slot(s).gen.load());
      if (daemon->handles(key)) return "a handle of the dead";
      if (!told.count(s)) return "the daemon was not told of a last handle";
      daemon->release(key);
    }
    return nullptr;
  }
  const char* audit() {
    auto a = daemon->audit();
    if (a.wrong_counts) return "a wrong count";
    if (a.leaked_blocks) return "a leaked block";
    if (a.specs) return "a task that never ended";
    if (a.slots) return "a leaked slot";
    if (a.bytes) return "leaked bytes";
    for (auto& t : daemon->header().tokens)
      if (t.load()) return "a token that nobody gives back";
    for (u32 q : {w.queue, w.actor_queue}) {
      if (daemon->queue(q).searching.load()) return "a promise of the dead";
      for (auto& word : daemon->queue(q).idle)
        if (word.load()) return "an idle bit of the dead";
    }
    return nullptr;
  }
  // `victim` has died; then everybody else goes too. `live` is asked of those in between.
  const char* judge(const std::vector<u32>& dead, const char* (*live)(Memory&, u64) = nullptr) {
    for (u32 p : dead) {
      if (const char* e = died(p)) return e;
      if (live && w.channel && p == w.victim)
        if (const char* e = live(*drainer, w.channel)) return e;
      if (const char* e = drain()) return e;
    }
    if (const char* e = adopted()) return e;
    return audit();
  }
};

// Which function of this program an address is in: the symbol table of our own executable.
class Symbols {
  std::map<u64, std::pair<u64, std::string>> functions;  // begin -> end, name without arguments
 public:
  u64 base = 0;
  Symbols() {
    FILE* maps = fopen("/proc/self/maps", "r");
    if (fscanf(maps, "%lx", &base) != 1) abort();
    fclose(maps);
    FILE* file = fopen("/proc/self/exe", "r");
    std::string bytes;
    char part[65536];
    for (size_t n; (n = fread(part, 1, sizeof part, file)) > 0;) bytes.append(part, n);
    fclose(file);
    auto* elf = reinterpret_cast<const Elf64_Ehdr*>(bytes.data());
    auto* sections = reinterpret_cast<const Elf64_Shdr*>(bytes.data() + elf->e_shoff);
    if (elf->e_type != ET_DYN) base = 0;
    for (int i = 0; i < elf->e_shnum; i++) {
      if (sections[i].sh_type != SHT_SYMTAB) continue;
      const char* names = bytes.data() + sections[sections[i].sh_link].sh_offset;
      auto* symbol = reinterpret_cast<const Elf64_Sym*>(bytes.data() + sections[i].sh_offset);
      for (u64 n = sections[i].sh_size / sizeof *symbol; n-- > 0; symbol++)
        if (ELF64_ST_TYPE(symbol->st_info) == STT_FUNC && symbol->st_size)
          functions[symbol->st_value] = {symbol->st_value + symbol->st_size,
                                         plain(names + symbol->st_name)};
    }
  }
  static std::string plain(const char* mangled) {
    int status;
    char* text = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
    std::string name = status == 0 ? text : mangled;
    free(text);
    // What the compiler split off or made for one caller counts as the function it comes from; so
    // does a lambda in it.
    name = name.substr(0, name.find('('));
    return name.substr(0, name.find(" ["));
  }
  const std::string& at(u64 address) {
    static const std::string nobody = "elsewhere";
    auto it = functions.upper_bound(address - base);
    if (it == functions.begin()) return nobody;
    --it;
    return address - base < it->second.first ? it->second.second : nobody;
  }
};

}  // namespace shoal
