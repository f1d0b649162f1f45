// quern data: preparing, reusing, replacing, describing.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "support/small_vocabulary.hpp"
#include "tools/run_quern.hpp"

namespace quern {
namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::string some_text() {
  std::string text;
  for (int i = 0; i < 400; ++i) text += "the cat " + std::to_string(i) + " sat on the mat\n";
  return text;
}

TEST(CliData, PreparesDescribesAndReuses) {
  const TestFolder folder("quern_cli_data");
  const std::string source = folder.write("cats.txt", some_text()), out = folder.file("sub/cats.h5");
  const std::string prepare = "data prepare " + source + " --tokenizer bpe --vocab 300 --out " + out;
  const ProgramResult first = run_quern(prepare);
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_TRUE(contains(first.out, "300 tokens")) << first.out;

  const std::string before = read_text_file(out);
  const ProgramResult second = run_quern(prepare);
  EXPECT_EQ(second.code, 0) << second.err;
  EXPECT_TRUE(contains(second.out, "is up to date")) << second.out;
  EXPECT_EQ(read_text_file(out), before);

  const ProgramResult forced = run_quern(prepare + " --force");
  EXPECT_EQ(forced.code, 0) << forced.err;
  EXPECT_FALSE(contains(forced.out, "is up to date")) << forced.out;

  const ProgramResult info = run_quern("data info " + out + " --json");
  ASSERT_EQ(info.code, 0) << info.err;
  const auto json = nlohmann::json::parse(info.out, nullptr, false);
  ASSERT_TRUE(json.is_object()) << info.out;
  EXPECT_EQ(json["vocab"], 300);
  EXPECT_EQ(json["tokenizer"], "bpe");
  EXPECT_EQ(json["source_bytes"], some_text().size());
  const auto train = json["train"]["text_bytes"].get<std::size_t>();
  EXPECT_EQ(train + json["validation"]["text_bytes"].get<std::size_t>(), some_text().size());
  EXPECT_EQ(train, some_text().size() * 9 / 10);
  EXPECT_TRUE(contains(run_quern("data info " + out).out, "bytes per token"));
}

TEST(CliData, AnotherCorpusIsNotWrittenOver) {
  const TestFolder folder("quern_cli_data_other");
  const std::string source = folder.write("cats.txt", some_text()), out = folder.file("cats.h5");
  const std::string prepare = "data prepare " + source + " --out " + out;
  ASSERT_EQ(run_quern(prepare + " --tokenizer char").code, 0);
  const std::string before = read_text_file(out);
  const auto refused = [&](const std::string& arguments, const std::string& part) {
    const ProgramResult result = run_quern(arguments);
    EXPECT_EQ(result.code, 2) << arguments;
    EXPECT_TRUE(contains(result.err, part)) << result.err;
    EXPECT_TRUE(contains(result.err, "--force replaces it")) << result.err;
    EXPECT_EQ(read_text_file(out), before);
  };
  refused(prepare + " --tokenizer byte", "its tokenizer is char");
  refused(prepare + " --tokenizer char --split 0.8", "asked for a split of 0.8");
  EXPECT_EQ(folder.write("cats.txt", some_text() + "and one more\n"), source);
  refused(prepare + " --tokenizer char", "made from other text");

  EXPECT_EQ(run_quern(prepare + " --tokenizer char --force").code, 0);
  EXPECT_NE(read_text_file(out), before);

  const std::string letter = folder.write("letter.h5", "Dear Sir");
  const ProgramResult result = run_quern("data prepare " + source + " --out " + letter);
  EXPECT_EQ(result.code, 2);
  EXPECT_TRUE(contains(result.err, "exists and is no corpus")) << result.err;
  EXPECT_EQ(read_text_file(letter), "Dear Sir");
}

TEST(CliData, SplitsOfSeveralDocumentsAreCompared) {
  const TestFolder folder("quern_cli_data_documents");
  std::string lines;
  for (int i = 0; i < 20; ++i) lines += "{\"text\": \"document " + std::to_string(i) + "\", \"story\": \"other\"}\n";
  const std::string source = folder.write("docs.jsonl", lines), out = folder.file("docs.h5");
  const std::string prepare = "data prepare " + source + " --tokenizer byte --out " + out;
  ASSERT_EQ(run_quern(prepare + " --split 0.75").code, 0);
  EXPECT_TRUE(contains(run_quern(prepare + " --split 0.75").out, "is up to date"));
  EXPECT_TRUE(contains(run_quern(prepare + " --split 0.7").err, "asked for a split of 0.7"));
  EXPECT_TRUE(contains(run_quern(prepare + " --split 0.75 --field story").err, "made from other text"));
}

TEST(CliData, BadInputExitsWithTwo) {
  const TestFolder folder("quern_cli_data_bad");
  const std::string out = folder.file("x.h5");
  const auto expect = [&](const std::string& arguments, const std::string& part) {
    const ProgramResult result = run_quern(arguments);
    EXPECT_EQ(result.code, 2) << arguments << ": " << result.err;
    EXPECT_EQ(result.err.rfind("quern: ", 0), 0U) << result.err;
    EXPECT_TRUE(contains(result.err, part)) << result.err;
    EXPECT_FALSE(std::filesystem::exists(out)) << arguments;
  };
  expect("data prepare " + folder.file("absent.txt") + " --out " + out, "absent.txt");
  expect("data prepare " + folder.write("empty.txt", "") + " --out " + out, "empty.txt");
  expect("data prepare " + folder.write("bad.txt", some_text() + "\xFF") + " --tokenizer char --out " + out, "UTF-8");
  expect("data prepare " + folder.write("t.txt", some_text()) + " --vocab 5 --out " + out, "vocab");
  expect("data prepare " + folder.file("t.txt") + " --split 1.5 --out " + out, "split");
  expect("data info " + folder.file("absent.h5"), "no such file");
  expect("data info " + folder.file("t.txt"), "t.txt");
  expect("data info " + folder.file(""), "a folder, expected a corpus file");
  expect("data tokenizer " + folder.file("t.txt") + " --out " + out, "t.txt");
}

TEST(CliData, TakesTheTokenizerOfAFile) {
  const TestFolder folder("quern_cli_data_ready");
  const std::string source = folder.write("cats.txt", "the cat </s> sat on the mat\n" + some_text());
  const std::string json = folder.write("tokenizer.json", small_sentencepiece_json()), out = folder.file("cats.h5");
  const std::string prepare = "data prepare " + source + " --out " + out + " --tokenizer ";
  const ProgramResult made = run_quern(prepare + json);
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_TRUE(contains(made.out, "sentencepiece")) << made.out;
  EXPECT_TRUE(contains(run_quern(prepare + json).out, "is up to date"));
  // A corpus hands its tokenizer on, and what was prepared with it is the same.
  EXPECT_TRUE(contains(run_quern(prepare + out).out, "is up to date"));
  const ProgramResult other = run_quern(prepare + "byte");
  EXPECT_EQ(other.code, 2);
  EXPECT_TRUE(contains(other.err, "its tokenizer is sentencepiece, asked for bytes")) << other.err;

  for (const auto& [word, part] :
       {std::pair{std::string("bep"), "expected char, byte, bpe or a file that has one: bep: no such file"},
        {source, "cats.txt: expected a GGUF model"},
        {json + " --vocab 300", "--vocab: "}}) {
    const ProgramResult wrong = run_quern(prepare + word);
    EXPECT_EQ(wrong.code, 2) << wrong.out;
    EXPECT_TRUE(contains(wrong.err, part)) << wrong.err;
  }
}

TEST(CliData, DoesNotWriteOverTheFileOfTheTokenizer) {
  const TestFolder folder("quern_cli_data_over");
  const std::string source = folder.write("cats.txt", some_text()), corpus = folder.file("cats.h5");
  ASSERT_EQ(run_quern("data prepare " + source + " --vocab 280 --out " + corpus).code, 0);
  const std::string json = folder.file("tokenizer.json");
  ASSERT_EQ(run_quern("data tokenizer " + corpus + " --out " + json).code, 0);
  const std::string before = read_text_file(json);
  const ProgramResult over = run_quern("data prepare " + source + " --tokenizer " + json + " --force --out " + json);
  EXPECT_EQ(over.code, 2);
  EXPECT_TRUE(contains(over.err, "is both the file of the tokenizer and the corpus to write")) << over.err;
  EXPECT_EQ(read_text_file(json), before);
}

TEST(CliData, WritesTheTokenizerForHuggingFace) {
  const TestFolder folder("quern_cli_data_tokenizer");
  const std::string source = folder.write("cats.txt", some_text()), corpus = folder.file("cats.h5");
  ASSERT_EQ(run_quern("data prepare " + source + " --vocab 280 --out " + corpus).code, 0);
  const ProgramResult written = run_quern("data tokenizer " + corpus + " --out " + folder.file("tokenizer.json"));
  EXPECT_EQ(written.code, 0) << written.err;
  const auto json = nlohmann::json::parse(read_text_file(folder.file("tokenizer.json")), nullptr, false);
  ASSERT_TRUE(json.is_object());
  EXPECT_EQ(json["model"]["type"], "BPE");
  EXPECT_GE(json["model"]["vocab"].size(), 279U);
}

}  // namespace
}  // namespace quern
