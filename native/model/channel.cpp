// A channel: one writer, two readers, places that are taken again, a close, and deaths.
//
//     published   how many messages there are: the commit of each
//     order       in which place each message stands
//     owed        of a place: a bit for each reader that has not acknowledged; number: its message
//     hold        of a place: keeps an object alive for the message
//     writing, reading   who has the right to, taken over from the dead by a successor
//     position    of a reader: its next message
//     kept        places that arrays keep for ever; at most half of them may be
//     bell        of readers, of the writer: {sleepers, rung}
//
// The writer fills a place in two halves, stores number, owed, order, then published. A reader
// clears its bit before it moves on, and drops the hold before it clears the last bit: a successor
// passes over what has lost its hold. Whoever sleeps is counted before it looks for the last time.
// Closing rings always.
//
// Scenarios: PLAIN           two readers, one place, two messages; closed after the last of them
//            CLOSED_EARLY    one reader; closed at any time
//            NEXT_WRITES     one reader; the writer may die, a successor goes on
//            KEPT            two places, three messages, which both readers keep where they may
//            NEXT_READS      two readers; one may die, a successor goes on
//            NOBODY_FOLLOWS  one reader; both may die; closed after a death
//
// Command line: [1: two readers everywhere, two places in the last scenario = 0]
//
// Invariants: nobody reads half a message, another one's, or one whose hold is gone; holds are
// dropped once. At the end everybody who lives has got out, and where nobody stopped it, every
// reader has every message.
#include "checker.hpp"

using mc::Ran;

namespace {

enum Broken {
    right, owed_late, moves_first, drops_late, looks_first, closes_half, trusts_the_dead,
    number_first, closed_last, rings_once, keeps_each, wakes_none, order_late, ends_first,
    takes_gone,
};
struct Config {
    Broken broken = right;
    int scenario = 0, places = 1, messages = 2, deaths = 0, readers = 2;
    bool is_large = false;
} config;
bool is(Broken b) { return config.broken == b; }

enum Scenario { PLAIN, CLOSED_EARLY, NEXT_WRITES, KEPT, NEXT_READS, NOBODY_FOLLOWS, scenarios };
enum { WRITER, NEXT_WRITER, READER0, READER1, NEXT_READER, CLOSER, processes };
constexpr int most_places = 2;


struct Bell {
    uint8_t sleepers, rung;
};
struct Frame {
    uint8_t pc, place, n, seen, flag, i;
};

struct Model {
    static constexpr int actors = processes;
    uint8_t published, closed, order[4], writing, reading[2], position[2], kept;
    uint8_t owed[most_places], number[most_places], hold[most_places];
    uint8_t half[2][most_places];
    Bell bells[2];  // of the readers, of the writer
    uint8_t asleep[processes];  // bell + 1
    Frame main_[processes], sub_[processes], ring_[processes];
    uint8_t finished[processes], dead[processes], deaths;
    uint8_t got[2], wrong;  // wrong: 1 half or foreign, 2 hold gone, 3 dropped twice

    static const char* actor_name(int p) {
        static const char* const names[] = {"writer",   "next writer", "reader 0",
                                            "reader 1", "next reader", "closer"};
        return names[p];
    }
    static int reader_of(int p) { return p == READER1; }

