#include "math/page_block.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "math/system_files.hpp"

namespace quern {
namespace {
constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;
}  // namespace

PageBlock::PageBlock(std::size_t bytes, bool huge_pages) {
  if (bytes == 0 || bytes > (std::size_t{1} << 46)) return;
  mapped_bytes_ = bytes + 2 * kHugePageBytes;
  void* const mapped = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return;
  mapped_ = mapped;
  bytes_ = bytes;
  const std::size_t past = reinterpret_cast<std::uintptr_t>(mapped) % kHugePageBytes;
  data_ = static_cast<std::byte*>(mapped) + (past == 0 ? 0 : kHugePageBytes - past);
#if defined(MADV_HUGEPAGE)
  madvise(mapped_, mapped_bytes_, huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);  // advice: may be refused without harm
#else
  static_cast<void>(huge_pages);
#endif
}

PageBlock::~PageBlock() {
  if (mapped_ != nullptr) munmap(mapped_, mapped_bytes_);
}

std::uint64_t PageBlock::huge_bytes() const {
  // Mappings begin with "BEGIN-END perms ..." in hexadecimal; the lines after say what is in them.
  const auto address = reinterpret_cast<std::uintptr_t>(data_);
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    unsigned long long begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx ", &begin, &end) == 2) inside = begin <= address && address < end;
    constexpr std::string_view kKey = "AnonHugePages:";
    if (!inside || !line.starts_with(kKey)) continue;
    unsigned long long kilobytes = 0;
    if (std::sscanf(line.c_str() + kKey.size(), "%llu", &kilobytes) == 1) return std::uint64_t{kilobytes} * 1024;
  }
  return 0;
}

}  // namespace quern
