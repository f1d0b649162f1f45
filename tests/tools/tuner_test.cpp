// What `quern tune` chooses from measurements that the test makes up, on machines that it describes.
#include "tuner.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

namespace quern::tools {
namespace {

std::vector<double> rounds(double rate, double spread = 0.01) {
  std::vector<double> rates;
  for (int i = 0; i < 10; ++i) rates.push_back(rate * (1.0 + spread * (static_cast<double>(i) - 4.5) / 4.5));
  return rates;
}

TuneSpace space_of(const std::string& synthetic, std::int64_t threads) {
  TuneSpace space;
  const auto topology = read_topology({.synthetic = synthetic, .xml = {}});
  EXPECT_TRUE(topology) << topology.error().message;
  space.topology = *topology;
  for (const ProcessorPlace& place : topology->places) space.processors.push_back(place.processor);
  space.default_threads = threads;
  space.cores = cores_among(space.topology, space.processors);
  return space;
}

/// A machine whose speed follows from the settings alone, and what was asked of it.
struct FakeMachine {
  std::function<double(const TunedSettings&)> prefill = [](const TunedSettings&) { return 100.0; };
  std::function<double(const TunedSettings&)> decode = [](const TunedSettings&) { return 10.0; };
  double spread = 0.01;
  std::int64_t calls = 0;

