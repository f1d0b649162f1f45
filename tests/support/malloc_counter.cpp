#include "support/malloc_counter.hpp"

#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define QUERN_COUNTS_MALLOC 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define QUERN_COUNTS_MALLOC 0
#endif
#endif
#if !defined(QUERN_COUNTS_MALLOC)
#if defined(__GLIBC__)
#define QUERN_COUNTS_MALLOC 1
#else
#define QUERN_COUNTS_MALLOC 0
#endif
#endif

namespace quern {
namespace {

constexpr std::size_t kThreadNameBytes = 16;  // with the final zero; Linux allows no more

// Constant-initialized: malloc is called before any constructor has run.
constinit std::atomic<bool> counting{false};
constinit std::atomic<std::uint64_t> inside_count{0};
constinit std::atomic<std::uint64_t> outside_count{0};
constinit char outside_prefix[kThreadNameBytes] = {};
constinit thread_local int outside_depth = 0;

}  // namespace

bool malloc_counting_available() { return QUERN_COUNTS_MALLOC != 0; }

void start_malloc_counting() {
  inside_count.store(0);
  outside_count.store(0);
  counting.store(true);
}

MallocCounts stop_malloc_counting() {
  counting.store(false);
  return malloc_counts();
}

MallocCounts malloc_counts() { return {.inside = inside_count.load(), .outside = outside_count.load()}; }

void count_thread_outside(std::string_view prefix) {
  std::memset(outside_prefix, 0, sizeof outside_prefix);
  std::memcpy(outside_prefix, prefix.data(), std::min(prefix.size(), kThreadNameBytes - 1));
}

OutsideStep::OutsideStep() { ++outside_depth; }
OutsideStep::~OutsideStep() { --outside_depth; }

}  // namespace quern

#if QUERN_COUNTS_MALLOC

extern "C" {

// The C library's own functions under the names that it exports for this purpose.
void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* memory, std::size_t bytes);
void* __libc_memalign(std::size_t alignment, std::size_t bytes);

// A place for a debugger's breakpoint.
[[gnu::noinline]] void quern_allocated_inside() { quern::inside_count.fetch_add(1, std::memory_order_relaxed); }

static void quern_count_allocation() {
  if (!quern::counting.load(std::memory_order_relaxed)) return;
  bool outside = quern::outside_depth > 0;
  if (!outside && quern::outside_prefix[0] != '\0') {
    char name[quern::kThreadNameBytes] = {};
    prctl(PR_GET_NAME, name, 0, 0, 0);
    outside = std::strncmp(name, quern::outside_prefix, std::strlen(quern::outside_prefix)) == 0;
  }
  if (outside) {
    quern::outside_count.fetch_add(1, std::memory_order_relaxed);
  } else {
    quern_allocated_inside();
  }
}

void* malloc(std::size_t bytes) {
  quern_count_allocation();
  return __libc_malloc(bytes);
}

void* calloc(std::size_t count, std::size_t bytes) {
  quern_count_allocation();
  return __libc_calloc(count, bytes);
}

void* realloc(void* memory, std::size_t bytes) {
  quern_count_allocation();
  return __libc_realloc(memory, bytes);
}

void* memalign(std::size_t alignment, std::size_t bytes) {
  quern_count_allocation();
  return __libc_memalign(alignment, bytes);
}

void* aligned_alloc(std::size_t alignment, std::size_t bytes) {
  quern_count_allocation();
  return __libc_memalign(alignment, bytes);
}

int posix_memalign(void** memory, std::size_t alignment, std::size_t bytes) {
  quern_count_allocation();
  if (alignment % sizeof(void*) != 0 || (alignment & (alignment - 1)) != 0 || alignment == 0) return EINVAL;
  const int saved = errno;  // the function reports by its result only
  void* const block = __libc_memalign(alignment, bytes);
  errno = saved;
  if (block == nullptr) return ENOMEM;
  *memory = block;
  return 0;
}

}  // extern "C"

#endif
