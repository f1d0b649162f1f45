#include "train/run_folder.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <vector>

#include "support/tests_paths.hpp"

namespace quern {
namespace {

namespace fs = std::filesystem;

ModelConfig tiny_model() {
  ModelConfig c;
  c.vocab = 7;
  c.context = 4;
  c.layers = 1;
  c.width = 4;
  c.heads = c.kv_heads = 1;
  c.head_dim = 4;
  c.mlp_width = 4;
  return c;
}

class RunFolderTest : public testing::Test {
 protected:
  RunFolder open(RunStart start = RunStart::fresh) {
    auto folder = RunFolder::open(run_, start);
    EXPECT_TRUE(folder.has_value()) << (folder ? "" : folder.error().message);
    if (!folder) std::abort();
    return std::move(*folder);
  }
  void save(RunFolder& folder, std::int64_t step, bool best = false, std::int64_t keep = 2) {
    CheckpointInfo info;
    info.model = tiny_model();
    info.step = step;
    const std::vector<float> weights(static_cast<std::size_t>(layout_.elements), static_cast<float>(step));
    const auto saved = folder.save(info, layout_, {weights, {}, {}}, best, keep);
    ASSERT_TRUE(saved.has_value()) << saved.error().message;
  }
  static std::int64_t step_in(const std::string& path) {
    const auto info = read_checkpoint_info(path);
    EXPECT_TRUE(info.has_value()) << (info ? "" : info.error().message);
    return info ? info->step : -1;
  }
  std::vector<std::int64_t> steps() const { return checkpoint_steps(run_).value(); }
  void expect_refused(RunStart start, const std::string& part) {
    const auto folder = RunFolder::open(run_, start);
    ASSERT_FALSE(folder.has_value()) << part;
    EXPECT_EQ(folder.error().code, ErrorCode::bad_input);
    EXPECT_NE(folder.error().message.find(run_), std::string::npos) << folder.error().message;
    EXPECT_NE(folder.error().message.find(part), std::string::npos) << folder.error().message;
  }
  void touch(const std::string& name) const { root_.write("deep/run/" + name, "rubbish"); }