    Ran ring(Frame& f, int b) {
        MC_BEGIN(f)
        MC_STEP("ring: does anybody sleep?")
        if (!bells[b].sleepers || is(wakes_none)) MC_RETURN;
        MC_CALL(ring_always(f, b, 1));
        MC_END
    }
    // In the same frame, as a tail: `deeper` keeps its steps apart.
    Ran ring_always(Frame& f, int b, int) {
        switch (f.i) {
            case 0:
                f.i = 1;
                return Ran::more;
            case 1:
                mc::step_text = "ring: the word";
                bells[b].rung++;
                f.i = 2;
                return Ran::more;
            default:
                mc::step_text = "ring: futex_wake";
                for (auto& a : asleep)
                    if (a == b + 1) a = 0;
                f.i = 0;
                return Ran::done;
        }
    }
    int free_place() const {
        for (int i = 0; i < config.places; i++)
            if (!owed[i]) return i;
        return config.places;
    }
    bool has_room() const { return free_place() < config.places || closed; }
    bool has_come(int r) const { return position[r] != published || closed; }
    bool is_done(int me, int b) const {
        return b ? has_room() : has_come(reader_of(me));
    }
    // Sleep at bell b unless there is something to do.
    Ran sleep(Frame& f, int me, int b) {
        MC_BEGIN(f)
        if (is(looks_first)) {
            MC_STEP("sleep: look") f.flag = is_done(me, b);
            if (f.flag) MC_RETURN;
        }
        MC_STEP("sleep: count myself") bells[b].sleepers++;
        MC_STEP("sleep: note the bell") f.seen = bells[b].rung;
        if (!is(looks_first)) {
            MC_STEP("sleep: look for the last time") f.flag = is_done(me, b);
        }
        if (!f.flag) {
            MC_STEP("sleep: futex_wait")
            if (bells[b].rung == f.seen) asleep[me] = uint8_t(b + 1);
            MC_WAIT(!asleep[me], "sleep: awake")
        }
        MC_STEP("sleep: count myself no more") bells[b].sleepers--;
        MC_END
    }

    static uint8_t everybody() { return uint8_t((1 << config.readers) - 1); }
    Ran write(int me, Frame& f) {
        MC_BEGIN(f)
        MC_WAIT(me == WRITER || dead[WRITER], "write: begin")
        while (true) {
            MC_STEP("write: the right, or that of the dead")
            f.flag = writing != 0;
            writing = uint8_t(me + 1);
            if (f.flag) {
                for (f.i = 0; f.i < config.places && !is(trusts_the_dead); f.i++) {
                    MC_STEP("write: free what the dead did not publish")
                    if (number[f.i] == published) owed[f.i] = 0;
                }
                f.i = 0;
                if (!is(rings_once)) MC_CALL(ring_always(ring_[me], 0, 0));
            }
            if (published == config.messages) break;
            for (;;) {
                MC_STEP("write: closed?") f.flag = closed;
                if (f.flag) break;
                MC_STEP("write: a free place?") f.place = uint8_t(free_place());
                if (f.place < config.places) break;
                MC_CALL(sleep(sub_[me], me, 1));
            }
            if (f.flag) break;
            f.n = published;
            MC_STEP("fill: drop what a dead writer held, not kept any more")
            hold[f.place] = 0, kept &= uint8_t(~(1 << f.place));
            MC_STEP("fill: hold") hold[f.place] = 1;
            MC_STEP("fill: one half") half[0][f.place] = uint8_t(f.n + 1);
            MC_STEP("fill: the other half") half[1][f.place] = uint8_t(f.n + 1);
            MC_STEP("publish: number") number[f.place] = f.n;
            if (!is(owed_late)) {
                MC_STEP("publish: owed") owed[f.place] = everybody();
            }
            if (!is(order_late)) {
                MC_STEP("publish: order") order[f.n] = f.place;
            }
            MC_STEP("publish") published++;
            if (is(owed_late)) {
                MC_STEP("publish: owed, too late") owed[f.place] = everybody();
            }
            if (is(order_late)) {
                MC_STEP("publish: order, too late") order[f.n] = f.place;
            }
            if (is(ends_first)) {
                MC_STEP("write: end, too early") writing = 0;
            }
            f.place = f.n = 0;
            MC_CALL(ring(ring_[me], 0));
            MC_STEP("write: end") writing = 0;
        }
        MC_STEP("write: give the right back") writing = 0;
        MC_END
    }

