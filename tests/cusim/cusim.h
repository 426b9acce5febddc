// Runs CUDA C++ kernels on the CPU, for tests: one fiber for each CUDA thread, blocks one after another; in a cooperative
// launch all blocks are alive at once, and take turns where they wait for each other.
//
// A kernel's source is compiled unchanged by g++ (C++20): this file gives CUDA's keywords, built-in variables and
// functions a meaning there. A barrier or a warp operation switches to the next fiber until all have arrived. Seen by
// that: wrong numbers, missing or divergent barriers (a report with the source's lines), wrong warp masks, shared memory
// that is read before it is written (it starts as NaN); with -fsanitize=address,undefined also accesses out of bounds
// and misaligned ones. Blocks and threads run in ascending order, or in descending order on request: a kernel whose
// result depends on the order is wrong. Not seen: the memory model, speed.
#pragma once
#include <sys/mman.h>
#include <link.h>
#include <bit>
#include <cmath>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <source_location>
#include <tuple>
#include <type_traits>
#if !defined(__x86_64__) && !defined(CUSIM_UCONTEXT)
#define CUSIM_UCONTEXT 1  // portable, but each switch costs two system calls
#endif
#ifdef CUSIM_UCONTEXT
#include <ucontext.h>
#endif

// ---------------------------------------------------------------- CUDA keywords
#define __CUSIM__ 1
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static thread_local  // the module's TLS block *is* the block's static shared memory
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __grid_constant__
#define __maxnreg__(n)
#define CUSIM_INLINE static inline __attribute__((always_inline, unused))

// ---------------------------------------------------------------- vector types
struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
#define CUSIM_VEC(T, N)                                                           \
  struct alignas(2 * sizeof(T)) N##2 { T x, y; };                                 \
  struct N##3 { T x, y, z; };                                                     \
  struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) N##4 { T x, y, z, w; }; \
  CUSIM_INLINE N##2 make_##N##2(T x, T y) { return {x, y}; }                      \
  CUSIM_INLINE N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CUSIM_VEC(float, float)
