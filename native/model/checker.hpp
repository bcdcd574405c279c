// A small explicit-state model checker: every interleaving of atomic steps, and a death before each
// of them.
//
// A model is one trivially copyable record that holds the shared words *and* the private registers
// of every actor. The checker starts from one such record, lets each actor that can move make one
// step, and goes on, breadth first, until it has seen every state that can be reached. Since the
// search is breadth first, the first violation it finds has a shortest possible trace.
//
// Programs are written as straight-line code, as in a design text, and cut into atomic steps by
// macros:
//
//     Ran drop(Frame& f) {
//         MC_BEGIN(f)
//         MC_STEP("load the count")         f.seen = count;
//         MC_STEP("store the count less 1") count = f.seen - 1;
//         MC_END
//     }
//
// The actor stops *before* each MC_STEP, so what stands between two of them happens at once: it may
// touch one shared word (private registers are free). MC_WAIT(condition, text) is a step that is
// possible only while the condition holds; an actor that can never move again simply stands there,
// and when no actor can move the state is terminal and wrong_at_end() judges it.
// MC_CALL(expression) runs another program of the same kind. Registers live in frames; MC_END
// empties the frame, so that finished programs leave no trace in the state.
//
// What a model provides:
//
//    Ran step(int actor)    makes one step; Ran::blocked must leave the state as it was
//     bool may_die(int actor) const       the checker then also tries die(actor) in this state
//    void die(int actor)    the process is gone: its registers vanish, shared words stay
//     const char* wrong_now() const       a violated invariant in words, or nullptr
//     const char* wrong_at_end() const    the same, asked in terminal states only
//     static const char* actor_name(int)  and: static constexpr int actors
//
// States are compared byte by byte (has_unique_object_representations is asserted: no padding), so
// the search is exact: no state is missed because of a hash collision.
//
// Nearly all of its time goes to waiting for memory: hash tables of hundreds of megabytes, asked at
// random. So they are made of huge pages, and the successors of a state are all made before any of
// them is looked up, so that what is asked of memory is asked at once.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace mc {

enum class Ran : uint8_t { blocked, more, done };

// What the step made last does, in words; read only while a trace is printed.
inline const char* step_text = "";

#define MC_BEGIN(frame)     \
    auto& mc_frame = frame; \
    switch (mc_frame.pc) {  \
        case 0:
#define MC_END                 \
    }                          \
    mc_frame = {};             \
    return ::mc::Ran::done;
#define MC_RETURN                   \
    do {                            \
        mc_frame = {};              \
        return ::mc::Ran::done;     \
    } while (0)
#define MC_STEP_AT(n, text)         \
    do {                            \
        mc_frame.pc = n;            \
        return ::mc::Ran::more;     \
        case n:                     \
            ::mc::step_text = text; \
    } while (0);
#define MC_STEP(text) MC_STEP_AT(__COUNTER__ + 1, text)
#define MC_WAIT_AT(n, condition, text)                   \
    do {                                                 \
        mc_frame.pc = n;                                 \
        return ::mc::Ran::more;                          \
        case n:                                          \
            if (!(condition)) return ::mc::Ran::blocked; \
            ::mc::step_text = text;                      \
    } while (0);
#define MC_WAIT(condition, text) MC_WAIT_AT(__COUNTER__ + 1, condition, text)
#define MC_CALL_AT(n, expression)                                                                 \
    do {                                                                                          \
        mc_frame.pc = n;                                                                          \
        case n:                                                                                   \
            if (::mc::Ran mc_ran = (expression); mc_ran != ::mc::Ran::done) return mc_ran; \
    } while (0)
#define MC_CALL(expression) MC_CALL_AT(__COUNTER__ + 1, expression)

struct Result {
    size_t states = 0, terminal = 0, violations = 0;
    bool complete = true;
    std::string first;  // the first violation, in words
    std::string trace;  // and how it comes about
};

// Memory of huge pages, where there are any; zero at first.
template <class T>
class Pages {
    static constexpr size_t page = 2 << 20;
    size_t bytes = 0;
    unsigned char* whole = nullptr;
    T* first = nullptr;

