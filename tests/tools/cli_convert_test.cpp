// quern convert as a user meets it.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tools/tiny_run.hpp"

namespace quern {
namespace {

class CliConvert : public WithTinyRun {
 protected:
  static std::string out(const std::string& name) { return folder().file(name); }
  static ProgramResult convert(const std::string& arguments) { return run_quern("convert " + arguments); }
  static std::string greedy(const std::string& command) {
    const ProgramResult result = run_quern(command);
    EXPECT_EQ(result.code, 0) << command << "\n" << result.err;
    return result.out;
  }
};

TEST_F(CliConvert, ARunGoesEverywhereAndComesBack) {
  const std::string run = folder().file("run");
  const ProgramResult gguf = convert(run + " " + out("a.gguf") + " --checksums");
  ASSERT_EQ(gguf.code, 0) << gguf.err;
  EXPECT_TRUE(contains(gguf.out, "(GGUF, llama)")) << gguf.out;
  const ProgramResult verified = run_quern("inspect --verify " + out("a.gguf"));
  EXPECT_EQ(verified.code, 0) << verified.out << verified.err;
  ASSERT_EQ(convert(run + " " + out("a_q8.gguf") + " --type q8_0").code, 0);
  const ProgramResult kept = convert(out("a_q8.gguf") + " " + out("a_f32.gguf") + " --type f32 --dry-run");
  EXPECT_TRUE(contains(kept.out, "are quantized already and stay as they are (`quern quantize IN OUT F32`")) << kept.out;
  ASSERT_EQ(convert(out("a.gguf") + " " + out("a.h5")).code, 0);
  ASSERT_EQ(convert(out("a.h5") + " " + out("folder")).code, 0);
  ASSERT_EQ(convert(out("folder") + " " + out("b.h5")).code, 0);
  EXPECT_TRUE(std::filesystem::exists(out("folder/model.safetensors")));
  EXPECT_TRUE(std::filesystem::exists(out("folder/tokenizer.json")));

  const std::string how = " -p 'the cat ' --temperature 0 --precision f32";
  const std::string expected = greedy("sample " + run + how + " --tokens 30");
  EXPECT_EQ(greedy("sample " + out("a.h5") + how + " --tokens 30"), expected);
  EXPECT_EQ(greedy("sample " + out("b.h5") + how + " --tokens 30"), expected);
  EXPECT_EQ("the cat " + greedy("run " + out("a.gguf") + how + " -n 30"), expected);
}

TEST_F(CliConvert, DryRunWritesNothing) {
  const ProgramResult text = convert(folder().file("run") + " " + out("dry.gguf") + " --type f16 --dry-run");
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_TRUE(contains(text.out, "F16")) << text.out;
  EXPECT_FALSE(std::filesystem::exists(out("dry.gguf")));
  const ProgramResult json = convert(folder().file("run") + " " + out("dry_folder") + " --dry-run --json");
  ASSERT_EQ(json.code, 0) << json.err;
  const auto parsed = nlohmann::json::parse(json.out);
  EXPECT_EQ(parsed.at("to"), "Hugging Face folder");
  EXPECT_EQ(parsed.at("written"), false);
  EXPECT_GT(parsed.at("tensors").size(), 5U);
  EXPECT_FALSE(std::filesystem::exists(out("dry_folder")));
}

TEST_F(CliConvert, MistakesGetASentence) {
  const std::string run = folder().file("run");
  expect_refused("convert " + folder().file("absent") + " x.gguf", "absent: no such file or folder");
  expect_refused("convert " + folder().file("cats.txt") + " x.gguf", "found a file that begins with 'the cat '");
  expect_refused("convert " + folder().file("cats.h5") + " x.gguf", "cats.h5: expected a checkpoint");
  expect_refused("convert " + run + " " + out("x.onnx"), "x.onnx: cannot tell what to write");
  expect_refused("convert " + run + " " + out("x.gguf") + " --type q4_k",
                 "--type must be f32, f16, bf16 or q8_0, found Q4_K");
  expect_refused("convert " + run + " " + out("x.gguf") + " --type q9", "--type must be f32, f16, bf16 or q8_0, found q9");
  expect_refused("convert " + run + " " + out("x.h5") + " --type f16", "a checkpoint holds f32 only");
  expect_refused("convert " + run + " " + out("x.h5") + " --checksums", "--checksums: only GGUF files");
  expect_refused("convert " + run + " " + out("x.gguf") + " --tokenizer t.bin", "--tokenizer: only llama2.c");
  const std::string there = folder().write("there.gguf", "mine");
  expect_refused("convert " + run + " " + there, "there.gguf: is there already; --force replaces it");
  EXPECT_EQ(std::filesystem::file_size(out("there.gguf")), 4U);
  ASSERT_EQ(convert(run + " " + out("there.gguf") + " --force").code, 0);
  EXPECT_GT(std::filesystem::file_size(out("there.gguf")), 4U);
  expect_refused("convert " + run + " " + run + " --to huggingface --force", "is both what is read and what is to be");
  expect_refused("convert " + run + " " + folder().file(".") + " --force", "a folder is never written over");
  expect_refused("convert " + run + " " + out("there.gguf") + " --to huggingface --force", "expected a folder to write");
  expect_refused("convert " + run + " ''", "the name of the folder to write is empty");
  expect_refused("convert " + out("there.gguf") + " " + out("there.gguf") + " --force",
                 "is both what is read and what is to be");
  expect_refused("convert " + folder().write("bad.gguf", "GGUF") + " " + out("x.gguf"), "bad.gguf: ");
  expect_refused("convert " + folder().write("bad.bin", "abc") + " " + out("x.gguf"), "bad.bin: a llama2.c checkpoint");
  EXPECT_FALSE(std::filesystem::exists(out("x.gguf")));
  EXPECT_FALSE(std::filesystem::exists(out("x.h5")));
}

}  // namespace
}  // namespace quern
