// Memory that stays writable: shared blocks, their words, and channels made of one.
//
// A shared block is the value of an ordinary sealed object whose slot says SHARED. Holds, deaths,
// freeing and the audit are therefore those of any object; only its bytes are written after it was
// sealed, by whoever holds it.
//
//   block of the value | ValueHeader | table of holds | Bell x 16 | data, zeroed |
//   ... of a channel   | ValueHeader | table: one hold per place, one for the cause | ChannelHead |
//                        ReaderWords x readers | Message x slots | area x slots |
//
//   ChannelHead    line 0  what never changes: bytes of an area, slots, readers
//                  line 1  published: how many messages there are; closed; bell of the readers;
//                          order: in which place the message of a number stands
//                  line 2  writing: who writes now; home: a hint for those who wait
//                  line 3  bell of the writer; who writes the cause; kept: places seen by arrays
//   ReaderWords    position: number of the next message for this reader; reading: who reads now
//   Message        owed: a bit for each reader that has not acknowledged it; number, format, sizes;
//                  and in its second line up to 64 bytes of value
//
// The writer takes the lowest place that nobody is owed, fills it, stores `owed`, and stores
// `published`: that one store is the commit of the message. A reader clears its bit in `owed`
// *before* it moves its position (a death between leaves a message that is found acknowledged, and
// is passed over), except where it keeps looking at the place: then the bit goes with the last
// array. Who clears the last bit drops the hold of the place first, since nobody else can then.
//
// Numbers are 32 bits wide and wrap: those that are compared are less than 128 apart.
//
// Sleeping: `sleepers` is raised before the last look and lowered after the sleep, so whoever
// changes a word either is seen, or sees the sleeper and wakes it. A sleeper that is killed stays
// counted; all that follows is a call of the kernel per change for nothing. Whoever is killed
// between a change and the wake leaves others asleep beside it until somebody rings again: closing
// always does.
#pragma once
#include "berth.hpp"
#include "memory.hpp"

namespace shoal {

struct Bell {
  atom<u32> rung, sleepers;
  // Never 0: a thread that is about to sleep while the mapping is let go finds zeros there.
  void reset() {
    rung.store(1, RLX);
    sleepers.store(0, RLX);
  }
  // After a seq_cst change of what the sleepers look at.
  void ring() {
    if (sleepers.load(SEQ)) ring_always();
  }
  void ring_always() {
    rung.fetch_add(1, SEQ);
    platform::futex_wake(rung);
  }
};

// Sleep until the bell rings, unless `done` already.
Memory::Wait sleep_at(Memory& m, Bell& bell, const std::function<bool()>& done, u64 deadline_ns,
                      u64 slice_ns, Doubt& doubt);

inline constexpr u32 WORD_BELLS = 16;

// One process's view of a shared block.
struct SharedBlock {
  Memory* m = nullptr;
  u8* data = nullptr;
  u64 size = 0;

  static Status create(Memory& m, u32 s, u64 bytes);  // zeroed; then seal the slot
  static bool is_one(Memory& m, u32 s);
  void open(Memory& m, u32 s);

