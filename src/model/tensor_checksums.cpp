#include "model/tensor_checksums.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <utility>

#include "math/block_formats.hpp"
#include "model/gguf_values.hpp"

namespace quern {

using internal::shown;

// libcrypto fails here only for want of memory: SHA-256 is built in, and its context has a fixed size.
struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  State() {
    if (context == nullptr) throw std::bad_alloc();
    begin();
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { EVP_MD_CTX_free(context); }
  void begin() const {
    if (EVP_DigestInit_ex(context, EVP_sha256(), nullptr) != 1) throw std::bad_alloc();
  }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {}
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;
Sha256::~Sha256() = default;

void Sha256::update(std::span<const std::byte> bytes) {
  if (EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) != 1) throw std::bad_alloc();
}

std::string Sha256::finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned length = 0;
  if (EVP_DigestFinal_ex(state_->context, digest.data(), &length) != 1) throw std::bad_alloc();
  state_->begin();
  return fmt::format("{:02x}", fmt::join(digest.begin(), digest.begin() + length, ""));
}

std::string checksum_line(std::string_view hash, ElementType type, std::span<const std::int64_t> shape,
                          std::string_view name) {
  return fmt::format("{} {} {} {}", hash, block_format(type).name, fmt::join(shape, "x"), name);
}

namespace {

// Bytes hashed between two looks at progress and interruption, and given back to the system together.
constexpr std::size_t kPieceBytes = std::size_t{8} << 20;

// A line taken apart.
struct Listed {
  std::string_view hash, type, shape, name;
};

std::optional<Listed> parse_line(std::string_view line) {
  const auto word = [&line] {
    const std::size_t end = std::min(line.find(' '), line.size());
    const std::string_view found = line.substr(0, end);
    line.remove_prefix(std::min(end + 1, line.size()));
    return found;
  };
  Listed listed;
  listed.hash = word();
  listed.type = word();
  listed.shape = word();
  listed.name = line;
  const bool hex =
      listed.hash.size() == kSha256Digits && listed.hash.find_first_not_of("0123456789abcdef") == std::string_view::npos;
  if (!hex || listed.type.empty() || listed.shape.empty() || listed.name.empty()) return std::nullopt;
  return listed;
}

Result<std::vector<Listed>> listed_tensors(const GgufFile& file) {
  if (file.find(kChecksumKey) == nullptr) {
    return bad_input(fmt::format("{}: there are no checksums (key '{}') to verify", file.name(), kChecksumKey));
  }
  const auto lines = file.strings(kChecksumKey);
  if (!lines) return tl::make_unexpected(lines.error());
  std::vector<Listed> all;
  all.reserve(lines->size());
  for (const std::string_view line : *lines) {
    const auto listed = parse_line(line);
    if (!listed) {
      return bad_input(
          fmt::format("{}: key '{}': expected 'HASH TYPE SHAPE NAME', found '{}'", file.name(), kChecksumKey, shown(line)));
    }
    all.push_back(*listed);
  }
  return all;
}

// Adds up what threads have done, and keeps the first error.
class SharedProgress {
 public:
  SharedProgress(const std::function<Result<void>(std::size_t, std::size_t)>& report, std::size_t all)
      : report_(report), all_(all) {}
  void add(std::size_t bytes) {
    const std::scoped_lock lock(mutex_);
    done_ += bytes;
    if (!report_ || error_) return;
    if (auto reported = report_(done_, all_); !reported) {
      error_ = reported.error();
      stopped_ = true;
    }
  }
  [[nodiscard]] bool stopped() const { return stopped_; }
  [[nodiscard]] const std::optional<Error>& error() const { return error_; }