  TuneMeasure measure() {
    return [this](std::span<const TunedSettings> all, TuneMetric metric) -> Result<std::vector<TuneSample>> {
      ++calls;
      std::vector<TuneSample> samples;
      for (const TunedSettings& one : all) {
        TuneSample& sample = samples.emplace_back();
        sample.weights = one.weights == "mapped" ? "mapped" : "interleaved";
        if (metric != TuneMetric::decode) sample.prefill = rounds(prefill(one), spread);
        if (metric != TuneMetric::prefill) sample.decode = rounds(decode(one), spread);
      }
      return samples;
    };
  }
};

const TuneChoice& choice_of(const TuneOutcome& outcome, const std::string& setting) {
  for (const TuneChoice& choice : outcome.choices) {
    if (choice.setting == setting) return choice;
  }
  ADD_FAILURE() << "no choice of " << setting;
  return outcome.choices.front();
}

TuneOutcome tuned(const TuneSpace& space, FakeMachine& machine, const TuneOptions& options = {}) {
  const auto outcome = tune(tune_stages(space), {}, machine.measure(), options);
  EXPECT_TRUE(outcome) << outcome.error().message;
  return *outcome;
}

TEST(Choose, TheFirstThatIsNotBelowTheBestBeyondIntervals) {
  const auto of = [](double rate, double spread) { return summarize(rounds(rate, spread)); };
  EXPECT_EQ(choose(std::vector<Summary>{}), 0U);
  EXPECT_EQ(choose(std::vector{of(10, 0.01), of(20, 0.01), of(15, 0.01)}), 1U);
  EXPECT_EQ(choose(std::vector{of(10, 0.5), of(11, 0.5)}), 0U) << "the default where nothing is told apart";
  EXPECT_EQ(choose(std::vector{of(10, 0.01), of(19.9, 0.05), of(20, 0.05)}), 1U) << "the simpler of two alike";
  EXPECT_EQ(choose(std::vector{summarize(std::vector<double>{1.0, 1.1}), of(20, 0.01)}), 0U) << "too few rounds";
}

TEST(Tune, TheDefaultsStayWhereNothingIsFaster) {
  FakeMachine machine;
  machine.decode = [](const TunedSettings& s) { return s.threads == 0 ? 10.0 : static_cast<double>(s.threads); };
  const TuneOutcome outcome = tuned(space_of("pack:1 l3:1 core:4 pu:1", 4), machine);
  EXPECT_EQ(outcome.settings, TunedSettings{});
  EXPECT_TRUE(outcome.before_after.empty());
  EXPECT_FALSE(outcome.stopped);
  std::vector<std::string> settings;
  for (const TuneChoice& choice : outcome.choices) {
    settings.push_back(choice.setting);
    EXPECT_FALSE(choice.changed) << choice.setting;
  }
  EXPECT_EQ(settings, (std::vector<std::string>{"threads", "affinity", "numa", "weights", "batch", "block_rows",
                                                "task_bytes", "kv_type"}));
  EXPECT_NE(choice_of(outcome, "affinity").reason.find("no difference"), std::string::npos);
  EXPECT_NE(choice_of(outcome, "threads").reason.find("slower"), std::string::npos);
  EXPECT_NE(choice_of(outcome, "kv_type").reason.find("--kv-type auto"), std::string::npos);
  EXPECT_TRUE(choice_of(outcome, "kv_type").figures.empty());
}

TEST(Tune, TakesWhatIsFasterAndMeasuresBothEnds) {
  FakeMachine machine;
  machine.prefill = [](const TunedSettings& s) { return s.batch == 128 ? 150.0 : s.block_rows == 128 ? 120.0 : 100.0; };
  machine.decode = [](const TunedSettings& s) {
    double rate = s.threads == 2 ? 20.0 : 10.0;  // half of the cores saturate this memory
    if (s.affinity == Affinity::spread) rate *= 1.3;
    if (s.weights == "mapped") rate *= 1.2;
    if (s.task_bytes == 131072) rate *= 1.1;
    return rate;
  };
  TuneSpace space = space_of("pack:2 l3:1 core:2 pu:1", 4);
  const TuneOutcome outcome = tuned(space, machine);
  EXPECT_EQ(outcome.settings.threads, 2);
  EXPECT_EQ(outcome.settings.affinity, Affinity::spread);
  EXPECT_EQ(outcome.settings.weights, "mapped");
  EXPECT_EQ(outcome.settings.batch, 128);
  EXPECT_EQ(outcome.settings.block_rows, 0) << "with a batch of 128 it gives nothing";
  EXPECT_EQ(outcome.settings.task_bytes, 131072);
  EXPECT_EQ(outcome.settings.kv_type, "auto");
  ASSERT_EQ(outcome.before_after.size(), 2U);
  EXPECT_EQ(outcome.before_after[1].beside.difference, Difference::higher);
  // A request of 512 tokens and 128: seconds add up.
  const double before = 640.0 / (512.0 / 100.0 + 128.0 / 10.0);
  EXPECT_NEAR(outcome.before_after[0].rate.median, before, 0.01 * before);
}

TEST(Tune, ChoicesThatAreSlowerTogetherAreNotKept) {
  std::int64_t calls = 0;
  // Task bytes of 32768 decode faster, as long as nobody looks at whole requests.
  const TuneMeasure measure = [&](std::span<const TunedSettings> all, TuneMetric metric) -> Result<std::vector<TuneSample>> {
    ++calls;
    std::vector<TuneSample> samples(all.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bool other = all[i].task_bytes == 32768;
      samples[i].prefill = rounds(100.0);
      samples[i].decode = rounds(metric == TuneMetric::decode ? (other ? 20.0 : 10.0) : (other ? 5.0 : 10.0));
    }
    return samples;
  };
  const auto outcome = tune(tune_stages(space_of("pack:1 core:1 pu:1", 1)), {}, measure, {});
  ASSERT_TRUE(outcome);
  EXPECT_EQ(choice_of(*outcome, "task_bytes").value, "32768");
  ASSERT_EQ(outcome->before_after.size(), 2U);
  EXPECT_EQ(outcome->before_after[1].beside.difference, Difference::lower);
  EXPECT_EQ(outcome->settings, TunedSettings{}) << "the last word";
}

TEST(Tune, KvTypesAreTriedWhereAskedFor) {
  FakeMachine machine;
  machine.decode = [](const TunedSettings& s) { return s.kv_type == "q8_0" ? 12.0 : s.kv_type == "f16" ? 11.0 : 10.0; };
  TuneSpace space = space_of("pack:1 core:1 pu:1", 1);
  space.kv_types = {"f16", "q8_0"};
  EXPECT_EQ(tuned(space, machine).settings.kv_type, "q8_0");
}

TEST(Tune, CandidatesFollowFromTheMachine) {
  FakeMachine machine;
  // Four cores with two threads each, two packages, memory on both.
  TuneSpace space = space_of("pack:2 [numa(memory=1073741824)] l3:1 core:2 pu:2", 8);
  EXPECT_EQ(space.cores, 4);
  space.numa = true;
  const TuneOutcome large = tuned(space, machine);
  const auto values = [](const TuneChoice& choice) {
    std::vector<std::string> all;
    for (const TuneFigure& figure : choice.figures) all.push_back(figure.value);
    return all;
  };
  EXPECT_EQ(values(choice_of(large, "threads")), (std::vector<std::string>{"8 (all)", "4", "2", "1"}));
  EXPECT_EQ(values(choice_of(large, "affinity")), (std::vector<std::string>{"none", "compact", "spread"}));
  EXPECT_EQ(values(choice_of(large, "numa")), (std::vector<std::string>{"local", "interleave"}));
  EXPECT_EQ(values(choice_of(large, "batch")), (std::vector<std::string>{"512", "256", "128", "64"}));

  const TuneOutcome small = tuned(space_of("pack:1 core:1 pu:1", 1), machine);
  EXPECT_TRUE(choice_of(small, "threads").figures.empty());
  EXPECT_NE(choice_of(small, "threads").reason.find("one processor"), std::string::npos);
  EXPECT_NE(choice_of(small, "affinity").reason.find("compact and spread are the same"), std::string::npos);
  EXPECT_NE(choice_of(small, "numa").reason.find("changes nothing"), std::string::npos);

  space.file = false;
  EXPECT_TRUE(choice_of(tuned(space, machine), "weights").figures.empty());
}

TEST(Tune, TrainingHasItsOwnSettings) {
  TuneSpace space = space_of("pack:1 core:2 pu:1", 2);
  space.training = true;
  const TuneMeasure measure = [](std::span<const TunedSettings> all, TuneMetric metric) -> Result<std::vector<TuneSample>> {
    EXPECT_EQ(metric, TuneMetric::train);
    std::vector<TuneSample> samples(all.size());
    for (std::size_t i = 0; i < all.size(); ++i) samples[i].train = rounds(all[i].block_rows == 512 ? 1200.0 : 1000.0);
    return samples;
  };
  const auto outcome = tune(tune_stages(space), {}, measure, {});
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->choices.size(), 4U);
  EXPECT_EQ(outcome->settings.block_rows, 512);
  ASSERT_EQ(outcome->before_after.size(), 2U);
  EXPECT_NEAR(outcome->before_after[1].rate.median, 1200.0, 12.0);
}

TEST(Tune, WeightsThatLieTheSameEitherWayAreNotChosenAmong) {
  const TuneMeasure measure = [](std::span<const TunedSettings> all, TuneMetric) -> Result<std::vector<TuneSample>> {
    std::vector<TuneSample> samples(all.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      samples[i] = {.prefill = rounds(all[i].weights == "mapped" ? 200.0 : 100.0),
                    .decode = rounds(10.0),
                    .train = {},
                    .weights = "mapped"};
    }
    return samples;
  };
  const auto outcome = tune(tune_stages(space_of("pack:1 core:1 pu:1", 1)), {}, measure, {});
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->settings.weights, "auto");
  EXPECT_NE(choice_of(*outcome, "weights").reason.find("mapped either way"), std::string::npos);
}

