// Holds: counts that stay exact although any process may die between any two steps.
//
//     life    {count, stamp (who, seq)}        one word per slot; the stamp is of the last change
//     record  slot or 0                        one entry of a ledger: this process holds the slot
//     op      {slot, seq, done}                the intent of a process
//     about   which record, plus or minus      written before op
//
//     hold:   op = {slot, next seq, 0}
//             loop: load life; stamped by another process, whose op is that very change?
//                       swap its op to done
//                   swap life -> {count + d, me, seq}                              = commit
//             record = d > 0 ? slot : 0;  op = 0
//     repair: happened = life is stamped by the dead's op, or (looked at second) its op says done
//             record = what is true; then the daemon drops every entry of the dead's ledger
//
// So whether a change has happened is a fact: it shows as a stamp until somebody overwrites it, and
// whoever does has told the author before. The order of record and count does not matter. Two
// stores in any fixed order cannot do this: count first loses a drop twice, record first leaks.
//
// Each slot has one hold more that nobody drops, so that a count below it means "freed too early".
//
// Invariants: no count falls below the base hold; at the end the count is 1 + the records of the
// living.
//
// Command line: [deaths = 1] [processes: 2 or 3, default 3] [operations each, default 3]
#include "checker.hpp"

using mc::Ran;

namespace {

enum Broken { right, count_first, record_first, no_done_bit, done_looked_first, same_seq };
struct Config {
    Broken broken = right;
    int deaths = 1, n_processes = 3, n_acts = 3;
} config;
bool is(Broken b) { return config.broken == b; }

constexpr int max_processes = 3, daemon_ = 3, slots = 2, ledger_size = 2, acts = 4;

struct Act {
    uint8_t slot, k;  // ledger entry
    int8_t d;
};
const Act programs[max_processes][acts] = {
    {{0, 0, 1}, {0, 0, -1}, {1, 1, 1}, {1, 1, -1}},
    {{0, 0, 1}, {0, 1, 1}, {0, 0, -1}, {0, 1, -1}},
    {{1, 0, 1}, {0, 1, 1}, {1, 0, -1}, {0, 1, -1}},
};
struct Life {
    uint8_t count, who, seq;  // who: process + 1, 0 for the daemon (it never dies)
    bool operator==(const Life&) const = default;
};
struct Op {
    uint8_t slot, seq, done;  // slot + 1, 0: no operation
    bool operator==(const Op&) const = default;
};
struct Frame {
    uint8_t pc, i, p, slot, happened;
    Life seen;
    Op op;
};

struct Model {
    static constexpr int actors = max_processes + 1;
    Life life[slots];
    Op op[max_processes];
    uint8_t about[max_processes];     // ledger entry of the op
    int8_t plus_or_minus[max_processes];
    uint8_t ledger[max_processes][ledger_size], seq[max_processes];
    Frame hold_[actors], main_[actors];
    uint8_t finished[actors], dead[max_processes], repaired[max_processes], deaths, fault;

