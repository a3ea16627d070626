// CUDA C on the CPU, for tests: a grid is a loop over blocks, a block runs its threads one after another. Put in
// front of the text that NVRTC compiles, it lets a C++ compiler compile the same text.
//
// Where a kernel has barriers, each thread of the block is a fiber with a stack of its own, and __syncthreads() lets
// the next one run. From barrier to barrier, and from block to block, the threads run in opposite orders, so that a
// missing barrier shows; a barrier that only some of a block's threads reach ends the process with a message.

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#define __global__
#define __device__ static
#define __forceinline__ inline
#define __shared__ static thread_local

struct Index { long long x; };
static thread_local Index threadIdx, blockIdx, blockDim, gridDim;

struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
template <class T> static inline T *aligned(T *at) {  // a device refuses other addresses, and runs nothing after that
    if ((unsigned long long)at % sizeof(T)) {
        fputs("isostep: a load or store of several elements at an address that is no multiple of its size\n", stderr);
        abort();
    }
    return at;
}
template <class T> static inline T __ldcg(const T *from) { return *aligned(from); }
template <class T> static inline void __stcg(T *to, T x) { *aligned(to) = x; }

// C++ knows the float forms by the same names as the double ones; without <cmath>, which takes long to compile.
#define FUNCTION(name) extern "C" { double name(double) noexcept; float name##f(float) noexcept; } \
    static inline float name(float x) { return name##f(x); }
FUNCTION(sqrt) FUNCTION(cbrt) FUNCTION(exp) FUNCTION(expm1) FUNCTION(log) FUNCTION(log1p) FUNCTION(sin)
FUNCTION(cos) FUNCTION(tanh) FUNCTION(floor) FUNCTION(fabs)
#undef FUNCTION
extern "C" { double pow(double, double) noexcept; float powf(float, float) noexcept; }
extern "C" { double atan2(double, double) noexcept; float atan2f(float, float) noexcept; }
static inline float pow(float x, float y) { return powf(x, y); }
static inline float atan2(float y, float x) { return atan2f(y, x); }

namespace host {

struct Fiber { jmp_buf here; bool started, ended; };

constexpr int MOST = 1024, STACK = 1 << 16;
static thread_local Fiber fibers[MOST];
static thread_local jmp_buf scheduler;
static thread_local int running;
static thread_local void (*work)(const void *);
static thread_local const void *what;

static void leave() {  // back to the scheduler, until it comes here again
    if (!_setjmp(fibers[running].here)) _longjmp(scheduler, 1);
}

static void live() {
    for (;;) {
        work(what);
        fibers[running].ended = true;
        leave();
    }
}

static void enter(int thread) {
    running = thread;
    if (_setjmp(scheduler)) return;
    if (fibers[thread].started) _longjmp(fibers[thread].here, 1);
    fibers[thread].started = true;
    ucontext_t fresh, unused;
    getcontext(&fresh);
    fresh.uc_stack.ss_sp = malloc(STACK);
    fresh.uc_stack.ss_size = STACK;
    fresh.uc_link = 0;
    makecontext(&fresh, live, 0);
    swapcontext(&unused, &fresh);
}

static void run_block(int threads) {
    for (int t = 0; t < threads; ++t) fibers[t].ended = false;
    for (bool backwards = blockIdx.x % 2;; backwards = !backwards) {
        int ended = 0;
        for (int k = 0; k < threads; ++k) {
            const int t = backwards ? threads - 1 - k : k;
            threadIdx.x = t;
            enter(t);
            ended += fibers[t].ended;
        }
        if (ended == threads) return;
        if (ended) {
            fputs("isostep: a barrier that not all threads of a block reach\n", stderr);
            abort();
        }
    }
}

template <class Body> static void run(long long blocks, long long threads, bool barriers, const Body &body) {
    gridDim.x = blocks;
    blockDim.x = threads;
    work = [](const void *body) { (*(const Body *)body)(); };
    what = &body;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
        if (barriers) {
            run_block(threads);
        } else {
            for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) body();
        }
    }
}

}  // namespace host

static void __syncthreads() { host::leave(); }
static void __syncwarp() {}  // between barriers one thread runs after another
static unsigned __shfl_xor_sync(unsigned, unsigned x, int apart) {
    static thread_local unsigned given[host::MOST];
    given[threadIdx.x] = x;
    __syncthreads();
    const unsigned found = given[threadIdx.x ^ apart];
    __syncthreads();
    return found;
}