TEST(Tune, AnInterruptKeepsFinishedStages) {
  FakeMachine machine;
  machine.decode = [](const TunedSettings& s) { return s.threads == 1 ? 20.0 : 10.0; };
  std::int64_t asked = 0;
  TuneOptions options;
  // Before and after the first stage's measurement it goes on; it stops while the second is measured.
  options.stop = [&] { return ++asked > 3; };
  const TuneOutcome outcome = tuned(space_of("pack:1 l3:1 core:2 pu:1", 2), machine, options);
  EXPECT_TRUE(outcome.stopped);
  ASSERT_EQ(outcome.choices.size(), 1U);
  EXPECT_EQ(outcome.settings.threads, 1);
  EXPECT_EQ(machine.calls, 2);
  EXPECT_TRUE(outcome.before_after.empty());
}

TEST(Tune, AnErrorOfTheMeasurementIsTheOutcome) {
  const TuneMeasure measure = [](std::span<const TunedSettings>, TuneMetric) -> Result<std::vector<TuneSample>> {
    return bad_input("model.gguf: broken");
  };
  const auto outcome = tune(tune_stages(space_of("pack:1 core:2 pu:1", 2)), {}, measure, {});
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().message, "model.gguf: broken");
}

}  // namespace
}  // namespace quern::tools