  u64 words() const { return size / 8; }
  atom<i64>& word(u64 i) { return reinterpret_cast<atom<i64>*>(data)[i]; }
  Bell& bell(u64 i) { return (reinterpret_cast<Bell*>(data) - WORD_BELLS)[i % WORD_BELLS]; }
  void store(u64 i, i64 value) {
    word(i).store(value, SEQ);
    bell(i).ring();
  }
  i64 add(u64 i, i64 delta) {
    const i64 next = i64(u64(word(i).fetch_add(delta, SEQ)) + u64(delta));
    bell(i).ring();
    return next;
  }
  bool compare_swap(u64 i, i64 old, i64 next) {
    if (!word(i).compare_exchange_strong(old, next, SEQ)) return false;
    bell(i).ring();
    return true;
  }
};

inline constexpr u32 CHANNEL_SLOTS = 64, CHANNEL_READERS = 64, CHANNEL_ORDER = 128;
inline constexpr u8 CARRIED = 0x80;  // format of a message whose value is the object of its hold
inline constexpr u32 CHANNEL_OPEN = 0, CHANNEL_CLOSED = 1, CHANNEL_CAUSED = 2;

struct ChannelHead {
  u64 capacity, area;
  u32 slots, readers, order_mask;
  alignas(128) atom<u32> published;
  atom<u32> closed;
  Bell arrived;
  atom<u8> order[CHANNEL_ORDER];
  alignas(128) atom<u64> writing;
  atom<u32> home;  // where those who follow this channel wait (berth.hpp)
  alignas(128) Bell freed;
  atom<u64> kept;
  atom<u32> causing;
};
struct alignas(128) ReaderWords {
  atom<u32> position;
  atom<u64> reading;
};
struct alignas(128) Message {
  atom<u64> owed;
  atom<u32> number;
  u8 format;
  u32 n_buffers;
  u64 data_offset, data_size;  // in the area; or in inline_bytes, where there are no buffers
  alignas(64) u8 inline_bytes[INLINE_BYTES];
};
static_assert(sizeof(Message) == 128 && sizeof(ReaderWords) == 128);

// One process's view of a channel. Everything that never changes is kept here: after the mapping
// was let go, a thread that is still inside an operation finds zeros in memory, and its way out.
class Channel {
 public:
  static Status create(Memory& m, u32 s, u64 capacity, u32 slots, u32 readers);
  static bool is_one(Memory& m, u32 s);
  void open(Memory& m, u32 s);
  static u64 parts_size(const ValueParts& v);  // what a message takes of its area; 0: nothing

  // ---- the writer. `begin` after `free_place`; then `fill`, then `publish` or `give_up`.
  bool can_write() { return free_place() >= 0 || head->closed.load(SEQ); }
  int free_place();
  bool begin();  // false: somebody else writes
  bool fill(u32 place, const ValueParts& v, u32 carried,
            const std::function<void(void*, const void*, u64)>& copier);
  void publish(u32 place);
  void end_write() { head->writing.store(0, REL); }

  // ---- a reader. `begin_read` first, `end_read` last; between them `next`, then `pass`.
  bool can_read(u32 reader) {
    return head->published.load(SEQ) != reader_words(reader).position.load(RLX) ||
           head->closed.load(SEQ);
  }
  bool begin_read(u32 reader);
  void end_read(u32 reader) { reader_words(reader).reading.store(0, REL); }
  bool next(u32 reader, u32& place);
  bool keep(u32 place);  // may arrays look at it for as long as they live?
  void acknowledge(u32 reader, u32 place);
  void move_on(u32 reader) { reader_words(reader).position.fetch_add(1, REL); }
  u32 unread(u32 reader) {
    return head->published.load(ACQ) - reader_words(reader).position.load(ACQ);
  }

  // ---- anybody. `cause`: the slot of an object that says why, or 0.
  void close(u32 cause);
  u32 closed() { return head->closed.load(SEQ); }

  Message& message(u32 place) { return messages[place]; }
  atom<u64>& hold_of(u32 place) { return table[place]; }
  atom<u64>& cause() { return table[slots]; }
  u8* area_of(u32 place) { return areas + place * area; }
  ReaderWords& reader_words(u32 r) { return reader_line[r]; }

  Memory* m = nullptr;
  ChannelHead* head = nullptr;
  u64 capacity = 0, area = 0;
  u32 slots = 0, readers = 0;

 private:
  u64 me();
  bool take_right(atom<u64>& right, bool& taken_over);
  ReaderWords* reader_line = nullptr;
  Message* messages = nullptr;
  atom<u64>* table = nullptr;
  u8* areas = nullptr;
  u64 everybody = 0;
  u32 order_mask = 0;
};

}  // namespace shoal
