// Encoding and decoding with published vocabularies, in bytes of text per second on one core.
//
//     QUERN_MODEL=model.gguf QUERN_TEXT=book.txt tokenizer_bench
//
// Without QUERN_MODEL a byte-level vocabulary of single bytes stands in, which shows the cost of cutting a text into words;
// without QUERN_TEXT the text is a sentence repeated. Both to 4 MB.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "model/gguf_file.hpp"
#include "model/tokenizer.hpp"

namespace quern {
namespace {

constexpr std::size_t kBytes = 4'000'000;

std::string read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

Result<Tokenizer> tokenizer() {
  const char* path = std::getenv("QUERN_MODEL");
  if (path == nullptr) return Tokenizer::from_huggingface_json(Tokenizer::bytes(true).to_huggingface_json(), "bytes");
  if (!std::string_view(path).ends_with(".gguf")) return Tokenizer::from_huggingface_json(read_file(path), path);
  const auto file = GgufFile::open(path);
  if (!file) return tl::make_unexpected(file.error());
  return Tokenizer::from_gguf(*file);
}

std::string natural_text() {
  const char* path = std::getenv("QUERN_TEXT");
  std::string text = path != nullptr ? read_file(path) : "It was 1859, and the river's banks (wide, green) lay still.\n\n";
  const std::string once = text;
  while (!once.empty() && text.size() < kBytes) text += once;
  text.resize(kBytes);
  return text;
}

void run(benchmark::State& state, const std::string& text) {
  const auto made = tokenizer();
  if (!made) {
    state.SkipWithError(made.error().message.c_str());
    return;
  }
  std::size_t tokens = 0;
  for (auto _ : state) {
    const auto ids = made->encode(text, {.parse_special = true});
    tokens = ids ? ids->size() : 0;
    benchmark::DoNotOptimize(tokens);
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(text.size()));
  state.counters["tokens"] = static_cast<double>(tokens);
}

void natural(benchmark::State& state) { run(state, natural_text()); }
void one_word(benchmark::State& state) { run(state, std::string(kBytes, 'a')); }
void spaces(benchmark::State& state) { run(state, std::string(kBytes, ' ')); }
void invalid_utf8(benchmark::State& state) { run(state, std::string(kBytes, '\xFF')); }

void decode(benchmark::State& state) {
  const auto made = tokenizer();
  const std::string text = natural_text();
  const auto ids = made ? made->encode(text) : Result<std::vector<std::int32_t>>(tl::make_unexpected(made.error()));
  if (!ids) {
    state.SkipWithError(ids.error().message.c_str());
    return;
  }
  for (auto _ : state) benchmark::DoNotOptimize(made->decode(*ids));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(text.size()));
}

void load(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer());
}

BENCHMARK(natural)->Unit(benchmark::kMillisecond);
BENCHMARK(one_word)->Unit(benchmark::kMillisecond);
BENCHMARK(spaces)->Unit(benchmark::kMillisecond);
BENCHMARK(invalid_utf8)->Unit(benchmark::kMillisecond);
BENCHMARK(decode)->Unit(benchmark::kMillisecond);
BENCHMARK(load)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace quern