    Ran acknowledge(Frame& f, int me, int place) {
        const uint8_t bit = uint8_t(1 << reader_of(me));
        MC_BEGIN(f)
        for (;;) {
            MC_STEP("acknowledge: load owed") f.seen = owed[place];
            if (!(f.seen & bit)) MC_RETURN;
            if (f.seen == bit) {
                if (!is(drops_late)) {
                    MC_STEP("acknowledge: drop the hold") drop(place);
                }
                MC_STEP("acknowledge: nobody is owed it") owed[place] = 0;
                if (is(drops_late)) {
                    MC_STEP("acknowledge: drop the hold, too late") drop(place);
                }
                MC_CALL(ring(ring_[me], 1));
                MC_RETURN;
            }
            MC_STEP("acknowledge: swap my bit away") f.flag = owed[place] == f.seen;
            if (f.flag) owed[place] &= uint8_t(~bit);
            if (f.flag) MC_RETURN;
        }
        MC_END
    }
    void drop(int place) {
        if (!hold[place] && is(drops_late)) wrong = 3;
        hold[place] = 0;
    }
    // May arrays keep this place?
    Ran keep(Frame& f, int place) {
        MC_BEGIN(f)
        for (;;) {
            MC_STEP("keep: load kept") f.seen = kept;
            f.n = 1;
            for (f.i = 0; f.i < config.places; f.i++) {
                if (f.i == place || !(f.seen >> f.i & 1)) continue;
                MC_STEP("keep: is a kept place still owed?") f.n += owed[f.i] != 0;
            }
            f.i = 0;
            if (is(keeps_each)) f.n = 1;
            if (2 * f.n > config.places) break;
            MC_STEP("keep: swap") f.flag = kept == f.seen;
            if (f.flag) kept |= uint8_t(1 << place);
            if (f.flag) break;
        }
        main_of(f)->flag = f.flag;
        MC_END
    }
    Frame* main_of(Frame& f) { return &main_[&f - sub_]; }

    void look_at(int place, int n, int which) {
        if (half[which][place] != n + 1) wrong = 1;
        if (!hold[place]) wrong = 2;
    }
    Ran read(int me, Frame& f) {
        const int r = reader_of(me);
        MC_BEGIN(f)
        MC_WAIT(me != NEXT_READER || dead[READER0], "read: begin")
        for (;;) {
            MC_STEP("read: the right, or that of the dead")
            f.flag = reading[r] != 0;
            reading[r] = uint8_t(me + 1);
            if (f.flag && !is(rings_once)) MC_CALL(ring_always(ring_[me], 1, 0));
            for (;;) {
                f.seen = f.flag = 0;
                if (!is(closed_last)) {
                    MC_STEP("read: closed?") f.seen = closed;
                }
                MC_STEP("read: is there another message?")
                f.n = position[r], f.flag = f.n != published;
                if (f.flag) {
                    MC_STEP("read: its place") f.place = order[f.n];
                    if (is(number_first)) {
                        MC_STEP("read: its number, too early") f.i = number[f.place] == f.n;
                        MC_STEP("read: am I owed it?") f.i &= owed[f.place] >> r & 1;
                    } else {
                        MC_STEP("read: am I owed it?") f.i = owed[f.place] >> r & 1;
                        MC_STEP("read: its number") f.i &= number[f.place] == f.n;
                    }
                    if (f.i && !is(takes_gone)) {
                        MC_STEP("read: is it held?") f.i = hold[f.place] ? 1 : 2;
                    }
                    if (f.i == 1) break;
                    if (f.i) MC_CALL(acknowledge(sub_[me], me, f.place));
                    MC_STEP("read: pass it over") position[r]++;
                    continue;
                }
                if (is(closed_last)) {
                    MC_STEP("read: closed?") f.seen = closed;
                }
                if (f.seen) break;
                MC_CALL(sleep(sub_[me], me, 0));
            }
            if (!f.flag) break;
            f.i = 0;
            MC_STEP("read: one half") look_at(f.place, f.n, 0);
            MC_STEP("read: the other half") look_at(f.place, f.n, 1);
            got[r] |= uint8_t(1 << f.n);
            f.flag = 0;
            if (config.scenario == KEPT) MC_CALL(keep(sub_[me], f.place));
            if (is(moves_first)) {
                MC_STEP("read: move on, too early") position[r]++;
            }
            if (!f.flag) MC_CALL(acknowledge(sub_[me], me, f.place));
            if (!is(moves_first)) {
                MC_STEP("read: move on") position[r]++;
            }
            f.flag = f.place = f.n = 0;
            MC_STEP("read: end") reading[r] = 0;
        }
        MC_STEP("read: give the right back") reading[r] = 0;
        MC_END
    }