CUSIM_VEC(double, double)
CUSIM_VEC(int, int)
CUSIM_VEC(unsigned char, uchar)
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
CUSIM_INLINE uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
CUSIM_INLINE uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---------------------------------------------------------------- fibers and the scheduler
namespace cusim {
constexpr unsigned kMaxThreads = 1024, kWords = kMaxThreads / 64;
constexpr size_t kSharedLimit = 99 << 10;  // dynamic shared memory that every supported device but sm_75 grants a block
constexpr unsigned kPatience = 100;  // turns of all blocks without anything new, after which nobody will ever go on
constexpr size_t kStack = 64 << 10, kPage = 4096;
constexpr size_t kPool = 1 << 16;  // most threads alive at once: those of a cooperative launch
using Location = std::source_location;

#ifdef CUSIM_UCONTEXT
struct Context {
  ucontext_t u;
};
CUSIM_INLINE void switch_context(Context& from, Context& to) { swapcontext(&from.u, &to.u); }
#else
struct Context {
  void* sp;
};
extern "C" void cusim_switch(void** save, void* load) asm("cusim_switch");
asm(R"(.text
.p2align 4
.type cusim_switch,@function
cusim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
.size cusim_switch,.-cusim_switch
)");
CUSIM_INLINE void switch_context(Context& from, Context& to) { cusim_switch(&from.sp, to.sp); }
#endif

enum State : uint8_t { kRun, kBarrier, kWarp, kPoll, kDone };
struct Fiber {
  uint3 tid;
  unsigned id;
  Context context;
  unsigned line;
  State state;
  char* stack;
  unsigned color;
};
struct Group {  // a set of lanes that meet in a warp operation; two buffers, because some may already be at the next one
  uint32_t mask, arrived, gen;
  alignas(16) unsigned char values[2][32][16];
};

struct Block {  // everything a block keeps while others have their turn
  uint3 index{};
  unsigned alive = 0, at_barrier = 0, polling = 0;
  int votes[2][3]{};
  unsigned barriers_passed = 0;
};
struct Machine {
  Fiber *pool = nullptr, *fibers = nullptr;  // all, and the current block's
  Group *group_pool = nullptr, *groups = nullptr;
  unsigned n_armed = 0, n = 0;  // fibers that have a stack; threads of a block
  uint64_t run[kWords]{};       // a bit for each thread of the block that can go on
  Fiber* current = nullptr;
  Context host{};
  Block b;
  uint3 block_dim{1, 1, 1}, grid_dim{1, 1, 1};
  void (*body)(void*) = nullptr;
  void* arg = nullptr;
  char *dynamic_memory = nullptr, *dynamic = nullptr;  // of all blocks that are alive; of the current one
  size_t dynamic_bytes = 0, dynamic_capacity = 0;
  char* statics = nullptr;
  size_t statics_bytes = 0;
  bool failed = false, reverse = false, strict = true, cooperative = false, inside = false;
  bool moved = false;  // since the blocks' last turn: a thread returned, or an atomic has another value
  char error[1024]{};
  uint64_t launches = 0;
  char *stacks = nullptr, *extra = nullptr;
  size_t extra_bytes = 0;
};
inline Machine M;

CUSIM_INLINE void ready(unsigned i) {
  M.run[i >> 6] |= 1ull << (i & 63);
  M.fibers[i].state = kRun;
}
CUSIM_INLINE void block_on(Fiber& f, State s) {
  M.run[f.id >> 6] &= ~(1ull << (f.id & 63));
  f.state = s;
}

[[noreturn]] inline void leave() {
  switch_context(M.current->context, M.host);
  __builtin_unreachable();
}
[[noreturn]] inline void fail(Location at, const char* fmt, ...) {
  char msg[600];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(msg, sizeof msg, fmt, ap);
  va_end(ap);
  const Fiber& f = *M.current;
  M.failed = true;
  snprintf(M.error, sizeof M.error, "%s (%s:%u, block (%u,%u,%u) thread (%u,%u,%u))", msg, at.file_name(), at.line(),
           M.b.index.x, M.b.index.y, M.b.index.z, f.tid.x, f.tid.y, f.tid.z);
  leave();
}
// next runnable fiber after i in the sweep direction, or -1
inline int next_runnable(unsigned i) {
  const unsigned words = (M.n + 63) / 64;
  if (!M.reverse) {
    unsigned w = i >> 6;
    uint64_t v = (i & 63) == 63 ? 0 : M.run[w] & (~0ull << ((i & 63) + 1));
    for (unsigned k = 0; k <= words; ++k) {
      if (v) return int(w * 64 + std::countr_zero(v));
      w = w + 1 == words ? 0 : w + 1;
      v = M.run[w];
    }
  } else {
    unsigned w = i >> 6;
    uint64_t v = M.run[w] & ((1ull << (i & 63)) - 1);
    for (unsigned k = 0; k <= words; ++k) {
      if (v) return int(w * 64 + 63 - std::countl_zero(v));
      w = w ? w - 1 : words - 1;
      v = M.run[w];
    }
  }
  return -1;
}
inline void stuck() {  // nobody can run: a divergent barrier or an incomplete warp op
  unsigned n = 0;
  char part[900];
  int len = 0;
  for (unsigned i = 0; i < M.n && len < 700; ++i) {
    Fiber& f = M.fibers[i];
    if (f.state == kDone) continue;
    unsigned c = 0;
    bool seen = false;
    for (unsigned j = 0; j < M.n; ++j) {
      Fiber& g = M.fibers[j];
      if (g.state == f.state && g.line == f.line) {
        if (j < i) {
          seen = true;
          break;
        }
        ++c;
      }
    }
    if (!seen)
      len +=
          snprintf(part + len, sizeof part - size_t(len), "%s%u thread(s) wait at a %s in line %u", n++ ? "; " : "", c,
                   f.state == kBarrier ? "block barrier"
                   : f.state == kWarp  ? "warp operation"
                                       : "poll of other blocks",
                   f.line);
  }
  unsigned done = 0;
  for (unsigned i = 0; i < M.n; ++i) done += M.fibers[i].state == kDone;
  M.failed = true;
  snprintf(M.error, sizeof M.error, "deadlock in block (%u,%u,%u): %s; %u thread(s) have returned", M.b.index.x,
           M.b.index.y, M.b.index.z, part, done);
}
__attribute__((noinline)) inline void yield(bool same_warp = false) {  // the current fiber is blocked: run another one
  asm volatile("" ::: "memory");
  Fiber& me = *M.current;
  int k = -1;
  if (same_warp)  // stay in the warp while it can run: its 32 stacks stay in the cache
    if (const uint32_t w = uint32_t(M.run[me.id >> 6] >> (me.id & 32)))
      k = int((me.id & ~31u) + (((me.id & 31) + unsigned(std::countr_zero(std::rotr(w, int(me.id & 31))))) & 31));
  if (k < 0) k = next_runnable(me.id);
  if (k < 0) {
    if (!M.b.polling) {
      stuck();
      leave();
    }
    switch_context(me.context, M.host);  // the other blocks' turn
  } else if (unsigned(k) != me.id) {
    M.current = &M.fibers[k];
    switch_context(me.context, M.fibers[k].context);
  }
  asm volatile("" ::: "memory");
}
inline void release(State s) {
  for (unsigned i = 0; i < M.n; ++i)
    if (M.fibers[i].state == s) ready(i);
}

inline void fiber_main() {
  for (;;) {
    M.body(M.arg);
    Fiber& me = *M.current;
    block_on(me, kDone);
    --M.b.alive;
    M.moved = true;
    if (M.b.alive && M.b.at_barrier == M.b.alive) {
      if (M.strict) {
        unsigned l = 0;
        for (unsigned i = 0; i < M.n; ++i)
          if (M.fibers[i].state == kBarrier) l = M.fibers[i].line;
        M.failed = true;
        snprintf(M.error, sizeof M.error,
                 "block (%u,%u,%u): %u thread(s) returned while %u wait at the __syncthreads in line %u", M.b.index.x,
                 M.b.index.y, M.b.index.z, M.n - M.b.alive, M.b.at_barrier, l);
        leave();
      }
      M.b.at_barrier = 0;
      ++M.b.barriers_passed;
      release(kBarrier);
    }
    int k = next_runnable(me.id);
    if (k < 0) {
      if (M.b.alive && !M.b.polling) stuck();
      switch_context(me.context, M.host);
    } else {
        M.current = &M.fibers[k];
      switch_context(me.context, M.fibers[k].context);
    }
  }
}
#ifdef CUSIM_UCONTEXT
inline void arm(Fiber& f) {
  getcontext(&f.context.u);
  f.context.u.uc_stack = {f.stack, 0, kStack};
  f.context.u.uc_link = nullptr;
  makecontext(&f.context.u, fiber_main, 0);
}
#else
inline void arm(Fiber& f) {
  // 6 registers, return address, pad (rsp % 16 == 8 at entry); the tops are staggered so that the stacks don't share
  // cache sets
  void** s = reinterpret_cast<void**>(f.stack + kStack - f.color % 64 * 320) - 8;
  std::memset(s, 0, 64);
  s[6] = reinterpret_cast<void*>(&fiber_main);
  f.context.sp = s;
}
#endif
template <class T>
T* lazy(size_t n) {
  void* p = mmap(nullptr, n * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    std::perror("cusim: mmap");
    std::abort();
  }
  return static_cast<T*>(p);
}
inline void reserve(unsigned n) {
  if (!M.pool) M.pool = lazy<Fiber>(kPool), M.group_pool = lazy<Group>(kPool);
  if (!M.stacks) M.stacks = lazy<char>(kPool * kStack);  // address space only; pages appear when touched
  for (; M.n_armed < n; ++M.n_armed) {
    Fiber& f = M.pool[M.n_armed];
    f.stack = M.stacks + M.n_armed * kStack;
    f.color = M.n_armed;
    arm(f);
    if (M.n_armed < kMaxThreads)
      mprotect(f.stack, kPage, PROT_NONE);  // guard page (not for all: the kernel limits the number of mappings)
  }
}
// This module's thread-local block: its static __shared__ variables.
static inline int find_statics(dl_phdr_info* i, size_t, void* self) {
  for (int k = 0; k < i->dlpi_phnum; ++k) {
    auto& h = i->dlpi_phdr[k];
    if (h.p_type == PT_LOAD && uintptr_t(self) - (i->dlpi_addr + h.p_vaddr) < h.p_memsz) {
      for (int j = 0; j < i->dlpi_phnum; ++j)
        if (i->dlpi_phdr[j].p_type == PT_TLS)
          M.statics = static_cast<char*>(i->dlpi_tls_data), M.statics_bytes = i->dlpi_phdr[j].p_memsz;
      return 1;
    }
  }
  return 0;
}
inline void start_block(unsigned long long bl) {
  M.b = Block{};
  M.b.index = {unsigned(bl % M.grid_dim.x), unsigned(bl / M.grid_dim.x % M.grid_dim.y),
               unsigned(bl / M.grid_dim.x / M.grid_dim.y)};
  M.b.alive = M.n;
  if (M.statics) std::memset(M.statics, 0xff, M.statics_bytes);  // 0xffffffff is a NaN: uninitialised reads show
  if (M.dynamic_bytes) std::memset(M.dynamic, 0xff, M.dynamic_bytes);
  for (unsigned i = 0; i < M.n; ++i) {
    Fiber& f = M.fibers[i];
    f.id = i;
    f.tid = {i % M.block_dim.x, i / M.block_dim.x % M.block_dim.y, i / (M.block_dim.x * M.block_dim.y)};
    M.groups[i].arrived = 0;
    ready(i);
  }
}
inline void enter(Fiber& f) {
  M.current = &f;
  M.inside = true;
  switch_context(M.host, f.context);
  M.inside = false;
}
inline void run_block() { enter(M.fibers[M.reverse ? M.n - 1 : 0]); }
inline uint64_t in_sweep(uint64_t i, uint64_t n) { return M.reverse ? n - 1 - i : i; }

// A thread looks again at what other blocks are to write: all others go first.
inline void poll(Location at) {
  if (!M.cooperative) fail(at, "waiting for other blocks in a launch that is not cooperative");
  Fiber& me = *M.current;
  me.line = at.line();
  ++M.b.polling;
  block_on(me, kPoll);
  yield();
}
struct Parked {
  Block b;
  char* statics;
};
inline void select_block(unsigned i, char* dynamic, size_t stride) {
  M.fibers = M.pool + size_t(i) * M.n;
  M.groups = M.group_pool + size_t(i) * M.n;
  M.dynamic = dynamic + i * stride;
}
// All blocks are alive: each runs until its threads wait for other blocks, then the next one has its turn.
inline void run_cooperative(unsigned blocks, char* dynamic, size_t stride) {
  Parked* parked = static_cast<Parked*>(std::calloc(blocks, sizeof(Parked)));
  unsigned alive = blocks, quiet = 0;
  for (bool first = true; alive && !M.failed; first = false) {
    alive = 0;
    M.moved = false;
    for (unsigned turn = 0; turn < blocks && !M.failed; ++turn) {
      const unsigned i = unsigned(in_sweep(turn, blocks));
      Parked& p = parked[i];
      select_block(i, dynamic, stride);
      if (first) {
        p.statics = static_cast<char*>(std::malloc(M.statics_bytes + 1));
        start_block(i);
        run_block();
      } else if (p.b.alive) {
        M.b = p.b;
        M.b.polling = 0;
        if (M.statics) std::memcpy(M.statics, p.statics, M.statics_bytes);
        release(kPoll);
        enter(M.fibers[next_runnable(M.reverse ? 0 : M.n - 1)]);
      } else {
        continue;
      }
      p.b = M.b;
      if (M.statics) std::memcpy(p.statics, M.statics, M.statics_bytes);
      alive += M.b.alive > 0;
    }
    quiet = M.moved ? 0 : quiet + 1;
    if (alive && quiet == kPatience && !M.failed) {
      unsigned i = 0;
      while (!parked[i].b.alive) ++i;
      select_block(i, dynamic, stride);
      M.b = parked[i].b;
      stuck();
      const size_t end = std::strlen(M.error);
      snprintf(M.error + end, sizeof M.error - end, "; of %u blocks %u wait", blocks, alive);
    }
  }
  for (unsigned i = 0; i < blocks; ++i) std::free(parked[i].statics);
  std::free(parked);
}

enum Flags { kReverse = 1, kLenient = 2, kCooperative = 4 };
// returns 0, or 1 with the message in M.error
template <class... A>
int launch(void (*kernel)(A...), const unsigned* grid, const unsigned* block, size_t smem, void** args, int flags) {
  M.failed = false;
  M.error[0] = 0;
  ++M.launches;
  const uint64_t n = uint64_t(block[0]) * block[1] * block[2], blocks = uint64_t(grid[0]) * grid[1] * grid[2];
  if (n == 0 || n > kMaxThreads) {
    snprintf(M.error, sizeof M.error, "bad block size %llu", (unsigned long long)n);
    return 1;
  }
  if (!blocks || grid[1] > 65535 || grid[2] > 65535) {
    snprintf(M.error, sizeof M.error, "bad grid (%u,%u,%u)", grid[0], grid[1], grid[2]);
    return 1;
  }
  static thread_local volatile char anchor = 0;
  (void)anchor;  // makes the loader allocate this module's TLS block
  dl_iterate_phdr(find_statics, reinterpret_cast<void*>(&find_statics));
  if (smem > kSharedLimit) {  // static shared memory is checked by the real compiler, kernel by kernel
    snprintf(M.error, sizeof M.error, "too much shared memory: %zu bytes; %zu is the limit", smem, kSharedLimit);
    return 1;
  }
  M.cooperative = flags & kCooperative;
  M.reverse = flags & kReverse;
  M.strict = !(flags & kLenient);
  if (M.cooperative && blocks * n > kPool) {
    snprintf(M.error, sizeof M.error, "cooperative launch of %llu threads", (unsigned long long)(blocks * n));
    return 1;
  }
  M.n = unsigned(n);
  M.block_dim = {block[0], block[1], block[2]};
  M.grid_dim = {grid[0], grid[1], grid[2]};
  reserve(unsigned(M.cooperative ? blocks * n : n));
  std::memset(M.run, 0, sizeof M.run);
  M.fibers = M.pool;
  M.groups = M.group_pool;
  const size_t stride = (smem + 1023) / 1024 * 1024, wanted = M.cooperative ? blocks * stride : stride;
  if (wanted > M.dynamic_capacity) {
    std::free(M.dynamic_memory);
    M.dynamic_memory = static_cast<char*>(std::aligned_alloc(1024, wanted));
    M.dynamic_capacity = wanted;
  }
  M.dynamic = M.dynamic_memory;
  M.dynamic_bytes = smem;
  [&]<size_t... I>(std::index_sequence<I...>) {
    auto run = [&] { kernel(*static_cast<std::remove_reference_t<A>*>(args[I])...); };
    M.body = [](void* p) { (*static_cast<decltype(run)*>(p))(); };
    M.arg = &run;
    if (M.cooperative) run_cooperative(unsigned(blocks), M.dynamic_memory, stride);
    else
      for (uint64_t b = 0; b < blocks && !M.failed; ++b) {
        start_block(in_sweep(b, blocks));
        run_block();
      }
  }(std::index_sequence_for<A...>{});
  if (M.failed)
    for (unsigned i = 0; i < M.n_armed; ++i) arm(M.pool[i]);
  return M.failed;
}

// ---------------------------------------------------------------- barriers and warp operations
inline unsigned barrier(Location at, int pred) {
  Fiber& me = *M.current;
  const unsigned g = M.b.barriers_passed & 1;
  int* acc = M.b.votes[g];
  if (M.b.at_barrier == 0) acc[0] = 0, acc[1] = 1, acc[2] = 0;
  acc[0] += pred != 0;
  acc[1] &= pred != 0;
  acc[2] |= pred != 0;
  me.line = at.line();
  if (++M.b.at_barrier == M.b.alive) {
    if (M.strict && M.b.alive != M.n)
      fail(at, "__syncthreads after %u thread(s) of the block returned", M.n - M.b.alive);
    M.b.at_barrier = 0;
    ++M.b.barriers_passed;
    release(kBarrier);
    me.state = kRun;
    if (M.strict)
      for (unsigned i = 0; i < M.n; ++i)
        if (M.fibers[i].line != at.line())
          fail(at, "threads of one block meet at different __syncthreads (also line %u)", M.fibers[i].line);
  } else {
    block_on(me, kBarrier);
    yield();
  }
  return g;
}
template <class T>
struct Lanes {
  const unsigned char (*b)[16];
  uint32_t mask;
  T at(unsigned l) const {
    T v;
    if (mask >> l & 1) std::memcpy(&v, b[l], sizeof v);
    else std::memset(&v, 0xff, sizeof v);
    return v;
  }
};
template <class T>
inline Lanes<T> exchange(uint32_t mask, T v, Location at) {
  static_assert(sizeof(T) <= 16 && std::is_trivially_copyable_v<T>);
  Fiber& me = *M.current;
  const unsigned w = me.id / 32, lane = me.id & 31, here = M.n - w * 32;
  if (here < 32) mask &= (1u << here) - 1;
  if (!(mask >> lane & 1)) fail(at, "lane %u calls a warp operation whose mask 0x%08x leaves it out", lane, mask);
  Group& g = M.groups[w * 32 + unsigned(std::countr_zero(mask))];
  if (!g.arrived) g.mask = mask;
  else if (g.mask != mask) fail(at, "lanes of one warp operation pass different masks (0x%08x, 0x%08x)", g.mask, mask);
  const unsigned gen = g.gen & 1;
  std::memcpy(g.values[gen][lane], &v, sizeof v);
  me.line = at.line();
  if ((g.arrived |= 1u << lane) == mask) {
    g.arrived = 0;
    ++g.gen;
    for (uint32_t m = mask; m; m &= m - 1) ready(w * 32 + unsigned(std::countr_zero(m)));
  } else {
    block_on(me, kWarp);
    yield(true);
  }
  return {g.values[gen], mask};
}
CUSIM_INLINE unsigned lane() { return M.current->id & 31; }
inline void* dynamic_shared() { return M.dynamic; }
}  // namespace cusim