  TemporaryFolder root_;
  const std::string run_ = (root_ / "deep/run").string();
  const ParameterLayout layout_ = parameter_layout(tiny_model());
};

TEST_F(RunFolderTest, CreatesTheFolderAndNamesItsFiles) {
  const RunFolder folder = open();
  EXPECT_TRUE(fs::is_directory(run_ + "/checkpoints"));
  EXPECT_EQ(folder.config_path(), run_ + "/run.yaml");
  EXPECT_EQ(folder.metrics_path(), run_ + "/metrics.jsonl");
  EXPECT_EQ(checkpoint_path(run_, 250), run_ + "/checkpoints/step-00000250.h5");
  EXPECT_EQ(checkpoint_path(run_, 1234567890123), run_ + "/checkpoints/step-1234567890123.h5");
}

TEST_F(RunFolderTest, SavesLinksAndPrunes) {
  RunFolder folder = open();
  save(folder, 10, true);
  save(folder, 20);
  save(folder, 30);
  save(folder, 40);
  EXPECT_EQ(steps(), (std::vector<std::int64_t>{30, 40}));
  EXPECT_EQ(step_in(last_checkpoint_path(run_)), 40);
  EXPECT_EQ(step_in(best_checkpoint_path(run_)), 10) << "best.h5 must survive the pruning of its numbered file";
  EXPECT_TRUE(fs::equivalent(last_checkpoint_path(run_), checkpoint_path(run_, 40))) << "linked, not copied";
  save(folder, 50, true);
  EXPECT_EQ(step_in(best_checkpoint_path(run_)), 50);
  const auto files = fs::directory_iterator(run_ + "/checkpoints");
  EXPECT_EQ(std::distance(begin(files), end(files)), 4);
}

TEST_F(RunFolderTest, SavingAStepAgainReplacesItEverywhereButInBest) {
  RunFolder folder = open();
  save(folder, 10, true);
  save(folder, 10);
  EXPECT_EQ(steps(), (std::vector<std::int64_t>{10}));
  EXPECT_TRUE(fs::equivalent(last_checkpoint_path(run_), checkpoint_path(run_, 10)));
  EXPECT_FALSE(fs::equivalent(best_checkpoint_path(run_), checkpoint_path(run_, 10)));
  EXPECT_EQ(step_in(best_checkpoint_path(run_)), 10);
}

TEST_F(RunFolderTest, LinkingTwiceLeavesNothingBeside) {
  RunFolder folder = open();
  save(folder, 10);
  ASSERT_TRUE(link_checkpoint(checkpoint_path(run_, 10), last_checkpoint_path(run_)).has_value());
  const auto files = fs::directory_iterator(run_ + "/checkpoints");
  EXPECT_EQ(std::distance(begin(files), end(files)), 2);
  const auto absent = link_checkpoint(checkpoint_path(run_, 11), last_checkpoint_path(run_));
  ASSERT_FALSE(absent.has_value());
  EXPECT_EQ(step_in(last_checkpoint_path(run_)), 10);
}

TEST_F(RunFolderTest, KeepZeroLeavesLastAndBest) {
  RunFolder folder = open();
  save(folder, 1, true, 0);
  save(folder, 2, false, 0);
  EXPECT_TRUE(steps().empty());
  EXPECT_EQ(step_in(find_checkpoint(run_, true).value()), 2);
  EXPECT_EQ(step_in(find_checkpoint(run_, false).value()), 1);
}

TEST_F(RunFolderTest, PruningSortsByNumberNotByName) {
  RunFolder folder = open();
  save(folder, 99999999, false, 5);
  save(folder, 100000000, false, 5);
  ASSERT_TRUE(prune_checkpoints(run_, 1).has_value());
  EXPECT_EQ(steps(), (std::vector<std::int64_t>{100000000}));
}

TEST_F(RunFolderTest, FindsTheBestOrTheNewest) {
  RunFolder folder = open();
  EXPECT_FALSE(find_checkpoint(run_, true).has_value());
  save(folder, 5);
  EXPECT_EQ(step_in(find_checkpoint(run_, false).value()), 5) << "without a best one, the newest";
  save(folder, 6, true);
  save(folder, 7);
  EXPECT_EQ(find_checkpoint(run_, false).value(), best_checkpoint_path(run_));
  EXPECT_EQ(find_checkpoint(run_, true).value(), last_checkpoint_path(run_));
  const std::string file = checkpoint_path(run_, 6);
  EXPECT_EQ(find_checkpoint(file, true).value(), file);
  const auto nothing = find_checkpoint(run_ + "/absent", true);
  ASSERT_FALSE(nothing.has_value());
  EXPECT_NE(nothing.error().message.find("absent"), std::string::npos);
}

// Killed between saving the numbered file and linking it: last.h5 is one behind.
TEST_F(RunFolderTest, NumberedCheckpointNewerThanLastWins) {
  RunFolder folder = open();
  save(folder, 5);
  fs::copy_file(last_checkpoint_path(run_), root_ / "older.h5");
  save(folder, 6);
  fs::rename(root_ / "older.h5", last_checkpoint_path(run_));
  EXPECT_EQ(find_checkpoint(run_, true).value(), checkpoint_path(run_, 6));
  fs::remove(checkpoint_path(run_, 6));
  fs::remove(checkpoint_path(run_, 5));
  EXPECT_EQ(find_checkpoint(run_, true).value(), last_checkpoint_path(run_));
  fs::remove(last_checkpoint_path(run_));
  EXPECT_FALSE(find_checkpoint(run_, true).has_value());
}

TEST_F(RunFolderTest, UnfinishedWritesAndOtherFilesAreNotCheckpoints) {
  { const RunFolder folder = open(); }
  for (const char* name :
       {"step-00000010.h5.99-0.tmp", "last.h5.99.tmp", "best.h5.1-2.tmp", "step-10.h5", "step-0000001x.h5", "step-.h5",
        "step--0000010.h5", "old-step-00000010.h5", "step-00000010.h5.bak", "notes.tmp", "step-99999999999999999999.h5"}) {
    touch(std::string("checkpoints/") + name);
  }
  EXPECT_TRUE(steps().empty());
  EXPECT_FALSE(find_checkpoint(run_, true).has_value());
  EXPECT_FALSE(find_checkpoint(run_, false).has_value());

  RunFolder folder = open();  // no run in it; the unfinished writes go, what is not ours stays
  EXPECT_FALSE(fs::exists(run_ + "/checkpoints/step-00000010.h5.99-0.tmp"));
  EXPECT_FALSE(fs::exists(run_ + "/checkpoints/last.h5.99.tmp"));
  EXPECT_FALSE(fs::exists(run_ + "/checkpoints/best.h5.1-2.tmp"));
  EXPECT_TRUE(fs::exists(run_ + "/checkpoints/notes.tmp"));
  EXPECT_TRUE(fs::exists(run_ + "/checkpoints/step-00000010.h5.bak"));
  save(folder, 3, false, 1);
  save(folder, 4, false, 1);
  EXPECT_TRUE(fs::exists(run_ + "/checkpoints/step-10.h5")) << "pruning touches numbered checkpoints only";
}

TEST_F(RunFolderTest, FreshRefusesAnyExistingRun) {
  for (const char* name : {"run.yaml", "metrics.jsonl", "checkpoints/last.h5", "checkpoints/step-00000001.h5"}) {
    touch(name);
    expect_refused(RunStart::fresh, std::string("found ") + name);
    expect_refused(RunStart::fresh, "--resume");
    EXPECT_TRUE(fs::exists(run_ + "/" + name)) << "a refusal must not remove anything";
    fs::remove(run_ + "/" + name);
  }
  touch("notes.txt");
  open();
}

TEST_F(RunFolderTest, ReplaceRemovesTheRunAndNothingElse) {
  {
    RunFolder folder = open();
    save(folder, 10, true);
  }
  touch("run.yaml");
  touch("metrics.jsonl");
  touch("notes.txt");
  touch("checkpoints/notes.txt");
  open(RunStart::replace);
  EXPECT_FALSE(fs::exists(run_ + "/run.yaml"));
  EXPECT_FALSE(fs::exists(run_ + "/metrics.jsonl"));
  EXPECT_TRUE(steps().empty());
  EXPECT_FALSE(find_checkpoint(run_, false).has_value());
  EXPECT_TRUE(fs::exists(run_ + "/notes.txt"));
  EXPECT_TRUE(fs::exists(run_ + "/checkpoints/notes.txt"));
}

TEST_F(RunFolderTest, ResumeNeedsACheckpoint) {
  expect_refused(RunStart::resume, "nothing to resume");
  EXPECT_FALSE(fs::exists(run_)) << "a refused resume must not create folders";
  {
    RunFolder folder = open();
    touch("metrics.jsonl");
  }
  expect_refused(RunStart::resume, "nothing to resume");
  {
    RunFolder folder = open(RunStart::replace);
    save(folder, 10);
  }
  open(RunStart::resume);
  EXPECT_EQ(step_in(find_checkpoint(run_, true).value()), 10);
}

TEST_F(RunFolderTest, TwoRunsCannotShareAFolder) {
  std::optional<RunFolder> first = open();
  for (const RunStart start : {RunStart::fresh, RunStart::replace}) expect_refused(start, "another process");
  std::optional<RunFolder> moved = std::move(first);
  first.reset();
  expect_refused(RunStart::replace, "another process");
  moved.reset();
  open();
}

TEST_F(RunFolderTest, AFileInTheWayIsAnError) {
  root_.write("deep/run", "a file");
  expect_refused(RunStart::fresh, "found a file");
}

}  // namespace
}  // namespace quern
