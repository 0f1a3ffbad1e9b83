// Runs a CUDA kernel's own source on the CPU, for tests: one fiber per CUDA thread, blocks one after another on the
// calling OS thread.
//
// What a GPU does not do and this does: report barriers that not all threads reach, run threads forwards, backwards
// and in random order, deliver asynchronous copies only when they are waited for (NaN until then), fill dynamic shared
// memory with NaN, check alignment, and work under AddressSanitizer and ThreadSanitizer.
//
// What this does not show: real memory ordering between blocks, bank conflicts, timing, approximate functions.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define EMULATOR_TSAN 1
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define EMULATOR_ASAN 1
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#define EMULATOR_UCONTEXT 1
#endif

#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#if defined(EMULATOR_ASAN)
#define __shared__ static  // Plain globals get red zones around them; one OS thread may then run kernels.
#else
#define __shared__ static thread_local
#endif
#define DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(::emulator::dynamic_shared())

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

namespace emulator {

/// In which order the threads that can run do so.
enum Order { FORWARD = 0, REVERSE = 1, RANDOM = 2 };

struct Settings {
    int order = FORWARD;
    uint32_t seed = 1;
    /// Tensor cores sum as an H100's do.
    bool hopper_sums = true;
};

inline Settings& settings() {
    static thread_local Settings settings;
    return settings;
}

[[noreturn]] inline void fail(const char* message) {
    fprintf(stderr, "emulator: %s\n", message);
    abort();
}

#if defined(EMULATOR_TSAN)
/// The emulator's own bookkeeping is no part of the kernel: ThreadSanitizer must not look at it.
struct Hidden {
    Hidden() {
        AnnotateIgnoreReadsBegin("", 0);
        AnnotateIgnoreWritesBegin("", 0);
    }
    ~Hidden() {
        AnnotateIgnoreReadsEnd("", 0);
        AnnotateIgnoreWritesEnd("", 0);
    }
};
/// The only orderings between threads that a kernel may rely on are its barriers.
inline void before_barrier(void* tag) { __tsan_release(tag); }
inline void behind_barrier(void* tag) { __tsan_acquire(tag); }
#else
struct Hidden {
    ~Hidden() {}
};
inline void before_barrier(void*) {}
inline void behind_barrier(void*) {}
#endif

constexpr int WARP_SIZE = 32;
constexpr size_t PAGE = 4096;
#if defined(EMULATOR_TSAN) || defined(EMULATOR_ASAN)
constexpr size_t STACK_BYTES = 256 << 10;
#else
constexpr size_t STACK_BYTES = 64 << 10;
#endif
/// NaN as a float and as bfloat16: what was never written shows.
constexpr uint32_t NEVER_WRITTEN = 0x7fc07fc0;

enum State : uint8_t { RUNNING, WAITS_FOR_WARP, WAITS_FOR_BLOCK, DONE };

struct AsyncCopy {
    void* to;
    const void* from;
    int words;
    bool inside;
};

/// One CUDA thread.
struct Fiber {
    void* stack_pointer = nullptr;
    char* stack = nullptr;
    State state = DONE;
    int warp = 0, lane = 0;
    dim3 thread;
    const char* waits_in = "a warp operation";
    int line = 0;
    std::vector<std::vector<AsyncCopy>> groups;
    std::vector<AsyncCopy> open_group;
#if defined(EMULATOR_UCONTEXT)
    ucontext_t context;
#endif
#if defined(EMULATOR_TSAN)
    void* tsan = nullptr;
#endif
};

/// Where the lanes of a mask exchange values: each deposits bytes, the last one to come lets all go on.
struct Exchange {
    static constexpr int BYTES = 96;
    uint32_t mask = 0, arrived = 0, generation = 0;
    char tag[2];
    alignas(64) unsigned char slots[2][WARP_SIZE][BYTES];
};

struct Warp {
    uint32_t live = 0;
    std::vector<Exchange*> exchanges;
};

struct Block {
    dim3 index, block_size, grid_size;
    int n_threads = 0, waiting = 0, live = 0;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<uint32_t> dynamic_shared;
    Fiber* current = nullptr;
    void* main_stack_pointer = nullptr;
    void (*entry)(void*) = nullptr;
    void* argument = nullptr;
    uint32_t random = 1, barriers = 0;
    const char* barrier_file = nullptr;
    int barrier_line = 0;
    char tags[3] = {};
#if defined(EMULATOR_UCONTEXT)
    ucontext_t main_context;
#endif
#if defined(EMULATOR_TSAN)
    void* main_tsan = nullptr;
#endif

