// Tokenizers through GGUF files, for tests.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <string>

#include "model/gguf_file.hpp"
#include "model/gguf_writer.hpp"
#include "model/tokenizer.hpp"
#include "model/tokenizer_files.hpp"

namespace quern {

/// A GGUF file at `path` with the tokenizer and one small tensor.
inline Result<void> write_vocabulary(const std::string& path, const Tokenizer& tokenizer, std::int64_t vocab) {
  auto writer = GgufWriter::create(path);
  if (!writer) return tl::make_unexpected(writer.error());
  writer->add_string("general.architecture", "llama");
  if (auto done = add_tokenizer(*writer, tokenizer, vocab); !done) return done;
  writer->declare_tensor("dummy", ElementType::f32, std::array<std::int64_t, 1>{1});
  if (auto done = writer->begin_data(); !done) return done;
  const std::array<std::byte, 4> zero{};
  if (auto done = writer->write(zero); !done) return done;
  return writer->finish();
}

/// The tokenizer, written to a GGUF file of the test's own and read again.
inline Result<Tokenizer> through_gguf(const Tokenizer& tokenizer, std::int64_t vocab) {
  const testing::TestInfo* test = testing::UnitTest::GetInstance()->current_test_info();
  std::string name = std::string(test->test_suite_name()) + "_" + test->name() + ".gguf";
  for (char& c : name) c = c == '/' ? '_' : c;
  const std::string path = testing::TempDir() + name;
  if (auto done = write_vocabulary(path, tokenizer, vocab); !done) return tl::make_unexpected(done.error());
  Result<Tokenizer> made = bad_input("");
  {
    const auto file = GgufFile::open(path);
    made = file ? Tokenizer::from_gguf(*file) : tl::make_unexpected(file.error());
  }
  std::filesystem::remove(path);
  return made;
}

}  // namespace quern
