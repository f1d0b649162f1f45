#include "train/prepare.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <set>

#include "model/atomic_file.hpp"
#include "support/shared_data.hpp"
#include "support/small_vocabulary.hpp"
#include "train/corpus.hpp"
#include "train/reuse_corpus.hpp"

namespace quern {
namespace {

namespace fs = std::filesystem;

class PrepareTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) / ("quern_prepare_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string file(const std::string& name, const std::string& text) const {
    fs::create_directories(fs::path(path(name)).parent_path());
    std::ofstream(path(name), std::ios::binary) << text;
    return path(name);
  }
  PrepareOptions options(const std::string& source, TokenizerKind kind) const {
    PrepareOptions made;
    made.source = source;
    made.out = path("out.h5");
    made.tokenizer = kind;
    made.vocab = 300;
    made.threads = 2;
    return made;
  }
  std::string error(const PrepareOptions& made) const {
    const auto report = prepare_corpus(made);
    EXPECT_FALSE(fs::exists(made.out)) << "nothing is written on an error";
    return report ? "no error" : report.error().message;
  }
  fs::path folder_;
};

std::vector<std::int32_t> all_tokens(const Corpus& corpus, Split split) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(corpus.tokens(split)));
  EXPECT_TRUE(corpus.read(split, 0, tokens));
  return tokens;
}

std::string decoded(const Corpus& corpus, Split split) { return corpus.tokenizer().decode(all_tokens(corpus, split)); }

std::string words(std::size_t bytes, unsigned seed) {
  std::mt19937 random(seed);
  const std::vector<std::string> list = {"the", "miller", "grinds", "corn",         "and",
                                         "rye", "by",     "hand",   "l\xC3\xA4uft", "12"};
  std::string text;
  while (text.size() < bytes) {
    text += list[random() % list.size()];
    text += random() % 9 == 0 ? ".\n" : " ";
  }
  return text;
}

TEST_F(PrepareTest, CharactersOfOneFileSplitByBytes) {
  const std::string text = words(5000, 1);
  const auto report = prepare_corpus(options(file("a.txt", text), TokenizerKind::characters));
  ASSERT_TRUE(report) << report.error().message;
  const auto corpus = Corpus::open(path("out.h5"));
  ASSERT_TRUE(corpus) << corpus.error().message;
  EXPECT_EQ(decoded(*corpus, Split::train) + decoded(*corpus, Split::validation), text);
  const std::set<char> bytes(text.begin(), text.end());
  EXPECT_EQ(report->vocab_size, std::ssize(bytes) - 1) << "two bytes make the one letter that is not ASCII";
  EXPECT_EQ(report->documents, 1);
  EXPECT_EQ(report->source_bytes, std::ssize(text));
  EXPECT_EQ(report->train_bytes + report->validation_bytes, std::ssize(text));
  const auto wanted = static_cast<std::int64_t>(0.9 * static_cast<double>(text.size()));
  EXPECT_TRUE(report->train_bytes == wanted || report->train_bytes == wanted - 1);
  EXPECT_EQ(corpus->text_bytes(Split::train), report->train_bytes);
  EXPECT_EQ(corpus->tokens(Split::validation), report->validation_tokens);
  EXPECT_EQ(corpus->documents(Split::train).size(), 1u);
  EXPECT_EQ(corpus->info().source, path("a.txt"));
  EXPECT_EQ(corpus->info().source_xxh3.size(), 16u);
  EXPECT_FALSE(corpus->tokenizer().end_of_text());
}

TEST_F(PrepareTest, TheCutNeverSplitsACharacter) {
  std::string text;
  for (int i = 0; i < 25; ++i) text += "\xE2\x82\xAC\xF0\x9F\x98\x80";  // 3 and 4 bytes
  for (int percent = 10; percent < 95; percent += 7) {
    auto made = options(file("a.txt", text), TokenizerKind::characters);
    made.split = percent / 100.0;
    const auto report = prepare_corpus(made);
    ASSERT_TRUE(report) << report.error().message;
    const auto corpus = Corpus::open(made.out);
    ASSERT_TRUE(corpus);
    EXPECT_EQ(decoded(*corpus, Split::train) + decoded(*corpus, Split::validation), text);
    EXPECT_LE(report->train_bytes, made.split * 175);
    EXPECT_GT(report->train_bytes, made.split * 175 - 4);
  }
}

