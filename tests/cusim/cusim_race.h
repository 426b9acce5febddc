// The simulator with a race checker. Compiled with -fsanitize=thread but linked without its library: the compiler's
// call-backs are here. Two accesses to one address race when one writes, not both are atomic, and no barrier separates
// them: __syncthreads within a block, a warp operation within a warp. Blocks are ordered by what one releases and the other
// acquires. Each has a clock that a release moves on, and keeps how far it has seen the others' clocks (Lamport's
// happened-before by vector clocks, Mattern 1989); threads of a block share them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#define CUSIM_UNSEEN __attribute__((no_sanitize("thread"), noinline))
#define CUSIM_ATOMIC(p) cusim_race_log(uintptr_t(p), sizeof *(p), 3, uintptr_t(__builtin_return_address(0)))
#define CUSIM_RELEASE(p) cusim_race_release(uintptr_t(p))
#define CUSIM_ACQUIRE(p) cusim_race_acquire(uintptr_t(p))
CUSIM_UNSEEN void cusim_race_log(uintptr_t addr, size_t bytes, unsigned kind, uintptr_t pc);  // kind: 1 write, 2 atomic
CUSIM_UNSEEN void cusim_race_release(uintptr_t addr);
CUSIM_UNSEEN void cusim_race_acquire(uintptr_t addr);
#include "cusim.h"
#include <dlfcn.h>
namespace cusim {
struct Access {
  uint32_t thread, barriers, warp, clock;  // thread: block * 1024 + thread + 1; barriers passed before; the block's clock
  uintptr_t pc;
  uint8_t mask, kind;
};
struct Cell {
  uintptr_t key;
  uint64_t launch;
  Access w, r, r2;  // the last write, the last reads of two threads
};
constexpr size_t kCells = 1 << 22;
inline Cell* cells = nullptr;
constexpr unsigned kClocks = 1024, kFlags = 64;  // blocks of a cooperative launch, and variables by which they wait
struct Flag {
  uintptr_t address;
  uint32_t seen[kClocks];
};
inline uint32_t (*seen)[kClocks] = nullptr;  // [block][other]
inline Flag* flags = nullptr;
inline uint64_t clocks_of = 0;  // the launch

CUSIM_UNSEEN static unsigned this_block() {
  return M.b.index.x + M.grid_dim.x * (M.b.index.y + M.grid_dim.y * M.b.index.z);
}
CUSIM_UNSEEN static unsigned blocks_of_launch() { return M.grid_dim.x * M.grid_dim.y * M.grid_dim.z; }
CUSIM_UNSEEN static void begin_clocks() {
  if (clocks_of == M.launches) return;
  clocks_of = M.launches;
  if (!seen) seen = lazy<uint32_t[kClocks]>(kClocks), flags = lazy<Flag>(kFlags);
  const unsigned blocks = blocks_of_launch();
  if (blocks > kClocks) std::abort();  // more than any cooperative launch of the simulator has
  std::memset(flags, 0, kFlags * sizeof(Flag));
  for (unsigned b = 0; b < blocks; ++b) {
    std::memset(seen[b], 0, blocks * sizeof(uint32_t));
    seen[b][b] = 1;
  }
}
CUSIM_UNSEEN static Flag& flag(uintptr_t address) {
  unsigned i = 0;
  while (flags[i].address && flags[i].address != address)
    if (++i == kFlags) std::abort();
  flags[i].address = address;
  return flags[i];
}
CUSIM_UNSEEN static void see(uint32_t* mine, const uint32_t* other) {
  for (unsigned b = 0; b < blocks_of_launch(); ++b) mine[b] = mine[b] > other[b] ? mine[b] : other[b];
}

CUSIM_UNSEEN static bool clash(const Access& a, const Access& b) {  // b is the current access
  if (!a.thread || a.thread == b.thread || !(a.mask & b.mask) || !((a.kind | b.kind) & 1) ||
      ((a.kind & 2) && (b.kind & 2)))
    return false;
  const uint32_t x = a.thread - 1, y = b.thread - 1;
  if (x >> 10 != y >> 10) return !M.cooperative || seen[y >> 10][x >> 10] < a.clock;
  if (a.barriers != b.barriers) return false;
  return (x & 1023) / 32 != (y & 1023) / 32 || a.warp == b.warp;
}
CUSIM_UNSEEN static void report(const Access& a, const Access& b, uintptr_t at) {
  auto name = [](unsigned k) { return k & 2 ? "atomic" : k & 1 ? "write" : "read"; };
  Dl_info i{};
  dladdr(reinterpret_cast<void*>(&fiber_main), &i);
  const auto base = uintptr_t(i.dli_fbase);
  const char* where =
      at - uintptr_t(M.statics) < M.statics_bytes || at - uintptr_t(M.dynamic) < M.dynamic_bytes ? "shared" : "global";
  M.inside = false;
  M.failed = true;
  snprintf(
      M.error, sizeof M.error,
      "race on %s memory: %s by block %u thread %u @pc:%#zx, %s by block %u thread %u @pc:%#zx, no barrier between",
      where, name(a.kind), (a.thread - 1) >> 10, (a.thread - 1) & 1023, size_t(a.pc - base - 1), name(b.kind),
      (b.thread - 1) >> 10, (b.thread - 1) & 1023, size_t(b.pc - base - 1));
  leave();
}
CUSIM_UNSEEN static bool own(uintptr_t a) {  // the simulator's own data and the fibers' stacks
  return a - uintptr_t(&M) < sizeof M || a - uintptr_t(M.stacks) < kPool * kStack ||
         a - uintptr_t(M.pool) < kPool * sizeof(Fiber) || a - uintptr_t(M.group_pool) < kPool * sizeof(Group) ||
         a - uintptr_t(M.extra) < M.extra_bytes;
}
}  // namespace cusim
CUSIM_UNSEEN void cusim_race_log(uintptr_t addr, size_t bytes, unsigned kind, uintptr_t pc) {
  using namespace cusim;
  if (!M.inside || own(addr)) return;
  if (!cells) cells = lazy<Cell>(kCells);
  const uint32_t block = this_block(), id = M.current->id;
  if (M.cooperative) begin_clocks();
  for (uintptr_t g = addr >> 2; g <= (addr + bytes - 1) >> 2; ++g) {
    unsigned mask = 15;
    if (g == addr >> 2) mask &= 15u << (addr & 3);
    if (g == (addr + bytes - 1) >> 2) mask &= 15u >> (3 - ((addr + bytes - 1) & 3));
    const uint32_t clock = M.cooperative ? seen[block][block] : 0;
    const Access now{block * 1024 + id + 1, M.b.barriers_passed, M.groups[id & ~31u].gen, clock, pc,
                     uint8_t(mask),         uint8_t(kind)};
    size_t h = size_t(g * 0x9e3779b97f4a7c15ull >> 42) % kCells;
    for (unsigned probe = 0; probe < 64 && cells[h].launch == M.launches && cells[h].key != g; ++probe)
      h = (h + 1) % kCells;
    Cell& c = cells[h];
    if (c.launch != M.launches || c.key != g) c = Cell{g, M.launches, {}, {}, {}};
    // shared memory of an earlier block is a different variable at the same address
    if ((g << 2) - uintptr_t(M.statics) < M.statics_bytes || (g << 2) - uintptr_t(M.dynamic) < M.dynamic_bytes)
      for (Access* a : {&c.w, &c.r, &c.r2})
        if (a->thread && (a->thread - 1) >> 10 != block) *a = {};
    if (clash(c.w, now)) report(c.w, now, addr);
    if (kind & 1) {
      if (clash(c.r, now)) report(c.r, now, addr);
      if (clash(c.r2, now)) report(c.r2, now, addr);
      c.w = now;
    } else {
      if (c.r.thread != now.thread) c.r2 = c.r;
      c.r = now;
    }
  }
}
CUSIM_UNSEEN void cusim_race_release(uintptr_t addr) {
  using namespace cusim;
  if (!M.cooperative) return;
  begin_clocks();
  const unsigned block = this_block();
  see(flag(addr).seen, seen[block]);
  ++seen[block][block];
}
CUSIM_UNSEEN void cusim_race_acquire(uintptr_t addr) {
  using namespace cusim;
  if (!M.cooperative) return;
  begin_clocks();
  see(seen[this_block()], flag(addr).seen);
}
#define CUSIM_CB(NAME, BYTES, KIND)                                                    \
  extern "C" CUSIM_UNSEEN void NAME(void* p) {                                         \
    cusim_race_log(uintptr_t(p), BYTES, KIND, uintptr_t(__builtin_return_address(0))); \
  }
