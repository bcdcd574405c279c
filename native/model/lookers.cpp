// Children of a dead parent: what they look at stays until nobody has the parent's mark.
//
//     mark      one page of the file, mapped before the first fork; children inherit it, and it
//               shows in what the kernel says of a process
//     forked    one word of the parent: it has forked while it looked at values
//     pin       an entry of the parent's ledger, and a count of the value
//     kind      one word per process index: taken, or free for the next process
//
//     parent:   pin; map the mark; forked = 1; fork; it keeps its pins from then on
//     repair:   forked? leave its pins, else drop them and free its index
//     look:     list the processes; read the mark of each; list again until a list has nobody new;
//               found some? wait until all of those have ended, then look again
//     release:  forked = 0; drop the pins; only then free the index
//
// A child looks at the value, may fork a child of its own and end, while it is looked for. The
// owner of the value drops it at any moment. The next process that gets the index pins something
// too, and its pin must not be taken for one of the dead.
//
// Invariants: nobody sees a value that was freed; at the end it is freed, and the pin of the next
// process is there.
//
// Command line: none
#include "checker.hpp"

using mc::Ran;

namespace {

enum Broken {
    right, forked_after_fork, mark_after_fork, no_look, lists_once, index_first, no_second_look
};
struct Config {
    Broken broken = right;
} config;
bool is(Broken b) { return config.broken == b; }

enum { PARENT, CHILD, GRANDCHILD, NEXT, OWNER, DAEMON, processes };
constexpr int children = 2;  // CHILD and GRANDCHILD

struct Frame {
    uint8_t pc, i, flag, found, listed, read;
};

struct Model {
    static constexpr int actors = processes;
    uint8_t owner, pins, freed;       // of the value
    uint8_t entry, next_entry;        // of the ledger that the index owns: the parent's, the next's
    uint8_t forked, taken;            // taken: 1 by the parent, 2 by the next process, 0 free
    uint8_t alive[processes], marked[processes], has_ended[processes];
    Frame main_[processes], look_;
    uint8_t finished[processes], parent_died, fault;

    static const char* actor_name(int p) {
        static const char* const names[] = {"parent", "child", "grandchild",
                                            "next",   "owner", "daemon"};
        return names[p];
    }
    void look_freed() {
        if (!owner && !pins) freed = 1;
    }
    void fork(int from, int to) { alive[to] = 1, marked[to] = marked[from]; }