 private:
  const std::function<Result<void>(std::size_t, std::size_t)>& report_;
  std::size_t all_, done_ = 0;
  std::mutex mutex_;
  std::optional<Error> error_;
  std::atomic<bool> stopped_ = false;
};

std::string hash_of(const GgufFile& file, const GgufTensor& tensor, SharedProgress& progress) {
  Sha256 hash;
  for (std::size_t at = 0; at < tensor.bytes && !progress.stopped(); at += kPieceBytes) {
    GgufTensor piece = tensor;
    piece.data += at;
    piece.bytes = std::min(kPieceBytes, tensor.bytes - at);
    hash.update({piece.data, piece.bytes});
    file.release(piece);
    progress.add(piece.bytes);
  }
  return hash.finish();
}

std::string shape_text(const GgufTensor& tensor) {
  return fmt::format("{}", fmt::join(tensor.shape.begin(), tensor.shape.begin() + std::max(tensor.dimensions, 1), "x"));
}

TensorCheck compare(const GgufTensor& tensor, const std::string& hash, const Listed* listed,
                    const std::map<std::string_view, std::string_view>& unclaimed) {
  TensorCheck check;
  check.name = tensor.name;
  check.bytes = tensor.bytes;
  const std::string_view type = block_format(tensor.type).name;
  const std::string shape = shape_text(tensor);
  if (listed == nullptr) {
    const auto other = unclaimed.find(hash);
    check.verdict = other == unclaimed.end() ? TensorCheck::Verdict::not_listed : TensorCheck::Verdict::renamed;
    check.note = other == unclaimed.end() ? "there is no checksum for it"
                                          : fmt::format("these are the data of '{}', which is not there", other->second);
  } else if (listed->hash != hash) {
    check.verdict = TensorCheck::Verdict::changed;
    check.note = fmt::format("expected SHA-256 {}, found {}", listed->hash, hash);
  } else if (listed->type != type || listed->shape != shape) {
    check.verdict = TensorCheck::Verdict::described;
    check.note = fmt::format("expected {} {}, found {} {}", listed->type, listed->shape, type, shape);
  }
  return check;
}

}  // namespace

std::size_t ChecksumReport::count(TensorCheck::Verdict verdict) const {
  return static_cast<std::size_t>(
      std::count_if(tensors.begin(), tensors.end(), [&](const TensorCheck& check) { return check.verdict == verdict; }));
}

Result<ChecksumReport> verify_checksums(const GgufFile& file, ThreadTeam& team,
                                        const std::function<Result<void>(std::size_t, std::size_t)>& progress) {
  const auto lines = listed_tensors(file);
  if (!lines) return tl::make_unexpected(lines.error());
  std::map<std::string_view, const Listed*> by_name;
  for (const Listed& listed : *lines) {
    if (!by_name.emplace(listed.name, &listed).second) {
      return bad_input(
          fmt::format("{}: key '{}': tensor '{}' is there twice", file.name(), kChecksumKey, shown(listed.name)));
    }
  }

  const std::span<const GgufTensor> tensors = file.tensors();
  std::size_t all_bytes = 0;
  for (const GgufTensor& tensor : tensors) all_bytes += tensor.bytes;
  SharedProgress shared(progress, all_bytes);
  std::vector<std::string> hashes(tensors.size());
  team.run([&](TeamMember& member) {
    member.for_each(static_cast<std::int64_t>(tensors.size()), [&](std::int64_t i) {
      const auto at = static_cast<std::size_t>(i);
      if (!shared.stopped()) hashes[at] = hash_of(file, tensors[at], shared);
    });
  });
  if (shared.error()) return tl::make_unexpected(*shared.error());

  std::map<std::string_view, std::string_view> unclaimed;  // hash -> name of listed tensors that are not there
  for (const Listed& listed : *lines) {
    if (file.find_tensor(listed.name) == nullptr) unclaimed.emplace(listed.hash, listed.name);
  }
  ChecksumReport report;
  std::map<std::string_view, bool> found_again;  // names
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto listed = by_name.find(tensors[i].name);
    report.tensors.push_back(compare(tensors[i], hashes[i], listed == by_name.end() ? nullptr : listed->second, unclaimed));
    if (report.tensors.back().verdict == TensorCheck::Verdict::renamed) found_again[unclaimed.at(hashes[i])] = true;
  }
  for (const Listed& listed : *lines) {
    if (file.find_tensor(listed.name) != nullptr || found_again.contains(listed.name)) continue;
    TensorCheck& check = report.tensors.emplace_back();
    check.name = listed.name;
    check.verdict = TensorCheck::Verdict::missing;
    check.note = "its checksum is there, the tensor is not";
  }
  return report;
}

}  // namespace quern