#define threadIdx (cusim::M.current->tid)
#define blockIdx (cusim::M.b.index)
#define blockDim (cusim::M.block_dim)
#define gridDim (cusim::M.grid_dim)
constexpr int warpSize = 32;
#define CUSIM_AT cusim::Location at = cusim::Location::current()

inline void __syncthreads(CUSIM_AT) { cusim::barrier(at, 0); }
inline int __syncthreads_count(int p, CUSIM_AT) { return cusim::M.b.votes[cusim::barrier(at, p)][0]; }
inline int __syncthreads_and(int p, CUSIM_AT) { return cusim::M.b.votes[cusim::barrier(at, p)][1]; }
inline int __syncthreads_or(int p, CUSIM_AT) { return cusim::M.b.votes[cusim::barrier(at, p)][2]; }
inline void __syncwarp(unsigned m = 0xffffffffu, CUSIM_AT) { cusim::exchange(m, 0, at); }
template <class T>
inline T __shfl_sync(unsigned m, T v, int src, int w = 32, CUSIM_AT) {
  auto x = cusim::exchange(m, v, at);
  unsigned l = cusim::lane();
  return x.at((l & ~unsigned(w - 1)) | (unsigned(src) & unsigned(w - 1)));
}
template <class T>
inline T __shfl_down_sync(unsigned m, T v, unsigned d, int w = 32, CUSIM_AT) {
  auto x = cusim::exchange(m, v, at);
  unsigned l = cusim::lane(), s = l + d;
  return (l & unsigned(w - 1)) + d < unsigned(w) ? x.at(s) : v;
}
template <class T>
inline T __shfl_up_sync(unsigned m, T v, unsigned d, int w = 32, CUSIM_AT) {
  auto x = cusim::exchange(m, v, at);
  unsigned l = cusim::lane();
  return (l & unsigned(w - 1)) >= d ? x.at(l - d) : v;
}
template <class T>
inline T __shfl_xor_sync(unsigned m, T v, int k, int w = 32, CUSIM_AT) {
  auto x = cusim::exchange(m, v, at);
  unsigned l = cusim::lane(), s = l ^ unsigned(k);
  return s / unsigned(w) <= l / unsigned(w) ? x.at(s) : v;
}
inline unsigned __ballot_sync(unsigned m, int p, CUSIM_AT) {
  auto x = cusim::exchange(m, p != 0, at);
  unsigned r = 0;
  for (unsigned l = 0; l < 32; ++l)
    if ((x.mask >> l & 1) && x.at(l)) r |= 1u << l;
  return r;
}
inline int __any_sync(unsigned m, int p, CUSIM_AT) { return __ballot_sync(m, p, at) != 0; }
inline int __all_sync(unsigned m, int p, CUSIM_AT) { return __ballot_sync(m, !p, at) == 0; }
template <class T>
inline T __reduce_add_sync(unsigned m, T v, CUSIM_AT) {
  auto x = cusim::exchange(m, v, at);
  T r{};
  for (unsigned l = 0; l < 32; ++l)
    if (x.mask >> l & 1) r += x.at(l);
  return r;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// ---------------------------------------------------------------- atomics: among fibers of one thread any update is one
#ifndef CUSIM_ATOMIC  // cusim_race.h defines it to log the access as atomic
#define CUSIM_ATOMIC(p)
#define CUSIM_RELEASE(p)
#define CUSIM_ACQUIRE(p)
#define CUSIM_UNSEEN inline
#endif
#define CUSIM_RMW(NAME, EXPR)                            \
  template <class T>                                     \
  CUSIM_UNSEEN T NAME(T* p, std::type_identity_t<T> v) { \
    CUSIM_ATOMIC(p);                                     \
    T o = *p;                                            \
    *p = (EXPR);                                         \
    cusim::M.moved |= *p != o;                           \
    return o;                                            \
  }
CUSIM_RMW(atomicAdd, o + v)
CUSIM_RMW(atomicSub, o - v)
CUSIM_RMW(atomicMax, v > o ? v : o)
CUSIM_RMW(atomicMin, v < o ? v : o)
CUSIM_RMW(atomicExch, v)
CUSIM_RMW(atomicInc, o >= v ? 0 : o + 1)
template <class T>
CUSIM_UNSEEN T atomicCAS(T* p, std::type_identity_t<T> c, std::type_identity_t<T> v) {
  CUSIM_ATOMIC(p);
  T o = *p;
  if (o == c) *p = v;
  cusim::M.moved |= *p != o;
  return o;
}

// What kernels use in place of PTX to wait for other blocks of a cooperative launch. Adding releases all that the block
// has done so far; who then loads that value acquires it; and between two loads others have their turn.
template <class T>
CUSIM_UNSEEN void cusim_add_release(T* p, std::type_identity_t<T> v) {
  CUSIM_ATOMIC(p);
  CUSIM_RELEASE(p);
  *p += v;
  cusim::M.moved = true;
}
template <class T>
CUSIM_UNSEEN T cusim_load_acquire(const T* p) {
  CUSIM_ATOMIC(p);
  CUSIM_ACQUIRE(p);
  return *p;
}
inline void cusim_poll(CUSIM_AT) { cusim::poll(at); }

// ---------------------------------------------------------------- loads, math, casts
template <class T>
CUSIM_INLINE T __ldg(const T* p) {
  return *p;
}
template <class T>
CUSIM_INLINE T __ldcs(const T* p) {
  return *p;
}
template <class T>
CUSIM_INLINE T __ldcg(const T* p) {
  return *p;
}
template <class T>
CUSIM_INLINE void __stcs(T* p, std::type_identity_t<T> v) {
  *p = v;
}
template <class A, class B>
CUSIM_INLINE constexpr std::common_type_t<A, B> min(A a, B b) {
  return b < a ? b : a;
}
template <class A, class B>
CUSIM_INLINE constexpr std::common_type_t<A, B> max(A a, B b) {
  return a < b ? b : a;
}
#define __expf expf  // glibc declares __expf and __logf itself
#define __logf logf
#define __powf powf
CUSIM_INLINE float __fdividef(float a, float b) { return a / b; }
CUSIM_INLINE float __frcp_rn(float a) { return 1.0f / a; }
CUSIM_INLINE float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
// Products that are never fused with what is added to them: the compiler does not see the sum.
__attribute__((noinline)) inline float __fmul_rn(float a, float b) { return a * b; }
__attribute__((noinline)) inline double __dmul_rn(double a, double b) { return a * b; }
CUSIM_INLINE float __fsqrt_rn(float a) { return sqrtf(a); }
CUSIM_INLINE float rsqrtf(float x) { return 1.0f / sqrtf(x); }
CUSIM_INLINE float __saturatef(float x) { return x < 0 ? 0 : x > 1 ? 1 : x; }
CUSIM_INLINE int __float_as_int(float f) { return std::bit_cast<int>(f); }
CUSIM_INLINE float __int_as_float(int i) { return std::bit_cast<float>(i); }
CUSIM_INLINE unsigned __float_as_uint(float f) { return std::bit_cast<unsigned>(f); }
CUSIM_INLINE float __uint_as_float(unsigned i) { return std::bit_cast<float>(i); }
CUSIM_INLINE int __popc(unsigned v) { return std::popcount(v); }
CUSIM_INLINE int __clz(int v) { return std::countl_zero(unsigned(v)); }
CUSIM_INLINE int __ffs(int v) { return v ? std::countr_zero(unsigned(v)) + 1 : 0; }
CUSIM_INLINE unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