    Ran parent(Frame& f) {
        MC_BEGIN(f)
        MC_STEP("pin the value, if it is still there")
        if (freed) MC_RETURN;
        entry = 1, pins++;
        if (!is(mark_after_fork)) {
            MC_STEP("map the mark") marked[PARENT] = 1;
        }
        if (!is(forked_after_fork)) {
            MC_STEP("forked = 1") forked = 1;
        }
        MC_STEP("fork") fork(PARENT, CHILD);
        if (is(mark_after_fork)) {
            MC_STEP("map the mark") marked[PARENT] = 1;
        }
        if (is(forked_after_fork)) {
            MC_STEP("forked = 1") forked = 1;
        }
        MC_END
    }
    Ran child(int me, Frame& f) {
        MC_BEGIN(f)
        MC_WAIT(alive[me], "it was forked")
        if (me == CHILD) {
            MC_STEP("look at the value") fault |= freed;
            MC_STEP("fork a child of its own") fork(CHILD, GRANDCHILD);
        }
        MC_STEP("look at the value") fault |= freed;
        MC_STEP("end") alive[me] = 0, has_ended[me] = 1;
        MC_END
    }
    Ran next(Frame& f) {
        MC_BEGIN(f)
        MC_WAIT(!taken, "take the free index") taken = 2;
        MC_STEP("pin something of mine") next_entry = 1;
        MC_END
    }
    Ran drop(Frame& f) {
        MC_BEGIN(f)
        MC_STEP("drop the value") owner = 0, look_freed();
        MC_END
    }
    // In `found`: the children that have the mark, one bit each.
    Ran look(Frame& f) {
        MC_BEGIN(f)
        for (;;) {
            MC_STEP("look: list the processes")
            f.listed = alive[CHILD] << CHILD | alive[GRANDCHILD] << GRANDCHILD;
            if (!(f.listed & ~f.read)) break;
            for (f.i = CHILD; f.i < CHILD + children; f.i++) {
                if (!(f.listed & ~f.read & 1 << f.i)) continue;
                MC_STEP("look: read what the kernel says of one")
                if (alive[f.i] && marked[f.i]) f.found |= 1 << f.i;
                f.read |= 1 << f.i;
            }
            if (is(lists_once)) break;
        }
        main_[DAEMON].found = f.found;
        MC_END
    }
    Ran daemon(Frame& f) {
        MC_BEGIN(f)
        MC_WAIT(parent_died, "a pidfd says: the parent is dead")
        MC_STEP("repair: has it forked?") f.flag = forked;
        if (f.flag && !is(no_look)) {
            do {
                f.found = 0;
                MC_CALL(look(look_));
                if (!f.found) break;
                MC_WAIT((!(f.found & 1 << CHILD) || has_ended[CHILD]) &&
                            (!(f.found & 1 << GRANDCHILD) || has_ended[GRANDCHILD]),
                        "those that were found have ended")
            } while (!is(no_second_look));
        }
        if (is(index_first)) {
            MC_STEP("free the index") taken = 0;
        }
        MC_STEP("release: forked = 0") forked = 0;
        MC_STEP("release: drop every pin of this index")
        if (entry) entry = 0, pins--;
        if (next_entry) next_entry = 0, fault = 2;
        look_freed();
        if (!is(index_first)) {
            MC_STEP("free the index") taken = 0;
        }
        MC_END
    }
    Ran step(int p) {
        if (finished[p]) return Ran::blocked;
        Ran ran = p == PARENT   ? parent(main_[p])
                  : p == NEXT   ? next(main_[p])
                  : p == OWNER  ? drop(main_[p])
                  : p == DAEMON ? daemon(main_[p])
                                : child(p, main_[p]);
        if (ran == Ran::done) finished[p] = 1, ran = Ran::more;
        return ran;
    }
    // Children too may be killed: then they see nothing any more.
    bool may_die(int p) const {
        return (p == PARENT && !parent_died) || ((p == CHILD || p == GRANDCHILD) && alive[p]);
    }
    void die(int p) {
        finished[p] = 1, alive[p] = 0, has_ended[p] = 1;
        main_[p] = {};
        if (p == PARENT) parent_died = 1;
    }
    const char* wrong_now() const {
        if (fault == 2) return "the pin of the next process was dropped";
        return fault ? "a child saw a value that was freed" : nullptr;
    }
    const char* wrong_at_end() const {
        if (!parent_died) return nullptr;
        if (!freed) return "the value is kept for nobody";
        return taken == 2 && next_entry ? nullptr : "the index is not free";
    }
    static Model start() {
        Model m;
        memset(static_cast<void*>(&m), 0, sizeof m);
        m.owner = m.taken = m.alive[PARENT] = 1;
        for (int p = 0; p < actors; p++) m.step(p);
        return m;
    }
};

}  // namespace

int main(int argc, char** argv) {
    mc::Report report("lookers", argc, argv);
    auto run = [&](const char* name, Broken broken) {
        config.broken = broken;
        report.variant(name, broken != right, 1, [](int) { return Model::start(); });
    };
    run("the protocol", right);
    run("forked is set after the fork", forked_after_fork);
    run("the mark is mapped after the fork", mark_after_fork);
    run("what the dead looked at is released at once", no_look);
    run("the processes are listed once", lists_once);
    run("no second look when those that were found have ended", no_second_look);
    run("the index is free before the pins are dropped", index_first);
    return report.exit_status();
}
