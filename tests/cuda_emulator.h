// What CUDA C needs to run on a processor: the threads of a block are fibers, which give way to each other at barriers.
#include <math.h>
#include <setjmp.h>
#include <string.h>
#include <ucontext.h>

#include <vector>

#define __global__ __attribute__((noinline))
#define __device__ static
#define __shared__ static

struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

template <class T> static T min(T a, T b) { return b < a ? b : a; }
template <class T> static T max(T a, T b) { return a < b ? b : a; }

namespace emulator {

struct Barrier { unsigned arrived = 0, generation = 0; };

struct Fiber {
    ucontext_t start;
    jmp_buf here;
    bool begun = false, done = false;
    Index id;
    std::vector<char> stack;
};

static jmp_buf scheduler;
static Fiber* current;
static Barrier block;
static std::vector<Barrier> warps;
static bool progress;
static void (*body)(void**);
static void** arguments;

static void wait(Barrier& barrier, unsigned threads) {
    unsigned mine = barrier.generation;
    progress = true;
    if (++barrier.arrived == threads) {
        barrier.arrived = 0;
        barrier.generation++;
        return;
    }
    while (barrier.generation == mine)
        if (!_setjmp(current->here)) _longjmp(scheduler, 1);
}

static void begin() {
    body(arguments);
    current->done = true;
    _longjmp(scheduler, 1);
}

static void resume(Fiber& fiber) {
    current = &fiber;
    threadIdx = fiber.id;
    if (_setjmp(scheduler)) return;
    if (fiber.begun) _longjmp(fiber.here, 1);
    fiber.begun = true;
    setcontext(&fiber.start);
}

static unsigned lane() { return threadIdx.x % 32; }
static unsigned warp() { return threadIdx.x / 32; }

template <class T> static T exchange(T value, int from) {
    static T slots[32][32];
    unsigned w = warp();
    slots[w][lane()] = value;
    wait(warps[w], 32);
    T theirs = from >= 0 && from < 32 ? slots[w][from] : value;
    wait(warps[w], 32);
    return theirs;
}

// 0, or 1 where a thread waits for others that never come. `backwards` runs the threads in the other order: a result
// that changes with it has a race.
extern "C" int launch(void (*kernel)(void**), void** args, const unsigned* grid, const unsigned* threads, int backwards) {
    body = kernel, arguments = args;
    gridDim = {grid[0], grid[1], grid[2]}, blockDim = {threads[0], 1, 1};
    static std::vector<Fiber> fibers(1024);
    for (unsigned i = 0; i < threads[0]; i++) fibers[i].stack.resize(1 << 16);
    unsigned long blocks = (unsigned long)grid[0] * grid[1] * grid[2];
    for (unsigned long b = 0; b < blocks; b++) {
        unsigned long number = backwards ? blocks - 1 - b : b;
        blockIdx = {unsigned(number % grid[0]), unsigned(number / grid[0] % grid[1]), unsigned(number / grid[0] / grid[1])};
        block = {}, warps.assign((threads[0] + 31) / 32, {});
        for (unsigned i = 0; i < threads[0]; i++) {
            Fiber& fiber = fibers[i];
            fiber.begun = fiber.done = false, fiber.id = {i, 0, 0};
            getcontext(&fiber.start);
            fiber.start.uc_stack.ss_sp = fiber.stack.data(), fiber.start.uc_stack.ss_size = fiber.stack.size();
            fiber.start.uc_link = nullptr;
            makecontext(&fiber.start, begin, 0);
        }
        for (unsigned left = threads[0]; left;) {
            progress = false;
            for (unsigned i = 0; i < threads[0]; i++) {
                Fiber& fiber = fibers[backwards ? threads[0] - 1 - i : i];
                if (fiber.done) continue;
                resume(fiber);
                if (fiber.done) left--, progress = true;
            }
            if (!progress) return 1;
        }
    }
    return 0;
}

}  // namespace emulator

// The tensor cores: every lane shows its registers to its warp, and computes its own entries of c.
static void multiply_on_tensor_cores(float* c, const unsigned* a, const unsigned* b, int depth) {
    static unsigned left[32][32][4], right[32][32][2];
    unsigned w = emulator::warp(), lane = emulator::lane(), per = depth / 8;
    memcpy(left[w][lane], a, 16), memcpy(right[w][lane], b, 8);
    emulator::wait(emulator::warps[w], 32);
    auto number = [&](unsigned bits, unsigned k) {
        bits = per == 1 ? bits : k % 2 ? bits & 0xffff0000u : bits << 16;
        float x;
        return memcpy(&x, &bits, 4), x;
    };
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < (unsigned)depth; k++) {
            unsigned half = k / (depth / 2), place = k % (depth / 2) / per;
            c[i] += number(left[w][row % 8 * 4 + place][row / 8 + 2 * half], k) * number(right[w][column * 4 + place][half], k);
        }
    }
    emulator::wait(emulator::warps[w], 32);
}

static void multiply_tf32(float* c, const unsigned* a, const unsigned* b) { multiply_on_tensor_cores(c, a, b, 8); }
static void multiply_bf16(float* c, const unsigned* a, const unsigned* b) { multiply_on_tensor_cores(c, a, b, 16); }

static void __syncthreads() { emulator::wait(emulator::block, blockDim.x); }

template <class T> static T __shfl_xor_sync(unsigned, T value, int step) {
    return emulator::exchange(value, int(emulator::lane()) ^ step);
}

template <class T> static T __shfl_up_sync(unsigned, T value, int step) {
    return emulator::exchange(value, int(emulator::lane()) - step);
}