    static const char* actor_name(int p) {
        static const char* const names[] = {"A", "B", "C", "daemon"};
        return names[p];
    }
    // `owner` is whose ledger the record is in: the daemon drops what the dead held.
    Ran hold(int me, Frame& f, int s, int d, int owner, int k) {
        MC_BEGIN(f)
        if (is(count_first) || is(record_first)) {
            if (is(record_first) && d < 0) {
                MC_STEP("write the record") ledger[owner][k] = 0;
            }
            MC_STEP("add to the count") life[s].count += d;
            if (is(count_first) || d > 0) {
                MC_STEP("write the record") ledger[owner][k] = d > 0 ? s + 1 : 0;
            }
            MC_RETURN;
        }
        if (me != daemon_) {
            MC_STEP("intent: op = {slot, seq}")
            if (!is(same_seq)) seq[me]++;
            about[me] = k, plus_or_minus[me] = d;
            op[me] = {uint8_t(s + 1), seq[me], 0};
        }
        for (;;) {
            MC_STEP("load life") f.seen = life[s];
            if (f.seen.who && f.seen.who != me + 1 && !is(no_done_bit)) {
                MC_STEP("load the op of who stamped it") f.op = op[f.seen.who - 1];
                if (f.op == Op{uint8_t(s + 1), f.seen.seq, 0}) {
                    MC_STEP("tell it: swap its op to done")
                    if (op[f.seen.who - 1] == f.op) op[f.seen.who - 1].done = 1;
                }
                f.op = {};
            }
            MC_STEP("swap life (commit)")
            if (life[s] == f.seen) break;
        }
        life[s] = {uint8_t(f.seen.count + d), uint8_t(me == daemon_ ? 0 : me + 1),
                   uint8_t(me == daemon_ ? 0 : seq[me])};
        MC_STEP("write the record") ledger[owner][k] = d > 0 ? s + 1 : 0;
        if (me != daemon_) {
            MC_STEP("op = 0") op[me] = {};
        }
        MC_END
    }
    Ran process(int me, Frame& f) {
        auto act = [&]() -> const Act& { return programs[me][f.i]; };
        MC_BEGIN(f)
        for (; f.i < config.n_acts; f.i++) {
            if (act().d < 0 && !ledger[me][act().k]) continue;
            MC_CALL(hold(me, hold_[me], act().slot, act().d, me, act().k));
        }
        MC_END
    }
    int next_dead() const {
        for (int p = 0; p < max_processes; p++)
            if (dead[p] && !repaired[p]) return p;
        return daemon_;
    }
    bool is_stamped(int p) const {
        return life[op[p].slot - 1].who == p + 1 && life[op[p].slot - 1].seq == op[p].seq;
    }
    Ran repair(Frame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_WAIT(next_dead() != daemon_, "a pidfd says: dead")
            f.p = next_dead();
            if (op[f.p].slot) {
                if (is(done_looked_first)) {
                    MC_STEP("repair: was the dead told?") f.happened = op[f.p].done;
                }
                if (!f.happened) {
                    MC_STEP("repair: is life stamped by its op?") f.happened = is_stamped(f.p);
                }
                if (!f.happened && !is(done_looked_first)) {
                    MC_STEP("repair: or was the dead told?") f.happened = op[f.p].done;
                }
                MC_STEP("repair: make the record say the truth")
                ledger[f.p][about[f.p]] =
                    (plus_or_minus[f.p] > 0) == bool(f.happened) ? op[f.p].slot : 0;
                op[f.p] = {}, f.happened = 0;
            }
            for (f.i = 0; f.i < ledger_size; f.i++) {
                f.slot = ledger[f.p][f.i];
                if (f.slot) MC_CALL(hold(daemon_, hold_[daemon_], f.slot - 1, -1, f.p, f.i));
            }
            repaired[f.p] = 1;
            f.i = f.p = f.slot = 0;
        }
        MC_END
    }

    Ran step(int p) {
        if (finished[p]) return Ran::blocked;
        Ran ran = p == daemon_ ? repair(main_[p]) : process(p, main_[p]);
        if (ran == Ran::done) finished[p] = 1, ran = Ran::more;
        return ran;
    }
    bool may_die(int p) const {
        return p != daemon_ && !dead[p] && !finished[p] && deaths < config.deaths;
    }
    void die(int p) {
        dead[p] = finished[p] = 1, deaths++;
        main_[p] = hold_[p] = {};
    }
    const char* wrong_now() const {
        for (const Life& l : life)
            if (l.count < 1 || l.count > 100)
                return "a count is below the base hold: freed too early";
        return nullptr;
    }
    const char* wrong_at_end() const {
        for (int s = 0; s < slots; s++) {
            int want = 1;
            for (auto& entries : ledger)
                for (uint8_t e : entries) want += e == s + 1;
            if (life[s].count < want) return "a count is too low at the end: freed too early";
            if (life[s].count > want) return "a count is too high at the end: leaked";
        }
        return nullptr;
    }
    static Model start() {
        Model m;
        memset(static_cast<void*>(&m), 0, sizeof m);
        for (Life& l : m.life) l.count = 1;
        for (int p = config.n_processes; p < max_processes; p++) m.finished[p] = 1;
        for (int p = 0; p < actors; p++) m.step(p);
        return m;
    }
};

}  // namespace

int main(int argc, char** argv) {
    mc::Report report("holds", argc, argv);
    config.deaths = report.number(0, 1);
    config.n_processes = report.number(1, 3);
    config.n_acts = report.number(2, 3);
    auto run = [&](const char* name, Broken broken) {
        config.broken = broken;
        report.variant(name, broken != right, 1, [&](int) { return Model::start(); });
    };
    run("the protocol", right);
    run("count first, record second", count_first);
    run("record first when dropping", record_first);
    run("no done bit", no_done_bit);
    run("the done bit is looked at before the stamp", done_looked_first);
    run("the sequence number is always the same", same_seq);
    return report.exit_status();
}