TEST_F(PrepareTest, TinyShakespeareIsSplitAsNanoGptDoes) {
  const auto found = shared_data("testdata/text/tinyshakespeare.txt");
  if (!found) GTEST_SKIP() << "shared data absent: testdata/text/tinyshakespeare.txt";
  const std::string source = found->string();
  const auto report = prepare_corpus(options(source, TokenizerKind::characters));
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(report->vocab_size, 65);
  EXPECT_EQ(report->train_tokens, 1'003'854);
  EXPECT_EQ(report->validation_tokens, 111'540);
  const auto corpus = Corpus::open(path("out.h5"));
  ASSERT_TRUE(corpus);
  const auto text = read_whole_file(source, 1 << 24);
  ASSERT_TRUE(text);
  EXPECT_EQ(decoded(*corpus, Split::train), text->substr(0, 1'003'854));
  EXPECT_EQ(decoded(*corpus, Split::validation), text->substr(1'003'854));
}

TEST_F(PrepareTest, BpeOfALongFileEqualsEncodingItAtOnce) {
  const std::string text = words(4'700'000, 2);  // more than one of the parts in which files are read
  auto made = options(file("a.txt", text), TokenizerKind::bpe);
  made.sample_bytes = 100'000;
  std::set<std::string> stages;
  made.progress = [&stages](const PrepareProgress& progress) {
    EXPECT_TRUE(progress.total == 0 || progress.done <= progress.total);
    stages.insert(std::string(progress.stage));
  };
  const auto report = prepare_corpus(made);
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(stages, (std::set<std::string>{"reading", "counting words", "encoding"})) << "so few merges end between reports";
  const auto corpus = Corpus::open(made.out);
  ASSERT_TRUE(corpus);
  EXPECT_LE(corpus->tokenizer().vocab_size(), 300);
  EXPECT_GT(corpus->tokenizer().vocab_size(), 270);
  for (const Split split : kSplits) {
    const std::string part = split == Split::train ? text.substr(0, report->train_bytes) : text.substr(report->train_bytes);
    EXPECT_TRUE(all_tokens(*corpus, split) == *corpus->tokenizer().encode(part)) << split_name(split);
    EXPECT_EQ(corpus->text_bytes(split), std::ssize(part));
  }
}

TEST_F(PrepareTest, TheFileDependsOnNoThreadCount) {
  const std::string source = file("a.txt", words(1'500'000, 3));
  std::vector<std::string> files;
  for (const int threads : {1, 2, 3}) {
    auto made = options(source, TokenizerKind::bpe);
    made.threads = threads;
    ASSERT_TRUE(prepare_corpus(made));
    files.push_back(*read_whole_file(made.out, 1 << 24));
  }
  EXPECT_TRUE(files[0] == files[1]);
  EXPECT_TRUE(files[0] == files[2]);
}

TEST_F(PrepareTest, BpeLearnsFromTheTrainingPartOnly) {
  // "zq" fills the validation part and never occurs before it.
  std::string text;
  while (text.size() < 9000) text += "ab ba ";
  while (text.size() < 10'000) text += "zq zq ";
  const auto report = prepare_corpus(options(file("a.txt", text), TokenizerKind::bpe));
  ASSERT_TRUE(report);
  const auto corpus = Corpus::open(path("out.h5"));
  for (std::int32_t id = 256; id < corpus->tokenizer().vocab_size(); ++id) {
    EXPECT_EQ(corpus->tokenizer().token_bytes(id).find("zq"), std::string_view::npos);
  }
}

TEST_F(PrepareTest, AnyBytesGoThroughBytesAndBpe) {
  std::mt19937 random(4);
  std::string text(30'000, ' ');
  for (char& c : text) c = static_cast<char>(random());
  for (const TokenizerKind kind : {TokenizerKind::bytes, TokenizerKind::bpe}) {
    ASSERT_TRUE(prepare_corpus(options(file("a.bin", text), kind)));
    const auto corpus = Corpus::open(path("out.h5"));
    ASSERT_TRUE(corpus);
    EXPECT_EQ(decoded(*corpus, Split::train) + decoded(*corpus, Split::validation), text);
  }
}

TEST_F(PrepareTest, FoldersAreDocumentsInOrder) {
  file("texts/b.txt", "second ");
  file("texts/a.txt", "first ");
  file("texts/sub/c.txt", "third ");
  file("texts/empty.txt", "");
  file("texts/.hidden", "never");
  file("texts/.git/config", "never");
  file("texts/z.txt", "fourth ");
  auto made = options(path("texts"), TokenizerKind::bytes);
  made.split = 0.5;
  const auto report = prepare_corpus(made);
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(report->documents, 4);
  EXPECT_EQ(report->vocab_size, 257);
  const auto corpus = Corpus::open(made.out);
  ASSERT_TRUE(corpus);
  EXPECT_EQ(decoded(*corpus, Split::train), "first <|endoftext|>second <|endoftext|>");
  EXPECT_EQ(decoded(*corpus, Split::validation), "third <|endoftext|>fourth <|endoftext|>");
  const auto starts = corpus->documents(Split::train);
  EXPECT_EQ(std::vector<std::int64_t>(starts.begin(), starts.end()), (std::vector<std::int64_t>{0, 7}));
  EXPECT_EQ(corpus->text_bytes(Split::train), 13) << "separators are not text";
  EXPECT_EQ(corpus->tokens(Split::train), 15);
}

TEST_F(PrepareTest, JsonLinesAreDocuments) {
  const std::string source = file("x.jsonl",
                                  "{\"text\": \"one\\n\\u00fc\", \"id\": 1}\n\n"
                                  "{\"id\": 2, \"text\": \"two\"}\r\n{\"text\": \"\"}\n{\"text\": \"three\"}");
  auto made = options(source, TokenizerKind::characters);
  const auto report = prepare_corpus(made);
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(report->documents, 3);
  const auto corpus = Corpus::open(made.out);
  EXPECT_EQ(decoded(*corpus, Split::train), "one\n\xC3\xBC<|endoftext|>two<|endoftext|>");
  EXPECT_EQ(decoded(*corpus, Split::validation), "three<|endoftext|>");
  made.field = "id";
  made.out = path("other.h5");
  EXPECT_EQ(error(made), source + ":1: key \"id\": expected a string, found number");
  made.field = "body";
  EXPECT_EQ(error(made), source + ":1: key \"body\" is missing");
}

TEST_F(PrepareTest, MalformedJsonLinesNameTheirLine) {
  const auto fault = [this](const std::string& second) {
    return error(options(file("x.jsonl", "{\"text\": \"good\"}\n" + second), TokenizerKind::bytes));
  };
  const std::string line = path("x.jsonl") + ":2: expected a JSON object, found ";
  EXPECT_EQ(fault("{\"text\": \"cut"), line + "a syntax error or invalid UTF-8");
  EXPECT_EQ(fault("{\"text\": \"\xFF\"}\n"), line + "a syntax error or invalid UTF-8");
  EXPECT_EQ(fault(std::string(200'000, '[')), line + "a syntax error or invalid UTF-8");
  EXPECT_EQ(fault("[1]\n"), line + "array");
  EXPECT_EQ(fault("\"text\""), line + "string");
}

TEST_F(PrepareTest, BadTextsAreErrors) {
  EXPECT_EQ(error(options(file("a.txt", ""), TokenizerKind::bytes)), path("a.txt") + ": expected text, found none");
  EXPECT_EQ(error(options(file("a.txt", "abc"), TokenizerKind::bytes)),
            path("a.txt") + ": too short: the validation split would have 1 tokens, at least 2 are needed");
  EXPECT_EQ(error(options(file("a.txt", "a"), TokenizerKind::characters)),
            path("a.txt") + ": too short: the train split would have 0 tokens, at least 2 are needed");
  const std::string text = words(4'300'000, 5);
  EXPECT_EQ(error(options(file("a.txt", text + "\xC3( more"), TokenizerKind::characters)),
            path("a.txt") + ": expected UTF-8, found byte 0xC3 at offset " + std::to_string(text.size()));
  EXPECT_EQ(error(options(path("none.txt"), TokenizerKind::bytes)),
            path("none.txt") + ": expected `kjv`, a text file, a folder or a JSONL file, found nothing there");
  fs::create_directories(path("empty"));
  EXPECT_EQ(error(options(path("empty"), TokenizerKind::bytes)),
            path("empty") + ": expected text files in the folder, found none");
  EXPECT_NE(error(options("/dev/null", TokenizerKind::bytes)).find("expected a regular file"), std::string::npos);
}

TEST_F(PrepareTest, BadOptionsAreErrors) {
  const auto fault = [this](const std::function<void(PrepareOptions&)>& change) {
    auto made = options(file("a.txt", words(1000, 6)), TokenizerKind::bpe);
    change(made);
    const auto report = prepare_corpus(made);
    return report ? "no error" : report.error().message;
  };
  EXPECT_EQ(fault([](PrepareOptions& o) { o.split = 1; }), "split: expected a number above 0 and below 1, found 1");
  EXPECT_NE(fault([](PrepareOptions& o) { o.split = std::nan(""); }), "no error");
  EXPECT_NE(fault([](PrepareOptions& o) { o.vocab = 256; }).find("vocab: expected 257 to"), std::string::npos);
  EXPECT_NE(fault([](PrepareOptions& o) { o.sample_bytes = 0; }), "no error");
  EXPECT_NE(fault([](PrepareOptions& o) { o.out.clear(); }), "no error");
  EXPECT_NE(fault([](PrepareOptions& o) { o.out = o.source; }).find("into its own source"), std::string::npos);
  EXPECT_EQ(*read_whole_file(path("a.txt"), 5000), words(1000, 6)) << "the source is as it was";
  file("texts/a.txt", words(100, 1));
  EXPECT_NE(fault([this](PrepareOptions& o) {
              o.source = path("texts");
              o.out = path("texts/x.h5");
            }).find("into its own source"),
            std::string::npos);
  EXPECT_EQ(fault([this](PrepareOptions& o) { o.out = path("new/folder/x.h5"); }), "no error") << "folders are made";
  EXPECT_NE(fault([this](PrepareOptions& o) { o.out = path("a.txt/x.h5"); }), "no error");
}

TEST_F(PrepareTest, AnErrorLeavesTheOldCorpus) {
  ASSERT_TRUE(prepare_corpus(options(file("a.txt", words(1000, 7)), TokenizerKind::bytes)));
  const std::string before = *read_whole_file(path("out.h5"), 1 << 24);
  EXPECT_FALSE(prepare_corpus(options(file("b.txt", "x"), TokenizerKind::bytes)));
  EXPECT_TRUE(*read_whole_file(path("out.h5"), 1 << 24) == before);
}

// A published vocabulary: its tokens around documents, its ids, and no special tokens from text.
TEST_F(PrepareTest, AReadyTokenizerIsTaken) {
  const Tokenizer tokenizer = Tokenizer::from_huggingface_json(small_sentencepiece_json(), "small").value();
  const std::vector<std::string> texts = {"the cat </s> sat", "the <s>mat", "a cat", "the the"};
  for (std::size_t i = 0; i < texts.size(); ++i) file("docs/" + std::to_string(i), texts[i]);
  PrepareOptions made = options(path("docs"), TokenizerKind::bpe);
  made.ready_tokenizer = tokenizer;
  made.split = 0.5;
  const auto report = prepare_corpus(made);
  ASSERT_TRUE(report) << report.error().message;
  const Corpus corpus = Corpus::open(made.out).value();
  EXPECT_TRUE(corpus.tokenizer() == tokenizer);
  std::size_t document = 0;
  for (const Split split : kSplits) {
    std::vector<std::int32_t> expected;
    for (int i = 0; i < 2; ++i, ++document) {
      expected.push_back(1);
      const auto ids = tokenizer.encode(texts[document]).value();
      EXPECT_EQ(std::count_if(ids.begin(), ids.end(), [](std::int32_t id) { return id < 3; }), 0) << texts[document];
      expected.insert(expected.end(), ids.begin(), ids.end());
      expected.push_back(2);
    }
    EXPECT_EQ(all_tokens(corpus, split), expected);
    EXPECT_EQ(corpus.text_bytes(split), split == Split::train ? 26 : 12);
  }
  EXPECT_EQ(corpus_difference(corpus, made).value(), "");
  made.ready_tokenizer = Tokenizer::bytes(true);
  EXPECT_NE(corpus_difference(corpus, made).value().find("its tokenizer (sentencepiece"), std::string::npos);
  made.out = path("none.h5");
  made.ready_tokenizer = Tokenizer::bytes(false);
  made.ready_tokenizer_name = "model.gguf";
  EXPECT_EQ(error(made),
            "model.gguf: the tokenizer has no end-of-text token to separate the 4 documents of " + path("docs") + " with");
  const std::vector<std::int32_t> letters = {'a', 'b'};
  made.ready_tokenizer = Tokenizer::characters(letters, true).value();
  EXPECT_NE(error(made).find("docs/0: in the text from byte 0 on: the character 't'"), std::string::npos) << error(made);
}

// However a long text is cut for encoding, the tokens are those of the whole: no space is put in front of later pieces.
TEST_F(PrepareTest, ALongTextHasTheTokensOfTheWhole) {
  const Tokenizer tokenizer = Tokenizer::from_huggingface_json(small_sentencepiece_json(), "small").value();
  std::string text;
  std::mt19937 random(7);
  while (text.size() < (5U << 20)) text += random() % 3 == 0 ? "the cat. " : random() % 2 == 0 ? "cat  the\n" : "mat the";
  PrepareOptions made = options(file("long.txt", text), TokenizerKind::bpe);
  made.ready_tokenizer = tokenizer;
  made.split = 0.9;
  ASSERT_TRUE(prepare_corpus(made));
  const Corpus corpus = Corpus::open(made.out).value();
  const auto cut = static_cast<std::size_t>(corpus.text_bytes(Split::train));
  std::vector<std::int32_t> expected = {1};
  ASSERT_TRUE(tokenizer.encode_append(text.substr(0, cut), expected));
  EXPECT_TRUE(all_tokens(corpus, Split::train) == expected);
  EXPECT_TRUE(all_tokens(corpus, Split::validation) == tokenizer.encode(text.substr(cut), {.continues = true}).value())
      << "it goes on in the middle of a document";
}

TEST_F(PrepareTest, KingJames) {
  if (std::system("command -v bible >/dev/null 2>&1") != 0) {
    GTEST_SKIP() << "Debian's package bible-kjv is not installed; the tests above prepare other text";
  }
  auto made = options("kjv", TokenizerKind::bpe);
  made.vocab = 1024;
  const auto report = prepare_corpus(made);
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(report->vocab_size, 1024);
  EXPECT_GT(report->source_bytes, 4'000'000);
  const auto corpus = Corpus::open(made.out);
  ASSERT_TRUE(corpus);
  EXPECT_EQ(corpus->info().source, "kjv");
  EXPECT_EQ(decoded(*corpus, Split::train).substr(0, 37), "Ge1:1 In the beginning God created th");
  EXPECT_TRUE(decoded(*corpus, Split::validation).ends_with("be with you all. Amen.\n"));
}

TEST_F(PrepareTest, WithoutTheBibleProgramItsPackageIsNamed) {
  const std::string before = std::getenv("PATH") != nullptr ? std::getenv("PATH") : "";
  ::setenv("PATH", folder_.c_str(), 1);
  const std::string message = error(options("kjv", TokenizerKind::bytes));
  // A program of that name which prints something else is an error, too.
  file("bible", "#!/bin/sh\necho Ge1:1\n");
  fs::permissions(path("bible"), fs::perms::owner_all);
  const std::string other = error(options("kjv", TokenizerKind::bytes));
  ::setenv("PATH", before.c_str(), 1);
  EXPECT_EQ(message,
            "kjv: the program `bible` is not installed: install Debian's package bible-kjv (apt install bible-kjv)");
  EXPECT_NE(other.find("to print at least 4000000 bytes, found 6 and exit status 0"), std::string::npos) << other;
}

}  // namespace
}  // namespace quern
