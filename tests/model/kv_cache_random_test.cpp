// Random operations on a cache with full and windowed layers against a model that is nothing but lists of stamps.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "kv_cache_support.hpp"

namespace quern {
namespace {

using testing_kv::config;
using testing_kv::has_stamp;
using testing_kv::pages_held;
using testing_kv::stamp_row;

constexpr std::int64_t kLayers = 3;  // 0 and 1 windowed, 2 full
constexpr std::int64_t kWidth = 8;
constexpr std::int64_t kSequences = 5;

struct Sizes {
  std::int64_t window;
  std::int64_t batch;
  std::int64_t capacity;
};

class RandomOperations {
 public:
  RandomOperations(const Sizes& sizes, std::uint32_t seed)
      : sizes_(sizes),
        cache_(
            KvCache::create(config(kLayers, 4, sizes.window, 3), ElementType::f32, sizes.capacity, kSequences, sizes.batch)
                .value()),
        pages_(cache_.free_tokens() / kPageTokens),
        random_(seed) {}

  void step() {
    switch (pick(0, 9)) {
      case 0:
        return add();
      case 1:
        return fork();
      case 2:
        return cut();
      case 3:
        return pick(0, 3) == 0 ? remove() : extend();
      default:
        return extend();
    }
  }

  /// Every position that a query could still see holds its stamp, lengths agree, and no page is lost or owned twice.
  void check() {
    std::vector<KvCache::SequenceId> alive;
    for (const auto& [id, stamps] : sequences_) {
      alive.push_back(id);
      const auto length = std::ssize(stamps);
      ASSERT_EQ(cache_.length(id), length);
      ASSERT_LE(cache_.earliest_cut(id), length);
      // A batch appended now, or after a cut as far as allowed, sees this much.
      const std::int64_t seen = length == 0 ? 0 : std::max<std::int64_t>(0, cache_.earliest_cut(id) - sizes_.window + 1);
      for (std::int64_t layer = 0; layer < kLayers; ++layer) {
        for (std::int64_t p = layer == kLayers - 1 ? 0 : seen; p < length; ++p) {
          ASSERT_TRUE(has_stamp(cache_, id, layer, p, stamps[static_cast<std::size_t>(p)])) << "sequence " << id;
        }
      }
    }
    ASSERT_EQ(std::ssize(pages_held(cache_, alive, kLayers - 1)) + cache_.free_tokens() / kPageTokens, pages_);
  }

  [[nodiscard]] std::int64_t refusals() const { return refusals_; }
  [[nodiscard]] std::int64_t extensions() const { return extensions_; }
  [[nodiscard]] std::int64_t refused_cuts() const { return refused_cuts_; }

 private:
  std::int64_t pick(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random_);
  }
  KvCache::SequenceId any() {
    auto at = sequences_.begin();
    std::advance(at, pick(0, std::ssize(sequences_) - 1));
    return at->first;
  }

  void add() {
    const auto added = cache_.add_sequence();
    ASSERT_EQ(added.has_value(), std::ssize(sequences_) < kSequences);
    if (!added) return;
    ASSERT_FALSE(sequences_.contains(*added));
    sequences_[*added] = {};
  }

  void fork() {
    if (sequences_.empty()) return;
    const KvCache::SequenceId source = any();
    const auto length = std::ssize(sequences_[source]);
    const std::int64_t wanted = pick(0, 2) == 0 ? pick(0, length) : length;
    const auto forked = cache_.fork(source, wanted);
    const bool reachable = wanted == 0 || wanted >= cache_.earliest_cut(source);
    ASSERT_EQ(forked.has_value(), reachable && std::ssize(sequences_) < kSequences);
    if (!forked) return;
    ASSERT_FALSE(sequences_.contains(*forked));
    sequences_[*forked].assign(sequences_[source].begin(), sequences_[source].begin() + wanted);
  }

  void cut() {
    if (sequences_.empty()) return;
    const KvCache::SequenceId id = any();
    std::vector<std::int64_t>& stamps = sequences_[id];
    const auto length = std::ssize(stamps);
    const std::int64_t to = pick(0, 3) == 0 ? pick(0, length) : std::max<std::int64_t>(0, length - pick(0, sizes_.batch));
    const bool reachable = to == 0 || to == length || to >= cache_.earliest_cut(id);
    ASSERT_EQ(cache_.truncate(id, to).has_value(), reachable);
    if (reachable) stamps.resize(static_cast<std::size_t>(to));
    if (!reachable) ++refused_cuts_;
  }

  void remove() {
    if (sequences_.empty()) return;
    const KvCache::SequenceId id = any();
    cache_.remove_sequence(id);
    sequences_.erase(id);
  }

  void extend() {
    if (sequences_.empty()) return;
    const KvCache::SequenceId id = any();
    std::vector<std::int64_t>& stamps = sequences_[id];
    const std::int64_t tokens = pick(1, sizes_.batch);
    const bool fits = tokens <= cache_.free_tokens(id);
    const auto extended = cache_.extend(id, tokens);
    ASSERT_EQ(extended.has_value(), fits) << "full layers' pages alone decide";
    if (!extended) {
      ASSERT_EQ(extended.error().code, ErrorCode::no_memory);
      ++refusals_;
      return;
    }
    ++extensions_;
    for (std::int64_t i = 0; i < tokens; ++i) {
      stamps.push_back(++stamp_);
      stamp_row(cache_, id, kLayers, std::ssize(stamps) - 1, stamp_, kWidth);
    }
  }

  Sizes sizes_;
  KvCache cache_;
  std::int64_t pages_;
  std::mt19937 random_;
  std::map<KvCache::SequenceId, std::vector<std::int64_t>> sequences_;
  std::int64_t stamp_ = 0;
  std::int64_t refusals_ = 0, extensions_ = 0, refused_cuts_ = 0;
};

TEST(KvCacheRandom, AgreesWithListsOfStamps) {
  std::int64_t refusals = 0;
  std::int64_t extensions = 0;
  std::int64_t refused_cuts = 0;
  for (const Sizes& sizes : {Sizes{50, 30, 1000}, Sizes{64, 64, 700}, Sizes{1, 7, 400}, Sizes{200, 100, 1500}}) {
    for (std::uint32_t seed = 0; seed < 3; ++seed) {
      RandomOperations run(sizes, seed);
      for (int step = 0; step < 200; ++step) {
        SCOPED_TRACE("window " + std::to_string(sizes.window) + " seed " + std::to_string(seed) + " step " +
                     std::to_string(step));
        run.step();
        if (HasFatalFailure()) return;
        if (step % 10 == 0) run.check();
        if (HasFatalFailure()) return;
      }
      run.check();
      refusals += run.refusals();
      extensions += run.extensions();
      refused_cuts += run.refused_cuts();
    }
  }
  // The walk met what it was meant to meet.
  EXPECT_GT(refusals, 100);
  EXPECT_GT(extensions, 500);
  EXPECT_GT(refused_cuts, 10);
}

}  // namespace
}  // namespace quern