   public:
    explicit Pages(size_t count = 0) : bytes((count * sizeof(T) + page - 1) / page * page + page) {
        void* found = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (found == MAP_FAILED) abort();
        whole = static_cast<unsigned char*>(found);
        const auto address = (reinterpret_cast<uintptr_t>(found) + page - 1) / page * page;
        first = reinterpret_cast<T*>(address);
        if (bytes > 2 * page) madvise(first, bytes - page, MADV_HUGEPAGE);
    }
    Pages(Pages&& other) { *this = std::move(other); }
    Pages& operator=(Pages&& other) {
        std::swap(bytes, other.bytes), std::swap(whole, other.whole), std::swap(first, other.first);
        return *this;
    }
    ~Pages() {
        if (whole) munmap(whole, bytes);
    }
    T* get() const { return first; }
    T& operator[](size_t i) const { return first[i]; }
};

template <class Model>
class Checker {
    static_assert(std::is_trivially_copyable_v<Model>);
    static_assert(std::has_unique_object_representations_v<Model>, "the model has padding bytes");
    static constexpr size_t block = 1 << 16;
    static constexpr uint8_t death = 0x80;  // in `move`: the actor died instead of making a step

    struct Successor {
        Model state;
        uint64_t hash;
        uint8_t how;
    };

    std::vector<Pages<unsigned char>> blocks;
    std::vector<uint32_t> parent;
    std::vector<uint8_t> move;
    size_t size = 1 << 16;  // of the table
    Pages<uint64_t> table{size};  // {tag:32, index+1:32}, open addressing; a tag is half a hash
    Successor successors[2 * Model::actors];
    size_t n_successors = 0;

    static uint64_t hash(const Model& m) {
        const auto* p = reinterpret_cast<const unsigned char*>(&m);
        uint64_t h = 0x9e3779b97f4a7c15u;
        for (size_t i = 0; i < sizeof m; i += 8) {
            uint64_t word = 0;
            memcpy(&word, p + i, sizeof m - i < 8 ? sizeof m - i : 8);
            h = (h ^ word) * 0xff51afd7ed558ccdu;
            h ^= h >> 32;
        }
        return h;
    }
    unsigned char* at(size_t i) const {
        return blocks[i / block].get() + i % block * sizeof(Model);
    }
    void load(size_t i, Model& m) const { memcpy(&m, at(i), sizeof m); }

    // A state's place follows from its tag, so that no state is read to make more room.
    void grow() {
        Pages<uint64_t> old(size * 2);
        std::swap(old, table);
        size *= 2;
        for (size_t i = 0; i < size / 2; i++) {
            if (!old[i]) continue;
            size_t k = (old[i] >> 32) & (size - 1);
            while (table[k]) k = (k + 1) & (size - 1);
            table[k] = old[i];
        }
    }
    void insert(const Model& m, uint64_t tag, uint32_t from, uint8_t how) {
        if (move.size() * 2 > size) grow();
        size_t k = tag & (size - 1);
        for (; table[k]; k = (k + 1) & (size - 1))
            if (table[k] >> 32 == tag && !memcmp(at(uint32_t(table[k]) - 1), &m, sizeof m)) return;
        size_t i = move.size();
        if (i % block == 0) blocks.emplace_back(block * sizeof(Model));
        memcpy(at(i), &m, sizeof m);
        parent.push_back(from);
        move.push_back(how);
        table[k] = tag << 32 | (i + 1);
    }
    // `successors[n_successors]` can be reached: it is looked up together with the others.
    void add(uint8_t how) {
        Successor& next = successors[n_successors++];
        next.hash = hash(next.state) >> 32;
        next.how = how;
        __builtin_prefetch(&table[next.hash & (size - 1)]);
    }
    void insert_all(uint32_t from) {
        for (size_t n = 0; n < n_successors; n++)
            if (const uint64_t entry = table[successors[n].hash & (size - 1)])
                __builtin_prefetch(at(uint32_t(entry) - 1));
        for (size_t n = 0; n < n_successors; n++)
            insert(successors[n].state, successors[n].hash, from, successors[n].how);
        n_successors = 0;
    }
    std::string trace_to(size_t i) const {
        std::vector<size_t> path;
        for (; i; i = parent[i]) path.push_back(i);
        std::string out;
        for (size_t k = path.size(); k-- > 0;) {
            Model m;
            load(parent[path[k]], m);
            int actor = move[path[k]] & ~death;
            out += std::string("      ") + Model::actor_name(actor) + ": ";
            if (move[path[k]] & death) {
                out += "*** dies ***";
            } else {
                m.step(actor);
                out += step_text;
            }
            if constexpr (requires(const Model& s) { s.show(); }) {
                load(path[k], m);
                out += "   " + m.show();
            }
            out += "\n";
        }
        return out;
    }
    void blame(Result& r, const char* why, size_t i) const {
        if (r.violations++ == 0) r.first = why, r.trace = trace_to(i);
    }

