// Lineage: how a value that is lost is made again.
//
// A *recipe* is an object of its own (kind RECIPE): its data is what the spec of a task said, its
// table of contained refs are the task's arguments. Who writes a large result of a task that may
// run again puts the recipe's ref last into the table of that result. So the counts do all the
// rest: a recipe lives as long as a result that it can rebuild, with what it needs; freeing is
// iterative; a death at any moment is repaired as for any other value; and a task with small
// results, which cannot be lost, pays nothing.
//
//   result's table   its own refs ..., recipe
//   recipe's table   an entry for each argument: its ref, or (it has a recipe itself) that recipe;
//                    what the argument's key was stands in the data
//
// A rebuild is a new task made of the recipe, with F_REBUILD and the recipe as its last contained
// ref, submitted by the daemon; its results are taken over into the slots of the lost values, whose
// readers sleep as those of a spilled value do (spill.cpp: block word SPILLED, number 0). So no
// slot is ever unsealed, and the claim keeps its one direction.
//
// A call of an actor has a recipe if it may be made twice (max_task_retries): a rebuild is one more
// call, in no order with others, to whoever the actor is by then.
//
// The items that a generator yields share its recipe, and each knows its number. A rebuild of it is
// a task whose returns are some of the items (F_ITEMS), which runs the generator as far as the last
// of them. Each item may be made again as often as its task may run again: who reads a hundred of
// them one by one, all of them lost, must not use up what the first one needs. A large list of
// their refs (F_DYNAMIC) is one more item, LIST_ITEM: the task as it was makes it again.
//
// The budget: recipes count their block and those arguments that nobody else had when they were
// made. Over it, the daemon counts exactly, each argument once, and empties the oldest: such a
// recipe keeps its slot, without a block, and says so to whoever asks.
#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "memory.hpp"

