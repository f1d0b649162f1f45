// llama2.c's checkpoints (github.com/karpathy/llama2.c, export.py) as ModelStreams.
//
// Version 0: seven i32 (dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size - negative where the head is a matrix of
// its own -, max_seq_len), then f32: embedding; for all layers each of attention norms, wq, wk, wv, wo, feed-forward norms,
// w1, w2, w3; the final norm; cosines and sines of RoPE [max_seq_len, head / 2] each; the head where it is its own.
// Version 1: "ak42", i32 1, the seven i32 with a positive vocabulary, u8 whether the head is shared, zeros up to 256 bytes;
// then f32: attention norms, feed-forward norms, final norm, embedding, wq, wk, wv, wo, w1, w2, w3, head. Queries and keys
// are rotated in adjacent pairs.
#include <fmt/format.h>

#include <array>
#include <cstring>
#include <filesystem>

#include "model/gguf_mapping.hpp"
#include "model/model_stream.hpp"
#include "model/tokenizer_files.hpp"

namespace quern {

namespace {

constexpr std::uint32_t kVersionedMagic = 0x616b3432;
constexpr std::size_t kVersionedHeaderBytes = 256;
constexpr std::int64_t kMaxSize = std::int64_t{1} << 24;

struct Header {
  int version = 0;
  std::int64_t width = 0, mlp_width = 0, layers = 0, heads = 0, kv_heads = 0, vocab = 0, context = 0;
  bool shared_head = true;
  std::size_t bytes = 0;  // of the header
};

std::int64_t i32_at(std::span<const std::byte> bytes, std::size_t at) {
  std::int32_t value = 0;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

Result<Header> read_header(std::span<const std::byte> bytes, const std::string& path) {
  Header h;
  const auto short_file = [&] {
    return bad_input(fmt::format("{}: a llama2.c checkpoint has a header of {} bytes, found {}", path,
                                 h.version == 0 ? 28 : static_cast<int>(kVersionedHeaderBytes), bytes.size()));
  };
  if (bytes.size() < 28) return short_file();
  std::size_t at = 0;
  if (static_cast<std::uint32_t>(i32_at(bytes, 0)) == kVersionedMagic) {
    h.version = static_cast<int>(i32_at(bytes, 4));
    if (h.version != 1) {
      return bad_input(fmt::format("{}: llama2.c's export version must be 0 or 1 (both f32), found {}", path, h.version));
    }
    if (bytes.size() < kVersionedHeaderBytes) return short_file();
    at = 8;
  }
  std::array<std::int64_t, 7> n{};
  for (std::size_t i = 0; i < n.size(); ++i) n[i] = i32_at(bytes, at + 4 * i);
  h.width = n[0], h.mlp_width = n[1], h.layers = n[2], h.heads = n[3], h.kv_heads = n[4], h.context = n[6];
  if (h.version == 0) {
    h.shared_head = n[5] > 0;
    h.vocab = n[5] < 0 ? -n[5] : n[5];
    h.bytes = 28;
  } else {
    h.vocab = n[5];
    h.shared_head = bytes[at + 28] != std::byte{0};
    h.bytes = kVersionedHeaderBytes;
  }
  const std::array<std::pair<const char*, std::int64_t>, 7> sizes = {{{"dim", h.width},
                                                                      {"hidden_dim", h.mlp_width},
                                                                      {"n_layers", h.layers},
                                                                      {"n_heads", h.heads},
                                                                      {"n_kv_heads", h.kv_heads},
                                                                      {"vocab_size", h.vocab},
                                                                      {"max_seq_len", h.context}}};
  for (const auto& [name, value] : sizes) {
    const std::int64_t most = std::string_view(name) == "n_layers" ? 512 : kMaxSize;
    if (value < 1 || value > most) {
      return bad_input(fmt::format("{}: not a llama2.c checkpoint: {} must be 1 to {}, found {}", path, name, most, value));
    }
  }
  if (h.width % h.heads != 0 || h.heads % h.kv_heads != 0 || (h.width / h.heads) % 2 != 0) {
    return bad_input(fmt::format(
        "{}: not a llama2.c checkpoint: {} heads must divide dim {} into even heads, and {} n_kv_heads divide them", path,
        h.heads, h.width, h.kv_heads));
  }
  return h;
}

/// Where each stream tensor's floats stand in the file.
class Positions {
 public:
  Positions(const Header& h, const ModelConfig& c) : h_(h), c_(c), next_(static_cast<std::int64_t>(h.bytes)) {
    const auto all = [&](const char* name, std::int64_t each) { take(name, each, h.layers); };
    const std::int64_t q = c.query_width() * c.width;
    const std::int64_t kv = c.kv_width() * c.width;
    const std::int64_t mlp = c.mlp_width * c.width;
    if (h.version == 0) {
      take("token_embd.weight", c.vocab * c.width, 1);
      all("attn_norm.weight", c.width);
    } else {
      all("attn_norm.weight", c.width);
      all("ffn_norm.weight", c.width);
      take("output_norm.weight", c.width, 1);
      take("token_embd.weight", c.vocab * c.width, 1);
    }
    all("attn_q.weight", q);
    all("attn_k.weight", kv);
    all("attn_v.weight", kv);
    all("attn_output.weight", q);
    if (h.version == 0) all("ffn_norm.weight", c.width);
    all("ffn_gate.weight", mlp);
    all("ffn_down.weight", mlp);
    all("ffn_up.weight", mlp);
    if (h.version == 0) {
      take("output_norm.weight", c.width, 1);
      next_ += 2 * c.context * (c.head_dim / 2) * 4;  // RoPE's table
    }
    if (!h.shared_head) take("output.weight", c.vocab * c.width, 1);
  }
  [[nodiscard]] std::int64_t file_bytes() const { return next_; }
  /// Byte offset of a tensor by the stream's name.
  [[nodiscard]] std::int64_t offset(const std::string& name) const {
    std::string base = name;
    std::int64_t layer = 0;
    if (name.starts_with("blk.")) {
      const std::size_t dot = name.find('.', 4);
      layer = std::stoll(name.substr(4, dot - 4));
      base = name.substr(dot + 1);
    }
    for (const Run& run : runs_) {
      if (run.name == base) return run.first + layer * run.each;
    }
    return -1;
  }

 private:
  struct Run {
    std::string name;
    std::int64_t first = 0, each = 0;
  };
  void take(const char* name, std::int64_t elements, std::int64_t times) {
    runs_.push_back({name, next_, elements * 4});
    next_ += elements * 4 * times;
  }
  const Header& h_;
  const ModelConfig& c_;
  std::int64_t next_;
  std::vector<Run> runs_;
};

/// tokenizer.bin, or tokN.bin for vocabularies of other sizes, beside the checkpoint.
Result<std::string> tokenizer_beside(const std::string& path, std::int64_t vocab) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::error_code code;
  const std::string sized = fmt::format("tok{}.bin", vocab);
  for (const std::string& name : {sized, std::string("tokenizer.bin")}) {
    if (std::filesystem::exists(folder / name, code)) return (folder / name).string();
  }
  return bad_input(fmt::format("{}: expected its vocabulary beside it, in {} or tokenizer.bin, found neither", path, sized));
}

}  // namespace

Result<ModelStream> stream_llama2c(const std::string& path, const std::string& tokenizer_path) {
  auto mapped = internal::MappedFile::open(path);
  if (!mapped) return tl::make_unexpected(mapped.error());
  const auto file = std::make_shared<const internal::MappedFile>(std::move(*mapped));
  const auto header = read_header(file->bytes(), path);
  if (!header) return tl::make_unexpected(header.error());

  ModelConfig c;
  c.vocab = header->vocab;
  c.context = header->context;
  c.layers = header->layers;
  c.width = header->width;
  c.heads = header->heads;
  c.kv_heads = header->kv_heads;
  c.head_dim = header->width / header->heads;
  c.mlp_width = header->mlp_width;
  c.rope_pairing = RopePairing::adjacent;
  c.tied_embeddings = header->shared_head;
  if (auto valid = validate(c); !valid) return bad_input(path + ": " + valid.error().message);

  // Sizes are at most 2^24 and layers 2^9: seven runs of at most 2^59 bytes do not overflow.
  const Positions positions(*header, c);
  if (std::ssize(file->bytes()) != positions.file_bytes()) {
    return bad_input(fmt::format("{}: a llama2.c checkpoint of this header has {} bytes, found {}", path,
                                 positions.file_bytes(), file->bytes().size()));
  }

  ModelStream stream;
  stream.config = c;
  stream.facts.source_format = "llama2.c";
  stream.facts.architecture = "llama";
  stream.source = file;
  for (const StreamTensorSpec& spec : stream_tensors(c)) {
    StreamTensor tensor;
    tensor.name = spec.name;
    tensor.shape = spec.shape;
    tensor.origin = fmt::format("{}: {}", path, spec.name);
    const std::byte* data = file->bytes().data() + positions.offset(spec.name);
    tensor.read = [file, data, row_bytes = tensor.row_bytes()](std::int64_t first, std::int64_t,
                                                               std::span<std::byte> out) -> Result<void> {
      std::memcpy(out.data(), data + static_cast<std::size_t>(first) * row_bytes, out.size());
      return {};
    };
    tensor.release = [file, data, bytes = static_cast<std::size_t>(tensor.elements()) * 4] { file->release({data, bytes}); };
    stream.tensors.push_back(std::move(tensor));
  }
  const auto vocabulary = tokenizer_path.empty() ? tokenizer_beside(path, c.vocab) : Result<std::string>(tokenizer_path);
  if (!vocabulary) return tl::make_unexpected(vocabulary.error());
  auto tokenizer = load_llama2c_tokenizer(*vocabulary, c.vocab);
  if (!tokenizer) return tl::make_unexpected(tokenizer.error());
  stream.tokenizer = std::move(*tokenizer);
  return stream;
}

}  // namespace quern
