#include "infer/interleaved_weights.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string_view>

#include "math/aligned_buffer.hpp"
#include "math/block_formats.hpp"
#include "model/atomic_file.hpp"

namespace quern {
namespace {

/// The file: a header of one page, then the pieces at their offsets. Numbers are of the machine's order, for the file is
/// this machine's own.
struct FileHeader {
  std::array<char, 8> magic{'q', 'u', 'e', 'r', 'n', 'i', 'l', '1'};
  std::uint64_t key = 0;
  std::uint64_t bytes = 0;  ///< after the header
};
constexpr std::size_t kHeaderBytes = 4096;

/// Bytes interleaved between two looks at options.stop, and held in memory while a file is written.
constexpr std::size_t kBatchBytes = std::size_t{16} << 20;

std::size_t aligned(std::size_t bytes) { return (bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment; }

std::size_t row_bytes(const Weight& w) { return bytes_of(w.type, w.cols).value_or(0); }

/// Interleaves rows first .. first + rows - 1 of `w` to `out`, where the whole of it goes.
void interleave(const Backend& backend, ThreadTeam& team, const Weight& w, std::int64_t first, std::int64_t rows,
                std::byte* out) {
  team.run([&](TeamMember& member) {
    member.for_each(rows / kWeightRowUnit, [&](std::int64_t unit) {
      interleave_weight_part(backend, w, first + unit * kWeightRowUnit, kWeightRowUnit, out);
    });
  });
}

void view(Weight& w, const std::byte* data) {
  w.layout = WeightLayout::interleaved;
  w.forward = data;
  w.backward = nullptr;
}

/// Goes through all pieces, a batch of rows at a time: work(piece, first row, rows).
template <class Work>
Result<void> for_batches(const std::vector<InterleavedPiece>& pieces, const PlacementOptions& options,
                         std::string_view stage, Work&& work) {
  const std::size_t total = interleaved_bytes(pieces);
  std::size_t done = 0;
  for (const InterleavedPiece& piece : pieces) {
    const Weight& w = *piece.weight;
    const std::size_t bytes = row_bytes(w);
    const std::int64_t batch =
        std::max<std::int64_t>(1, static_cast<std::int64_t>(kBatchBytes / (bytes * kWeightRowUnit))) * kWeightRowUnit;
    for (std::int64_t row = 0; row < w.rows; row += batch) {
      if (options.stop && options.stop()) return io_error("interrupted while weights were interleaved");
      const std::int64_t rows = std::min(batch, w.rows - row);
      if (auto did = work(piece, row, rows); !did) return did;
      done += static_cast<std::size_t>(rows) * bytes;
      if (options.progress) options.progress(stage, std::min(done, total), total);
    }
  }
  return {};
}

}  // namespace

std::vector<InterleavedPiece> interleaved_pieces(const Backend& backend, ModelWeights& weights) {
  std::vector<InterleavedPiece> pieces;
  std::size_t end = 0;
  const auto add = [&](Weight& w, std::int64_t experts) {
    if (w.forward == nullptr || w.forward == weights.embedding_table.forward || !can_interleave(backend, w)) return;
    if (experts > 1 && w.rows / experts % kWeightRowUnit != 0) return;
    const std::size_t bytes = row_bytes(w) * static_cast<std::size_t>(w.rows);
    pieces.push_back({.weight = &w, .offset = end, .bytes = bytes});
    end += aligned(bytes);
  };
  const auto add_all = [&](StackedWeight& stack, std::int64_t experts) {
    for (int i = 0; i < stack.count; ++i) add(stack.parts[static_cast<std::size_t>(i)], experts);
  };
  for (LayerWeights& layer : weights.layers) {
    add_all(layer.qkv, 1);
    add(layer.attention_out, 1);
    add_all(layer.mlp_in, 1);
    add(layer.mlp_out, 1);
    add_all(layer.expert_in, weights.config.experts);
    add(layer.expert_out, weights.config.experts);
  }
  add(weights.head, 1);
  return pieces;
}

std::size_t interleaved_bytes(const std::vector<InterleavedPiece>& pieces) {
  return pieces.empty() ? 0 : pieces.back().offset + aligned(pieces.back().bytes);
}

Result<InterleavedWeights> InterleavedWeights::in_memory(const Backend& backend, ThreadTeam& team,
                                                         const std::vector<InterleavedPiece>& pieces,
                                                         const PlacementOptions& options, const Release& release) {
  InterleavedWeights out;
  const std::size_t total = interleaved_bytes(pieces);
  if (total == 0) return out;
  out.memory_ = PageBlock(total, options.huge_pages);
  if (out.memory_.data() == nullptr) return no_memory(fmt::format("the system refuses {} bytes for weights", total));
  auto done = for_batches(pieces, options, "interleaving weights",
                          [&](const InterleavedPiece& piece, std::int64_t row, std::int64_t rows) -> Result<void> {
                            Weight& w = *piece.weight;
                            std::byte* const to = out.memory_.data() + piece.offset;
                            interleave(backend, team, w, row, rows, to);
                            if (row + rows < w.rows) return {};
                            if (release) release(w);
                            view(w, to);
                            return {};
                          });
  if (!done) return tl::make_unexpected(done.error());
  return out;
}

void InterleavedWeights::in_place(const Backend& backend, ThreadTeam& team, const std::vector<InterleavedPiece>& pieces) {
  for (const InterleavedPiece& piece : pieces) {
    Weight& w = *piece.weight;
    const std::size_t unit_bytes = row_bytes(w) * static_cast<std::size_t>(kWeightRowUnit);
    std::vector<std::vector<std::byte>> copies(static_cast<std::size_t>(team.size()), std::vector<std::byte>(unit_bytes));
    auto* const data = static_cast<std::byte*>(const_cast<void*>(w.forward));
    team.run([&](TeamMember& member) {
      Weight unit = w;
      unit.rows = kWeightRowUnit;
      std::vector<std::byte>& copy = copies[static_cast<std::size_t>(member.index())];
      unit.forward = copy.data();
      member.for_each(w.rows / kWeightRowUnit, [&](std::int64_t i) {
        std::byte* const at = data + static_cast<std::size_t>(i) * unit_bytes;
        std::memcpy(copy.data(), at, unit_bytes);
        interleave_weight_part(backend, unit, 0, kWeightRowUnit, at);
      });
    });
    view(w, data);
  }
}

Result<void> InterleavedWeights::write_file(const std::string& path, std::uint64_t key, const Backend& backend,
                                            ThreadTeam& team, const std::vector<InterleavedPiece>& pieces,
                                            const PlacementOptions& options, const Release& release) {
  auto file = AtomicFile::create(path);
  if (!file) return tl::make_unexpected(file.error());
  const FileHeader header{.key = key, .bytes = interleaved_bytes(pieces)};
  std::string page(kHeaderBytes, '\0');
  std::memcpy(page.data(), &header, sizeof header);
  if (auto wrote = file->write(page); !wrote) return wrote;
  std::string batch;
  auto done = for_batches(pieces, options, "writing " + path,
                          [&](const InterleavedPiece& piece, std::int64_t row, std::int64_t rows) -> Result<void> {
                            const std::size_t bytes = row_bytes(*piece.weight);
                            Weight part = *piece.weight;
                            part.forward =
                                static_cast<const std::byte*>(part.forward) + static_cast<std::size_t>(row) * bytes;
                            part.rows = rows;
                            batch.resize(static_cast<std::size_t>(rows) * bytes);
                            interleave(backend, team, part, 0, rows, reinterpret_cast<std::byte*>(batch.data()));
                            const bool last = row + rows == piece.weight->rows;
                            if (last) batch.resize(batch.size() + aligned(piece.bytes) - piece.bytes, '\0');
                            if (auto wrote = file->write(batch); !wrote) return wrote;
                            if (last && release) release(*piece.weight);
                            return {};
                          });
  if (!done) return done;
  return file->commit();
}

Result<InterleavedWeights> InterleavedWeights::from_file(const std::string& path, std::uint64_t key,
                                                         const std::vector<InterleavedPiece>& pieces) {
  auto file = internal::MappedFile::open(path);
  if (!file) return tl::make_unexpected(file.error());
  const std::span<const std::byte> bytes = file->bytes();
  const FileHeader wanted{.key = key, .bytes = interleaved_bytes(pieces)};
  FileHeader found;
  if (bytes.size() >= sizeof found) std::memcpy(&found, bytes.data(), sizeof found);
  if (bytes.size() != kHeaderBytes + wanted.bytes || found.magic != wanted.magic || found.key != key ||
      found.bytes != wanted.bytes) {
    return bad_input(
        fmt::format("{}: expected this model's interleaved weights, {} bytes of key {:016x}, found {} of {:016x}", path,
                    kHeaderBytes + wanted.bytes, key, bytes.size(), found.key));
  }
  InterleavedWeights out;
  out.file_ = std::move(*file);
  for (const InterleavedPiece& piece : pieces) view(*piece.weight, bytes.data() + kHeaderBytes + piece.offset);
  return out;
}

std::span<const std::byte> InterleavedWeights::bytes() const {
  if (memory_.data() != nullptr) return {memory_.data(), memory_.bytes()};
  return file_.bytes();
}

std::uint64_t interleaved_key(const Backend& backend, const std::vector<InterleavedPiece>& pieces, std::uint64_t file_bytes,
                              std::int64_t file_time) {
  std::vector<std::uint64_t> said{static_cast<std::uint64_t>(backend.kernels->blocks->interleave_rows), file_bytes,
                                  static_cast<std::uint64_t>(file_time)};
  for (const InterleavedPiece& piece : pieces) {
    said.push_back(static_cast<std::uint64_t>(piece.weight->type));
    said.push_back(static_cast<std::uint64_t>(piece.weight->rows));
    said.push_back(static_cast<std::uint64_t>(piece.weight->cols));
    said.push_back(piece.offset);
  }
  return XXH3_64bits(said.data(), said.size() * sizeof said[0]);
}

std::string interleaved_path(const std::string& model, const Backend& backend) {
  return fmt::format("{}.interleaved{}", model, backend.kernels->blocks->interleave_rows);
}

}  // namespace quern
