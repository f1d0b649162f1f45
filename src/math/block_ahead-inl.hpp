// Fetching what is read next. Included by instruction-set files only.
namespace quern {
namespace {

/// The bytes of the group of rows after this one are asked for a few cache lines at a time while this one is computed: they
/// follow each other in memory, while the rows read together are more streams than hardware prefetchers keep, each of which
/// ends at its row's end. Asked for all at once they would fill the core's line buffers, for which everything else then
/// waits. Into second-level cache, for a group of long rows would not leave the first room for anything else.
class BytesAhead {
 public:
  BytesAhead(const std::byte* from, std::int64_t bytes) : from_(from), at_(from), end_(from + bytes) {}
  template <int kLines>
  __attribute__((always_inline)) inline void fetch() {
#pragma GCC unroll 4
    for (int i = 0; i < kLines; ++i) {
      __builtin_prefetch(at_, 0, 2);
      at_ = at_ + 64 < end_ ? at_ + 64 : at_;
    }
  }
  /// What is left of the first `bytes`.
  void fetch_up_to(std::int64_t bytes) {
    for (; at_ - from_ < bytes && at_ + 64 < end_; at_ += 64) __builtin_prefetch(at_, 0, 2);
  }

 private:
  const std::byte* from_;
  const std::byte* at_;
  const std::byte* end_;
};

}  // namespace
}  // namespace quern