    bool is_written() const {
        return finished[WRITER] && (!dead[WRITER] || finished[NEXT_WRITER]);
    }
    bool is_to_close() const {
        return config.scenario == CLOSED_EARLY || is_written() ||
               (config.scenario == NOBODY_FOLLOWS && deaths);
    }
    Ran close(Frame& f) {
        MC_BEGIN(f)
        MC_WAIT(is_to_close(), "close: begin")
        MC_STEP("close: the word") closed = 1;
        MC_CALL(ring_always(ring_[CLOSER], 0, 0));
        if (!is(closes_half)) MC_CALL(ring_always(ring_[CLOSER], 1, 0));
        MC_END
    }

    Ran step(int p) {
        if (finished[p]) return Ran::blocked;
        Ran ran = p <= NEXT_WRITER ? write(p, main_[p])
                  : p == CLOSER    ? close(main_[p])
                                   : read(p, main_[p]);
        if (ran == Ran::done) finished[p] = 1, ran = Ran::more;
        return ran;
    }
    bool may_die(int p) const {
        if (finished[p] || deaths >= config.deaths) return false;
        return config.scenario == NEXT_WRITES   ? p == WRITER
               : config.scenario == NEXT_READS ? p == READER0
                                      : p == WRITER || p == READER0 || p == READER1;
    }
    void die(int p) {
        finished[p] = dead[p] = 1, deaths++;
        asleep[p] = 0;
        main_[p] = sub_[p] = ring_[p] = {};
    }
    const char* wrong_now() const {
        static const char* const words[] = {nullptr, "half a message, or another one's",
                                            "the hold of a message is gone", "dropped twice"};
        return words[wrong];
    }
    const char* wrong_at_end() const {
        for (int p = 0; p < processes; p++) {
            const bool follows = p == NEXT_WRITER   ? dead[WRITER]
                                 : p == NEXT_READER ? dead[READER0]
                                                    : true;
            if (follows && !finished[p]) return "somebody never gets out";
        }
        if (config.scenario == CLOSED_EARLY || config.scenario == NOBODY_FOLLOWS) return nullptr;
        for (int r = 0; r < config.readers; r++)
            if (got[r] != (1 << config.messages) - 1) return "a message was lost";
        for (int i = 0; i < config.places; i++)
            if (config.scenario != KEPT && (owed[i] || hold[i])) return "a place stays taken";
        return nullptr;
    }
    static Model start(int scenario) {
        config.scenario = scenario;
        const bool is_small = !config.is_large;
        config.readers = is_small && scenario != PLAIN && scenario != KEPT && scenario != NEXT_READS
                             ? 1
                             : 2;
        config.places = scenario == KEPT || (scenario == NOBODY_FOLLOWS && !is_small) ? 2 : 1;
        config.messages = scenario == KEPT ? 3 : 2;
        config.deaths = scenario == NOBODY_FOLLOWS                            ? 2
                        : scenario == NEXT_WRITES || scenario == NEXT_READS ? 1
                                                                              : 0;
        Model m;
        memset(static_cast<void*>(&m), 0, sizeof m);
        for (auto& n : m.number) n = 0xff;
        if (scenario != NEXT_WRITES) m.finished[NEXT_WRITER] = 1;
        if (scenario != NEXT_READS) m.finished[NEXT_READER] = 1;
        if (config.readers == 1) m.finished[READER1] = 1;
        for (int p = 0; p < actors; p++) m.step(p);
        return m;
    }
};

}  // namespace

int main(int argc, char** argv) {
    mc::Report report("channel", argc, argv);
    config.is_large = report.number(0, 0);
    auto run = [&](const char* name, Broken broken) {
        config.broken = broken;
        report.variant(name, broken != right, scenarios, Model::start);
    };
    run("the protocol", right);
    run("a message is owed after it was published", owed_late);
    run("its place is known after it was published", order_late);
    run("a reader moves on before it acknowledges", moves_first);
    run("the hold is dropped after the place is free", drops_late);
    run("a sleeper looks before it is counted", looks_first);
    run("nobody is woken", wakes_none);
    run("closing wakes the readers only", closes_half);
    run("what the dead had filled stays owed", trusts_the_dead);
    run("a successor does not ring for the dead", rings_once);
    run("a writer gives its right back before it rings", ends_first);
    run("a message whose last reader died is read again", takes_gone);
    run("the number is looked at before what is owed", number_first);
    run("closed is looked at last", closed_last);
    run("each reader keeps half of the places", keeps_each);
    return report.exit_status();
}