namespace shoal {

bool Memory::is_recipe(u32 s) {
  return slot(s).kind.load(ACQ) == RECIPE && (slot(s).state.load(ACQ) & ~WAITERS) == SEALED;
}

// The recipe in the table of `s`, 0: it has none. The block may be moved or given back while we
// read (by the daemon): what was read counts if the block word is the same afterwards.
u32 Memory::recipe_of(u32 s) {
  Slot& x = slot(s);
  for (int tries = 0; tries < 100; tries++) {
    const u64 word = x.block.load(ACQ), block = block_of(word);
    if (!block || !(x.flags.load(ACQ) & HAS_TABLE) || is_recipe(s)) return 0;
    const u32 n = at<ValueHeader>(block)->n_contained;
    const u64 place = block + sizeof(ValueHeader) + 8ull * (u64(n) - 1);
    u64 entry = 0;
    if (n && place + 8 <= off.end) entry = at<atom<u64>>(place)->load(ACQ);
    std::atomic_thread_fence(ACQ);
    if (x.block.load(SEQ) != word) continue;
    const u32 r = entry ? hold_slot(entry) : 0;
    return r && r < SLOTS && is_recipe(r) ? r : 0;
  }
  return 0;
}

Recipe* Memory::recipe(u32 s) {
  const u64 block = slot(s).block.load(ACQ);
  return is_recipe(s) && block ? at<Recipe>(block + at<ValueHeader>(block)->data_offset) : nullptr;
}

ItemFacts& Memory::item_facts(u32 s) { return *reinterpret_cast<ItemFacts*>(slot(s).inline_bytes); }

// A value of a generator is written; it is item `number`.
void Memory::name_item(u32 s, u32 number) {
  if (!slot(s).block.load(RLX)) return;
  item_facts(s).number.store(number, RLX);
  item_facts(s).times.store(0, RLX);
}
void Memory::seal_item(u32 s, u32 number) {
  name_item(s, number);
  seal_mine(s);
}

// What task `key` was called in its first life.
u64 Memory::first_of(const Spec& t, u64 key) {
  const auto* holds = reinterpret_cast<const atom<u64>*>(&t + 1);
  const u64 e = holds[t.n_dependencies + t.n_contained - 1].load(RLX);
  Recipe* r = e ? recipe(hold_slot(e)) : nullptr;
  return r ? r->returns()[0] : key;
}

// What result `key` of a task is called in the recipe: its number, or -1.
int Memory::recipe_index(u32 s, u64 key) {
  Recipe* r = recipe(s);
  if (r && r->is_generator()) return int(item_facts(key_slot(key)).number.load(RLX));
  for (u32 i = 0; r && i < r->n_returns; i++)
    if (r->returns()[i] == key) return int(i);
  return -1;
}

// A hold of mine on the recipe of argument `s`, if it can be rebuilt without the argument itself.
atom<u64>* Memory::hold_recipe_of(u32 s) {
  const u32 r = recipe_of(s);
  if (!r) return nullptr;
  atom<u64>* entry;
  if (!hold_key(make_key(r, slot(r).gen.load(ACQ)), false, entry)) return nullptr;
  if (recipe_index(r, make_key(s, slot(s).gen.load(ACQ))) >= 0) return entry;
  drop(entry);
  return nullptr;
}

// The recipe that large results of `key`, which runs here, are to hold; 0: none, they cannot be
// made again. Mine until the attempt ends (running_pop). Who may wait for memory gets NO_RECIPE_YET
// where there is none at the moment; for others such a recipe says that it was dropped.
u32 Memory::recipe_for(u64 key, bool may_wait) {
  Spec* t = spec(key_slot(key));
  if (!t || t->max_retries == 0 || (t->flags & F_NO_RETURN) || header().lineage_most.load(RLX) == 0)
    return 0;
  if (t->flags & F_REBUILD) {
    const u64 e = t->holds()[t->n_dependencies + t->n_contained - 1].load(RLX);
    return e ? hold_slot(e) : 0;
  }
  if (auto it = own_recipes.find(key); it != own_recipes.end()) return it->second;
  const u32 s = new_slot(OWNER);
  if (!s) return 0;
  const u64 timeout = t->flags & F_TIMED ? t->times()->deadline - t->times()->submitted : 0;
  Recipe facts;
  facts.fill(*t, claim_attempt(slot(key_slot(key)).claim.load(RLX)), queue(t->queue).gen.load(ACQ),
             timeout);
  if (t->flags & F_STREAM) facts.n_contained -= 2;  // where its chain stands is no argument
  const u32 n = facts.n_arguments();
  std::vector<u64> data(facts.bytes() / 8 + 1);
  Recipe* r = reinterpret_cast<Recipe*>(data.data());
  *r = facts;
  ValueParts v;
  v.format = RECIPE;
  std::vector<atom<u64>*> held;
  u64 cost = 0;
  for (u32 i = 0; i < n; i++) {
    const u32 a = hold_slot(t->holds()[i].load(RLX));
    r->arguments()[i] = make_key(a, slot(a).gen.load(ACQ));
    const u64 life = slot(a).life.load(RLX), size = slot(a).size.load(RLX);
    if (atom<u64>* e = is_spillable(size) ? hold_recipe_of(a) : nullptr) {
      r->items()[i] = item_facts(a).number.load(RLX);
      held.push_back(e);
      v.contained.push_back(hold_slot(e->load(RLX)));
      continue;
    }
    v.contained.push_back(a);
    if (is_spillable(size) && (life & REFS) == 1 && !(life & OWNER)) cost += size;
  }
  r->made = platform::boot_ns();
  u64* returns = r->returns();
  for (u32 i = 0; i < t->n_returns; i++) returns[i] = t->returns()[i];
  std::memcpy(returns + t->n_returns, reinterpret_cast<u8*>(t) + t->payload_offset,
              t->payload_size);
  v.data = {data.data(), r->bytes()};
  const Status st = write_value(s, v, true, platform::copy);
  if (st == Status::NeedMemory && may_wait) {
    for (auto* e : held) drop(e);
    clear_bits(s, OWNER);
    return NO_RECIPE_YET;
  }
  if (st != Status::Ok) {
    discard_value(s);  // no room for it: it says that it was dropped
    slot(s).kind.store(RECIPE, RLX);
    cost = 0;
  } else {
    const u64 block = slot(s).block.load(RLX);
    cost += block_bytes(block);
    at<Recipe>(block + at<ValueHeader>(block)->data_offset)->cost = cost;
  }
  for (auto* e : held) drop(e);
  slot(s).job.store(u16(t->job), RLX);
  slot(s).state.store(SEALED, REL);
  own_recipes[key] = s;
  u32 none = SPILLS_NOT;  // where values leave for no file, they may be given up from now on
  header().spills.compare_exchange_strong(none, SPILLS);
  auto& bytes = header().lineage_bytes;
  if (cost && bytes.fetch_add(cost, RLX) + cost > header().lineage_most.load(RLX)) {
    header().lineage_over.store(1, SEQ);
    ring_daemon();
  }
  return s;
}

void Memory::drop_recipe(u64 key) {
  auto it = own_recipes.find(key);
  if (it == own_recipes.end()) return;
  const u32 s = it->second;
  own_recipes.erase(it);
  clear_bits(s, OWNER);
}

// A recipe is about to be freed, or emptied.
void Memory::forget_cost(u32 s) {
  if (const Recipe* r = recipe(s)) header().lineage_bytes.fetch_sub(r->cost, RLX);
}

// ---- the daemon only

// What recipes keep is counted, each argument once, and the oldest are emptied until it is at most
// `most`, but for those that values which were given up count on. Answers how many were.
u32 Memory::trim_lineage(u64 most, const std::set<u64>& spared) {
  header().lineage_over.store(0, SEQ);
  struct Row {
    u64 made, key;
  };
  std::vector<Row> rows;
  std::unordered_map<u32, u32> named;  // arguments, and how many recipes hold them
  const u32 end = header().chunk_high[0].load() * SLOTS_PER_CHUNK;
  auto each = [&](u32 s, auto f) {
    auto* h = at<ValueHeader>(slot(s).block.load(ACQ));
    auto* table = reinterpret_cast<atom<u64>*>(h + 1);
    for (u32 i = 0; i < h->n_contained; i++)
      if (u64 e = table[i].load(RLX)) f(hold_slot(e), table[i]);
  };
  std::vector<atom<u64>*> held;
  for (u32 s = 1; s < end; s++) {
    atom<u64>* e;
    if (slot(s).kind.load(RLX) != RECIPE || slot(s).state.load(ACQ) == FREE ||
        !hold_key(make_key(s, slot(s).gen.load(ACQ)), false, e))
      continue;
    held.push_back(e);
    if (Recipe* r = recipe(s)) {
      rows.push_back({r->made, u64(s)});
      each(s, [&](u32 a, atom<u64>&) { named[a]++; });
    }
  }
  std::sort(rows.begin(), rows.end(), [](auto& a, auto& b) { return a.made > b.made; });
  std::unordered_set<u32> counted;
  u64 total = 0, kept = 0;
  u32 dropped = 0;
  for (auto& row : rows) {
    const u32 s = u32(row.key);
    const u64 block = slot(s).block.load(ACQ);
    u64 cost = block_bytes(block);
    each(s, [&](u32 a, atom<u64>&) {
      const u64 life = slot(a).life.load(ACQ), size = slot(a).size.load(RLX);
      const bool is_ours = !is_recipe(a) && (life & REFS) == named[a] && !(life & (OWNER | TASK));
      if (is_ours && is_spillable(size) && counted.insert(a).second) cost += size;
    });
    total += cost;
    if (total <= most || spared.contains(make_key(s, slot(s).gen.load(RLX)))) {
      kept += cost;
      recipe(s)->cost = cost;
      continue;
    }
    slot(s).size.store(0, RLX);
    each(s, [&](u32, atom<u64>& e) { hold(hold_slot(e.load(RLX)), -1, false, &e); });
    slot(s).flags.fetch_and(u8(~HAS_TABLE));
    slot(s).block.store(0, SEQ);
    free_block(block, 0, s);
    dropped++;
  }
  header().lineage_bytes.store(kept, RLX);
  for (auto* e : held) drop(e);
  return dropped;
}

// What tasks that have not ended were given, sorted: giving that up would be for nothing.
std::vector<u64> Memory::needed() {
  std::vector<u64> out;
  const u32 end = header().chunk_high[0].load() * SLOTS_PER_CHUNK;
  for (u32 s = 1; s < end; s++) {
    const u64 state = claim_state(slot(s).claim.load(ACQ));
    if (state != HELD && state != QUEUED && state != RUNNING) continue;
    Spec* t = spec(s);
    // It may end while it is read, and be somebody else's bytes: what is named then is no harm, but
    // no offset may lead outside.
    const u64 n = t ? u64(t->n_dependencies) + t->n_contained : 0;
    if (!n || slot(s).spec.load(ACQ) + sizeof(Spec) + 8 * n > off.end) continue;
    for (u64 i = 0; i < n; i++) {
      const u64 e = t->holds()[i].load(RLX);
      const u32 a = e ? hold_slot(e) : 0;
      if (a && a < end) out.push_back(make_key(a, slot(a).gen.load(ACQ)));
    }
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

// The numbers of the items that a rebuild is to make, as a value that it is given; mine.
Status Memory::put_numbers(const std::vector<u32>& numbers, u32& s) {
  s = new_slot(OWNER);
  if (!s) return Status::Full;
  ValueParts v;
  v.format = BYTES;
  v.data = {numbers.data(), 4 * u64(numbers.size())};
  const Status st = write_value(s, v, true, platform::copy);
  if (st == Status::Ok)
    seal_mine(s);
  else
    clear_bits(s, OWNER);
  return st;
}

// The numbers of the items that this task is to make again; none: it is no such task.
std::vector<u32> Memory::numbers_of(Spec& t) {
  if (!(t.flags & F_ITEMS)) return {};
  const u64 e = t.holds()[t.n_dependencies + t.n_contained - 2].load(ACQ);
  const Bytes b = value_bytes(hold_slot(e), false);
  std::vector<u32> out(b.size / 4);
  std::memcpy(out.data(), b.data, 4 * out.size());
  return out;
}

// Submits the task of recipe `s` once more, with these slots as its arguments; of a generator, for
// these items. Its results belong to the daemon.
Status Memory::rebuild(u32 s, std::vector<u32> arguments, const std::vector<WantedItem>& items,
                       std::vector<u32>& returns) {
  Recipe* r = recipe(s);
  if (!r || queue(r->queue).gen.load(ACQ) != r->queue_gen || queue(r->queue).dead.load(ACQ))
    return Status::Dead;
  Call c;
  c.function = r->function;
  c.queue = r->queue;
  c.queue_gen = r->queue_gen;
  c.job = r->job;
  c.method = r->method;
  c.n_returns = r->n_returns;
  c.flags = (r->flags & (F_HELP | F_RETRY | F_FILLS | F_ACTOR)) | F_REBUILD;
  if (c.flags & F_ACTOR) {
    c.flags |= F_UNORDERED;
    c.actor = r->actor;
  }
  c.timeout = r->timeout;
  c.max_retries = r->max_retries;
  c.parent = r->parent;
  c.limit = r->limit;
  c.attempt = std::min(r->attempt, 254u);
  c.charged = r->charged + 1;
  u32 numbers_at = 0;
  if (items.size() == 1 && items[0].number == LIST_ITEM) {
    c.flags |= F_DYNAMIC;
    c.charged += items[0].slot ? item_facts(items[0].slot).times.load(RLX) : 0;
  } else if (r->is_generator()) {
    std::vector<u32> numbers;
    u32 times = 0;
    for (auto& item : items) {
      numbers.push_back(item.number);
      if (item.slot) times = std::max(times, item_facts(item.slot).times.load(RLX));
    }
    if (const Status st = put_numbers(numbers, numbers_at); st != Status::Ok) return st;
    c.n_returns = u32(numbers.size());
    c.charged += times;
    c.flags |= F_ITEMS;
  }
  const std::vector<u32> dependencies(arguments.begin(), arguments.begin() + r->n_dependencies);
  std::vector<u32> contained(arguments.begin() + r->n_dependencies, arguments.end());
  if (numbers_at) contained.push_back(numbers_at);
  contained.push_back(s);
  const Status st = submit(c, {r->payload(), r->payload_size}, dependencies, contained, returns);
  if (numbers_at) clear_bits(numbers_at, OWNER);
  if (st != Status::Ok) return st;
  r->attempt++;
  if (!r->is_generator()) r->charged++;
  for (auto& item : items)
    if (item.slot) item_facts(item.slot).times.fetch_add(1, RLX);
  event(EV_REBUILD, r->returns()[0], make_key(returns[0], slot(returns[0]).gen.load(RLX)),
        r->attempt);
  return st;
}

// The value of `s` is lost: its readers wait from now on, until somebody fills it or says why not.
void Memory::set_lost(u32 s) {
  Slot& x = slot(s);
  const u64 word = x.block.load(ACQ), stub = block_of(word);
  if (!(word & SPILLED)) return;
  if (stub) at<ValueHeader>(stub)->data_offset = 0;
  x.block.store(SPILLED | (stub ? stub : BARE), SEQ);
  event(EV_LOST, make_key(s, x.gen.load(RLX)));
}

// The items that recipe `r` has made, and that are in memory no more.
std::vector<u32> Memory::items_away(u32 r) {
  std::vector<u32> out;
  const Recipe* of = recipe(r);
  if (!of || !of->is_generator()) return out;
  const u32 end = header().chunk_high[0].load() * SLOTS_PER_CHUNK;
  for (u32 s = 1; s < end; s++)
    if ((slot(s).block.load(ACQ) & SPILLED) && slot(s).state.load(ACQ) != FREE && recipe_of(s) == r)
      out.push_back(s);
  return out;
}

// The queues that tasks will need which run again: those of all recipes that were not emptied.
std::set<u32> Memory::queues_of_recipes() {
  std::set<u32> out;
  const u32 end = header().chunk_high[0].load() * SLOTS_PER_CHUNK;
  for (u32 s = 1; s < end; s++) {
    atom<u64>* e;
    if (slot(s).kind.load(RLX) != RECIPE || slot(s).state.load(ACQ) == FREE ||
        !hold_key(make_key(s, slot(s).gen.load(ACQ)), false, e))
      continue;
    if (const Recipe* r = recipe(s); r && queue(r->queue).gen.load(ACQ) == r->queue_gen)
      out.insert(r->queue);
    drop(e);
  }
  return out;
}

bool Memory::is_lost(u32 s) {
  u64 number, size;
  return spilled(s, number, size) && number == 0;
}

// The value of `from`, sealed and known to nobody but the daemon, becomes that of `s`, which was
// lost. It may be on another node, and stays there.
void Memory::take_over(u32 s, u32 from) {
  Slot &x = slot(s), &y = slot(from);
  const u64 word = y.block.load(ACQ), stub = block_of(x.block.load(ACQ)), block = block_of(word);
  if (block) give_to(block, s);
  y.block.store(0, REL);
  if (!word) std::memcpy(x.inline_bytes, y.inline_bytes, INLINE_BYTES);  // else: what item it is
  x.size.store(y.size.load(RLX), RLX);
  x.kind.store(y.kind.load(RLX), RLX);
  const bool has_table = y.flags.load(RLX) & HAS_TABLE;
  y.flags.fetch_and(u8(~HAS_TABLE));
  if (has_table)
    x.flags.fetch_or(HAS_TABLE);
  else
    x.flags.fetch_and(u8(~HAS_TABLE));
  x.block.store(word, SEQ);
  drop_stub(s, stub);
  event(EV_RESTORE, make_key(s, x.gen.load(RLX)));
  tell_restored();
}

// The holds in a stub that its slot does not name any more, and the stub.
void Memory::drop_stub(u32 s, u64 stub) {
  if (!stub) return;
  auto* h = at<ValueHeader>(stub);
  auto* table = reinterpret_cast<atom<u64>*>(h + 1);
  for (u32 i = 0; i < h->n_contained; i++)
    if (u64 e = table[i].load(RLX)) hold(hold_slot(e), -1, false, &table[i]);
  free_block(stub, 0, s);
}

}  // namespace shoal