    unsigned next_random() {
        random = random * 1664525u + 1013904223u;
        return random >> 8;
    }
};

inline Block& block() {
    static thread_local Block block;
    return block;
}

inline Fiber& fiber() { return *block().current; }

inline void* dynamic_shared() { return block().dynamic_shared.data(); }

#if !defined(EMULATOR_UCONTEXT)
/// Saves the callee-saved registers, stores the stack pointer, and goes on with another stack.
extern "C" void emulator_switch(void** save, void* to);
asm(".text\n.weak emulator_switch\n.type emulator_switch,@function\nemulator_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
    ".size emulator_switch,.-emulator_switch\n");
#endif

inline void switch_to_main(Block& b, Fiber& f) {
#if defined(EMULATOR_TSAN)
    __tsan_switch_to_fiber(b.main_tsan, 1);
#endif
#if defined(EMULATOR_UCONTEXT)
    swapcontext(&f.context, &b.main_context);
#else
    emulator_switch(&f.stack_pointer, b.main_stack_pointer);
#endif
}

inline void switch_to_fiber(Block& b, Fiber& f) {
    b.current = &f;
#if defined(EMULATOR_TSAN)
    __tsan_switch_to_fiber(f.tsan, 1);
#endif
#if defined(EMULATOR_UCONTEXT)
    swapcontext(&b.main_context, &f.context);
#else
    emulator_switch(&b.main_stack_pointer, f.stack_pointer);
#endif
}

inline void run_thread() {
    Block& b = block();
    Fiber& f = *b.current;
    b.entry(b.argument);
    {
        Hidden hidden;
        bool pending = !f.open_group.empty();
        for (auto& group : f.groups) pending = pending || !group.empty();
        if (pending) fail("a thread ended with asynchronous copies that nobody waited for");
        f.state = DONE;
        b.live--;
        b.warps[f.warp].live &= ~(1u << f.lane);
        for (char& tag : b.tags) before_barrier(&tag);
    }
    switch_to_main(b, f);
    fail("a finished thread was resumed");
}

inline void start_thread(Fiber& f) {
    if (!f.stack) {
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        f.stack = static_cast<char*>(mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0));
        if (f.stack == MAP_FAILED) fail("no memory for a thread's stack");
        mprotect(f.stack, PAGE, PROT_NONE);
    }
#if defined(EMULATOR_ASAN)
    __asan_unpoison_memory_region(f.stack + PAGE, STACK_BYTES - PAGE);
#endif
#if defined(EMULATOR_TSAN)
    f.tsan = __tsan_create_fiber(0);
#endif
#if defined(EMULATOR_UCONTEXT)
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack + PAGE;
    f.context.uc_stack.ss_size = STACK_BYTES - PAGE;
    f.context.uc_link = nullptr;
    makecontext(&f.context, run_thread, 0);
#else
    // Six registers, the entry point as return address, and an empty return address for it.
    void** top = reinterpret_cast<void**>(f.stack + STACK_BYTES - 64);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(run_thread);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    f.stack_pointer = top;
#endif
}