CUSIM_CB(__tsan_read1, 1, 0)
CUSIM_CB(__tsan_read2, 2, 0)
CUSIM_CB(__tsan_read4, 4, 0)
CUSIM_CB(__tsan_read8, 8, 0)
CUSIM_CB(__tsan_read16, 16, 0)
CUSIM_CB(__tsan_write1, 1, 1)
CUSIM_CB(__tsan_write2, 2, 1)
CUSIM_CB(__tsan_write4, 4, 1)
CUSIM_CB(__tsan_write8, 8, 1)
CUSIM_CB(__tsan_write16, 16, 1)
CUSIM_CB(__tsan_unaligned_read2, 2, 0)
CUSIM_CB(__tsan_unaligned_read4, 4, 0)
CUSIM_CB(__tsan_unaligned_read8, 8, 0)
CUSIM_CB(__tsan_unaligned_read16, 16, 0)
CUSIM_CB(__tsan_unaligned_write2, 2, 1)
CUSIM_CB(__tsan_unaligned_write4, 4, 1)
CUSIM_CB(__tsan_unaligned_write8, 8, 1)
CUSIM_CB(__tsan_unaligned_write16, 16, 1)
extern "C" CUSIM_UNSEEN void __tsan_read_range(void* p, size_t n) {
  cusim_race_log(uintptr_t(p), n, 0, uintptr_t(__builtin_return_address(0)));
}
extern "C" CUSIM_UNSEEN void __tsan_write_range(void* p, size_t n) {
  cusim_race_log(uintptr_t(p), n, 1, uintptr_t(__builtin_return_address(0)));
}
extern "C" CUSIM_UNSEEN void __tsan_init() {}
extern "C" CUSIM_UNSEEN void __tsan_func_entry(void*) {}
extern "C" CUSIM_UNSEEN void __tsan_func_exit() {}
extern "C" CUSIM_UNSEEN void __tsan_vptr_update(void**, void*) {}