   public:
    // Searches everything, or up to `cap` states, or up to the first violation if `stop_at_first`.
    Result run(const Model& start, size_t cap, bool stop_at_first) {
        Result r;
        insert(start, hash(start) >> 32, 0, 0);
        Model now;
        for (size_t i = 0; i < move.size(); i++) {
            if (move.size() > cap) {
                r.complete = false;
                break;
            }
            load(i, now);
            if (const char* why = now.wrong_now()) {
                blame(r, why, i);
                if (stop_at_first) break;
                continue;
            }
            bool moved = false;
            for (int actor = 0; actor < Model::actors; actor++) {
                Model& next = successors[n_successors].state;
                memcpy(&next, &now, sizeof now);
                if (next.step(actor) != Ran::blocked) {
                    moved = true;
                    add(actor);
                } else if (memcmp(&next, &now, sizeof now)) {
                    r.violations++, r.first = "wrong model: a blocked step changed the state";
                    return r;
                }
                if (!now.may_die(actor)) continue;
                Model& without = successors[n_successors].state;
                memcpy(&without, &now, sizeof now);
                without.die(actor);
                add(actor | death);
            }
            insert_all(i);
            if (moved) continue;
            r.terminal++;
            if (const char* why = now.wrong_at_end()) {
                blame(r, why, i);
                if (stop_at_first) break;
            }
        }
        r.states = move.size();
        return r;
    }
};

// Runs the variants of one model and prints one line for each:
//
//     freeing | the protocol             | states 123456 terminal 12 violations 0
//     freeing | BROKEN no claim          | states   2345 terminal  1 violations 1 | freed twice
//
// The right protocol is searched wholly; a broken variant only up to its first violation. The exit
// status is 1 if the right one has a violation, was not searched wholly, or a broken one was not
// caught.
class Report {
    const char* model;
    std::vector<const char*> numbers;
    size_t cap = 30'000'000;
    bool traces = false, right_only = false, failed = false;

   public:
    // Command line: [number...] (each model says which), cap=STATES, trace, right.
    Report(const char* model, int argc, char** argv) : model(model) {
        for (int i = 1; i < argc; i++) {
            std::string word = argv[i];
            if (word == "trace") traces = true;
            else if (word == "right") right_only = true;
            else if (word.starts_with("cap=")) cap = strtoull(argv[i] + 4, nullptr, 10);
            else numbers.push_back(argv[i]);
        }
    }
    int number(size_t i, int otherwise) const {
        return i < numbers.size() ? atoi(numbers[i]) : otherwise;
    }

    // `start(scenario)` sets the model's configuration and returns its first state. A right
    // protocol must pass every scenario; a broken one must be caught in at least one.
    template <class Start>
    void variant(const char* name, bool broken, int scenarios, Start start) {
        if (broken && right_only) return;
        Result sum;
        for (int s = 0; s < scenarios && !(broken && sum.violations); s++) {
            auto first = start(s);
            auto checker = std::make_unique<Checker<decltype(first)>>();
            Result r = checker->run(first, cap, true);
            sum.states += r.states;
            sum.terminal += r.terminal;
            sum.complete &= r.complete || r.violations;
            if (r.violations && !sum.violations) sum.first = r.first, sum.trace = r.trace;
            sum.violations += r.violations;
            if (traces)
                printf("   scenario %d: states %zu terminal %zu\n", s, r.states, r.terminal);
        }
        bool as_expected = broken ? sum.violations > 0 : sum.violations == 0 && sum.complete;
        failed |= !as_expected;
        printf("%s | %s%s | states %zu terminal %zu violations %zu%s%s%s%s\n", model,
               broken ? "BROKEN " : "", name, sum.states, sum.terminal, sum.violations,
               sum.violations ? " | " : "", sum.first.c_str(), sum.complete ? "" : " | INCOMPLETE",
               as_expected ? "" : " | UNEXPECTED");
        if (sum.violations && (traces || !broken)) printf("%s", sum.trace.c_str());
        fflush(stdout);
    }
    int exit_status() const { return failed; }
};

}  // namespace mc