/// Lets the threads of one warp run until all of them wait or are done; says whether any ran.
inline bool run_warp(Block& b, int warp) {
    int first = warp * WARP_SIZE, count = std::min(WARP_SIZE, b.n_threads - first), order = settings().order;
    bool progress = false;
    for (bool again = true; again;) {
        again = false;
        int turn = order == RANDOM ? int(b.next_random() % WARP_SIZE) : 0;
        for (int k = 0; k < count; k++) {
            int shuffled = k ^ turn;
            int lane = order == REVERSE ? count - 1 - k : shuffled < count ? shuffled : k;
            Fiber& f = b.fibers[first + lane];
            if (f.state == RUNNING) {
                again = progress = true;
                switch_to_fiber(b, f);
            }
        }
    }
    return progress;
}

inline void start_block(Block& b, int n_warps) {
    b.live = b.n_threads;
    b.waiting = 0;
    b.barrier_file = nullptr;
    for (int warp = 0; warp < n_warps; warp++) {
        b.warps[warp].live = 0;
        for (Exchange* exchange : b.warps[warp].exchanges) exchange->arrived = 0;
    }
    for (int i = 0; i < b.n_threads; i++) {
        Fiber& f = b.fibers[i];
        f.state = RUNNING;
        f.warp = i / WARP_SIZE;
        f.lane = i % WARP_SIZE;
        f.groups.clear();
        f.open_group.clear();
        unsigned x = b.block_size.x, y = b.block_size.y;
        f.thread = {i % x, i / x % y, i / x / y};
        b.warps[f.warp].live |= 1u << f.lane;
        start_thread(f);
    }
}

[[noreturn]] inline void report_deadlock(const Block& b) {
    for (int i = 0; i < b.n_threads; i++) {
        const Fiber& f = b.fibers[i];
        if (f.state == DONE) continue;
        if (f.state == WAITS_FOR_BLOCK) {
            fprintf(stderr, "  thread %d waits at __syncthreads, %s:%d\n", i, f.waits_in, f.line);
        } else {
            fprintf(stderr, "  thread %d waits in a warp operation\n", i);
        }
    }
    fail("deadlock: a barrier is not reached by all its threads");
}

inline void run_block(Block& b) {
    Hidden hidden;
    int n_warps = (b.n_threads + WARP_SIZE - 1) / WARP_SIZE, order = settings().order;
    start_block(b, n_warps);
    std::vector<int> turns(n_warps);
    while (b.live) {
        for (int i = 0; i < n_warps; i++) turns[i] = order == REVERSE ? n_warps - 1 - i : i;
        for (int i = n_warps - 1; order == RANDOM && i > 0; i--) std::swap(turns[i], turns[b.next_random() % (i + 1)]);
        bool progress = false;
        for (int warp : turns) progress = run_warp(b, warp) || progress;
        if (b.live && b.waiting == b.live) {
            b.waiting = 0;
            b.barriers++;
            b.barrier_file = nullptr;
            progress = true;
            for (int i = 0; i < b.n_threads; i++) {
                if (b.fibers[i].state == WAITS_FOR_BLOCK) b.fibers[i].state = RUNNING;
            }
        }
        if (!progress) report_deadlock(b);
    }
    behind_barrier(&b.tags[2]);
#if defined(EMULATOR_TSAN)
    for (int i = 0; i < b.n_threads; i++) __tsan_destroy_fiber(b.fibers[i].tsan);
#endif
}

inline void synchronize_block(const char* file, int line) {
    Hidden hidden;
    Block& b = block();
    Fiber& f = *b.current;
    if (b.barrier_file && (b.barrier_line != line || strcmp(b.barrier_file, file) != 0)) {
        fprintf(stderr, "  %s:%d and %s:%d\n", b.barrier_file, b.barrier_line, file, line);
        fail("threads of one block wait at different __syncthreads");
    }
    b.barrier_file = f.waits_in = file;
    b.barrier_line = f.line = line;
    f.state = WAITS_FOR_BLOCK;
    b.waiting++;
    char* tag = &b.tags[b.barriers & 1];
    before_barrier(tag);
    switch_to_main(b, f);
    behind_barrier(tag);
}

/// Deposits `bytes` and waits for every live lane of `mask`; `last` runs once, in the last lane to come. Returns the
/// deposits of all lanes.
template <class F>
inline unsigned char (*exchange(uint32_t mask, const void* values, size_t bytes, F last))[Exchange::BYTES] {
    Hidden hidden;
    Block& b = block();
    Fiber& f = *b.current;
    Warp& warp = b.warps[f.warp];
    if (!(mask >> f.lane & 1)) fail("warp operation: the calling lane is not in its own mask");
    Exchange* e = nullptr;
    for (Exchange* known : warp.exchanges) {
        if (known->mask == mask) e = known;
    }
    if (!e) {
        e = new Exchange;
        e->mask = mask;
        warp.exchanges.push_back(e);
    }
    uint32_t side = e->generation & 1;
    if (bytes) memcpy(e->slots[side][f.lane], values, bytes);
    e->arrived |= 1u << f.lane;
    before_barrier(&e->tag[side]);
    if ((e->arrived & warp.live) == (mask & warp.live)) {
        last(*e, e->slots[side]);
        e->generation++;
        for (uint32_t others = e->arrived & ~(1u << f.lane); others; others &= others - 1) {
            b.fibers[f.warp * WARP_SIZE + __builtin_ctz(others)].state = RUNNING;
        }
        e->arrived = 0;
    } else {
        f.state = WAITS_FOR_WARP;
        switch_to_main(b, f);
    }
    behind_barrier(&e->tag[side]);
    return e->slots[side];
}

template <class T>
inline T shuffle(uint32_t mask, T value, int source) {
    Hidden hidden;
    auto slots = exchange(mask, &value, sizeof value, [](Exchange&, unsigned char (*)[Exchange::BYTES]) {});
    if (!(mask >> source & 1)) fail("a shuffle reads a lane outside its mask");
    T result;
    memcpy(&result, slots[source], sizeof result);
    return result;
}

/// Runs `kernel` for every block of a grid.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 size, size_t shared_bytes, Arguments&... arguments) {
    Hidden hidden;
    Block& b = block();
    b.block_size = size;
    b.grid_size = grid;
    b.n_threads = size.x * size.y * size.z;
    b.random = settings().seed;
    size_t n_warps = (b.n_threads + WARP_SIZE - 1) / WARP_SIZE;
    if (b.fibers.size() < size_t(b.n_threads)) b.fibers.resize(b.n_threads);
    if (b.warps.size() < n_warps) b.warps.resize(n_warps);
    auto body = [&] { kernel(arguments...); };
    b.argument = &body;
    b.entry = [](void* argument) { (*static_cast<decltype(body)*>(argument))(); };
#if defined(EMULATOR_TSAN)
    b.main_tsan = __tsan_get_current_fiber();
#endif
    size_t n_blocks = size_t(grid.x) * grid.y * grid.z;
    for (size_t i = 0; i < n_blocks; i++) {
        size_t turn = settings().order == REVERSE ? n_blocks - 1 - i : i;
        b.index = {unsigned(turn % grid.x), unsigned(turn / grid.x % grid.y), unsigned(turn / grid.x / grid.y)};
        b.dynamic_shared.assign((shared_bytes + 3) / 4, NEVER_WRITTEN);
        run_block(b);
    }
}

template <class... Parameters, size_t... I>
void launch_with(void (*kernel)(Parameters...), dim3 grid, dim3 size, size_t shared_bytes, void** parameters,
                 std::index_sequence<I...>) {
    launch(kernel, grid, size, shared_bytes, *static_cast<std::remove_const_t<Parameters>*>(parameters[I])...);
}

/// As the driver launches: an array of pointers to the parameters.
template <class... Parameters>
void launch_with(void (*kernel)(Parameters...), dim3 grid, dim3 size, size_t shared_bytes, void** parameters) {
    launch_with(kernel, grid, size, shared_bytes, parameters, std::index_sequence_for<Parameters...>{});
}

}  // namespace emulator

#include "language.h"
#include "tensor_core.h"
