#include "model/checkpoint.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <vector>

#include "model/atomic_file.hpp"
#include "model/checkpoint_folder.hpp"
#include "model/hdf5_file.hpp"
#include "model/hdf5_user_block.hpp"

namespace quern {
namespace {

// Texts beyond these are not written, so that a reader may refuse them before it allocates.
constexpr std::size_t kMostModelBytes = std::size_t{1} << 20;
constexpr std::size_t kMostRunBytes = std::size_t{1} << 24;
constexpr std::size_t kMostTokenizerBytes = std::size_t{1} << 28;

constexpr const char* kWeights = "weights";
constexpr const char* kFirstMoments = "optimizer/m";
constexpr const char* kSecondMoments = "optimizer/v";

// Norms and biases are vectors in the file, everything else [rows, cols].
std::vector<std::int64_t> shape_of(const Parameter& p) {
  if (p.kind == ParameterKind::norm || p.kind == ParameterKind::bias) return {p.count()};
  return {p.rows, p.cols};
}

Result<void> expect_elements(const std::string& path, const ParameterLayout& layout, std::string_view name,
                             std::size_t elements) {
  if (elements == static_cast<std::size_t>(layout.elements)) return {};
  return bad_input(
      fmt::format("{}: the block of {} holds {} elements, the layout {}", path, name, elements, layout.elements));
}

Result<void> write_tensors(Hdf5Group& root, const std::string& group_name, const ParameterLayout& layout,
                           std::span<const float> values) {
  auto group = root.create_group(group_name);
  if (!group) return tl::make_unexpected(group.error());
  for (const Parameter& p : layout.parameters) {
    auto dataset = group->create_dataset(p.name, {.type = Hdf5Type::f32, .shape = shape_of(p)});
    if (!dataset) return tl::make_unexpected(dataset.error());
    const auto tensor = values.subspan(static_cast<std::size_t>(p.offset), static_cast<std::size_t>(p.count()));
    if (auto written = dataset->write<float>(tensor); !written) return written;
  }
  return {};
}

Result<void> read_tensors(const Hdf5Group& root, const std::string& group_name, const ParameterLayout& layout,
                          std::span<float> values) {
  const auto group = root.open_group(group_name);
  if (!group) return tl::make_unexpected(group.error());
  for (const Parameter& p : layout.parameters) {
    const auto dataset = group->open_dataset(p.name);
    if (!dataset) return tl::make_unexpected(dataset.error());
    if (auto right = dataset->expect(Hdf5Type::f32, shape_of(p)); !right) return right;
    const auto tensor = values.subspan(static_cast<std::size_t>(p.offset), static_cast<std::size_t>(p.count()));
    if (auto read = dataset->read<float>(tensor); !read) return read;
  }
  const auto names = group->names();
  if (!names) return tl::make_unexpected(names.error());
  for (const std::string& name : *names) {
    bool known = false;
    for (const Parameter& p : layout.parameters) known = known || p.name == name;
    if (!known) return bad_input(fmt::format("{}/{}: the model has no such tensor", group->where(), name));
  }
  return {};
}

// The layout of the block of second moments.
template <class Tensors>
const ParameterLayout& v_layout_of(const ParameterLayout& layout, const Tensors& tensors) {
  return tensors.v_layout == nullptr ? layout : *tensors.v_layout;
}

// The first error of several writes, which go on being skipped after it.
class Writer {
 public:
  template <class Function>
  Writer& then(Function function) {
    if (result_) result_ = function();
    return *this;
  }
  [[nodiscard]] Result<void> result() const { return result_; }

 private:
  Result<void> result_;
};

Result<void> write_info(Hdf5Group& root, const CheckpointInfo& info) {
  const auto text = [&root](const char* name, std::string_view value, std::size_t most) -> Result<void> {
    if (value.size() <= most) return root.write_text(name, value);
    return bad_input(fmt::format("{}: /{} takes at most {} bytes, found {}", root.file_path(), name, most, value.size()));
  };
  return Writer()
      .then([&] { return text("model", to_json(info.model), kMostModelBytes); })
      .then([&] { return text("run", info.run_yaml, kMostRunBytes); })
      .then([&] { return text("tokenizer", info.tokenizer_json, kMostTokenizerBytes); })
      .then([&] { return root.set_attribute("step", info.step); })
      .then([&] { return root.set_attribute("micro_batch", info.micro_batch); })
      .then([&] { return root.set_attribute("seed", std::bit_cast<std::int64_t>(info.seed)); })
      .then([&] { return root.set_attribute("val_loss", info.val_loss); })
      .then([&] { return root.set_attribute("best_val_loss", info.best_val_loss); })
      .then([&] { return root.set_attribute("train_seconds", info.train_seconds); })
      .then([&] { return root.set_attribute("quern_version", std::string_view(info.quern_version)); })
      .result();
}

// Puts the value of a Result into `target`, or reports its error.
template <class T>
Result<void> assign(T& target, Result<T> value) {
  if (!value) return tl::make_unexpected(value.error());
  target = std::move(*value);
  return {};
}

Result<CheckpointInfo> read_info(const Hdf5Group& root) {
  CheckpointInfo info;
  std::string model;
  std::int64_t seed = 0;
  auto read = Writer()
                  .then([&] { return assign(model, root.read_text("model", kMostModelBytes)); })
                  .then([&] { return assign(info.run_yaml, root.read_text("run", kMostRunBytes)); })
                  .then([&] { return assign(info.tokenizer_json, root.read_text("tokenizer", kMostTokenizerBytes)); })
                  .then([&] { return assign(info.step, root.int64_attribute("step")); })
                  .then([&] { return assign(info.micro_batch, root.int64_attribute("micro_batch")); })
                  .then([&] { return assign(seed, root.int64_attribute("seed")); })
                  .then([&] { return assign(info.val_loss, root.double_attribute("val_loss")); })
                  .then([&] { return assign(info.best_val_loss, root.double_attribute("best_val_loss")); })
                  .then([&] { return assign(info.train_seconds, root.double_attribute("train_seconds")); })
                  .then([&] { return assign(info.quern_version, root.string_attribute("quern_version")); })
                  .result();
  if (!read) return tl::make_unexpected(read.error());
  const std::string& path = root.file_path();
  info.seed = std::bit_cast<std::uint64_t>(seed);
  info.has_optimizer = root.has("optimizer");
  if (info.step < 0 || info.micro_batch < 0) {
    return bad_input(fmt::format("{}: expected counts of at least 0, found step {} and micro_batch {}", path, info.step,
                                 info.micro_batch));
  }
  if (!std::isfinite(info.train_seconds) || info.train_seconds < 0.0) {
    return bad_input(fmt::format("{}: expected train_seconds of at least 0, found {}", path, info.train_seconds));
  }
  auto config = model_config_from_json(model);
  if (!config) return bad_input(fmt::format("{}: /model: {}", path, config.error().message));
  if (auto valid = validate(*config); !valid) return bad_input(fmt::format("{}: /model: {}", path, valid.error().message));
  if (auto known = trainable(*config); !known) return bad_input(fmt::format("{}: /model: {}", path, known.error().message));
  info.model = *config;
  return info;
}

// The file behind a user block that was found right.
Result<Hdf5File> open_checked(const std::string& path) {
  if (auto right = internal::check_user_block(path, internal::kCheckpointBlock); !right)
    return tl::make_unexpected(right.error());
  return Hdf5File::open(path);
}

// A little more than the file will take. Object headers, links and heaps measure below 700 bytes per dataset.
std::int64_t estimated_file_bytes(const CheckpointInfo& info, const ParameterLayout& layout,
                                  const CheckpointTensors& tensors) {
  constexpr std::int64_t kFixedBytes = 64 * 1024, kBytesPerDataset = 1024;
  const std::int64_t blocks = tensors.m.empty() ? 1 : 3;
  const auto datasets = static_cast<std::int64_t>(layout.parameters.size());
  return kFixedBytes + static_cast<std::int64_t>(info.run_yaml.size() + info.tokenizer_json.size()) +
         blocks * (datasets * kBytesPerDataset + layout.elements * static_cast<std::int64_t>(sizeof(float)));
}

// Asks the file system for room, so that a full disk is noticed here: HDF5 does not recover from failed writes (it keeps the
// file open, and with it the space). With `keep_size` the room lies beyond the file's end and its length does not change.
Result<void> reserve_space(const std::string& path, std::int64_t bytes, bool keep_size) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  int status = -1;
  if (fd >= 0) {
    do {
      status = ::fallocate(fd, keep_size ? FALLOC_FL_KEEP_SIZE : 0, 0, static_cast<off_t>(bytes));
    } while (status != 0 && errno == EINTR);
  }
  const int error = errno;
  if (fd >= 0) ::close(fd);
  // Some file systems cannot reserve; there the write itself finds out.
  if (status == 0 || (fd >= 0 && (error == EOPNOTSUPP || error == ENOSYS || error == EINVAL))) return {};
  return io_error(
      fmt::format("{}: no room for a checkpoint of {} bytes: {}", path, bytes, std::generic_category().message(error)));
}

// Cuts off what was reserved beyond the file's end.
Result<void> give_back_unused(const std::string& path) {
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);
  if (!error) std::filesystem::resize_file(path, bytes, error);
  if (error) return io_error(fmt::format("{}: cannot set its length: {}", path, error.message()));
  return {};
}

Result<void> write_hdf5(const std::string& path, const CheckpointInfo& info, const ParameterLayout& layout,
                        const CheckpointTensors& tensors) {
  const std::int64_t bytes = estimated_file_bytes(info, layout, tensors);
  // The first reservation finds a full disk before HDF5 is involved; HDF5 then empties the file, and the second one holds.
  if (auto room = reserve_space(path, bytes, /*keep_size=*/false); !room) return room;
  auto file = Hdf5File::create(path, internal::kUserBlockBytes);
  if (!file) return tl::make_unexpected(file.error());
  if (auto room = reserve_space(path, bytes, /*keep_size=*/true); !room) return room;
  Hdf5Group& root = file->root();
  return Writer()
      .then([&] { return write_info(root, info); })
      .then([&] { return write_tensors(root, kWeights, layout, tensors.weights); })
      .then([&]() -> Result<void> {
        if (tensors.m.empty()) return {};
        auto written = write_tensors(root, kFirstMoments, layout, tensors.m);
        return written ? write_tensors(root, kSecondMoments, v_layout_of(layout, tensors), tensors.v) : written;
      })
      .then([&] { return file->close(); })
      .result();
}

}  // namespace

Result<void> save_checkpoint(const std::string& path, const CheckpointInfo& info, const ParameterLayout& layout,
                             const CheckpointTensors& tensors) {
  auto sizes = expect_elements(path, layout, "weights", tensors.weights.size());
  if (sizes && !(tensors.m.empty() && tensors.v.empty())) {
    sizes = expect_elements(path, layout, "first moments", tensors.m.size());
    if (sizes) sizes = expect_elements(path, v_layout_of(layout, tensors), "second moments", tensors.v.size());
  }
  if (!sizes) return sizes;
  auto file = AtomicFile::create(path);
  if (!file) return tl::make_unexpected(file.error());
  return Writer()
      .then([&] { return write_hdf5(file->temporary_path(), info, layout, tensors); })
      .then([&] { return internal::write_user_block(file->temporary_path(), internal::kCheckpointBlock); })
      .then([&] { return internal::check_user_block(file->temporary_path(), internal::kCheckpointBlock); })
      .then([&] { return give_back_unused(file->temporary_path()); })
      .then([&] { return file->commit(); })
      .result();
}

Result<CheckpointInfo> read_checkpoint_info(const std::string& path) {
  const auto file = open_checked(path);
  if (!file) return tl::make_unexpected(file.error());
  return read_info(file->root());
}

Result<void> read_checkpoint_tensors(const std::string& path, const ParameterLayout& layout,
                                     const MutableCheckpointTensors& tensors) {
  const auto file = open_checked(path);
  if (!file) return tl::make_unexpected(file.error());
  const Hdf5Group& root = file->root();
  const bool optimizer = !tensors.m.empty() || !tensors.v.empty();
  if (optimizer && !root.has("optimizer")) {
    return bad_input(fmt::format("{}: expected the optimizer's state, found a checkpoint of weights only", path));
  }
  const auto read = [&](const char* group, const ParameterLayout& of, std::span<float> values) -> Result<void> {
    if (values.empty()) return {};
    auto right = expect_elements(path, of, group, values.size());
    return right ? read_tensors(root, group, of, values) : right;
  };
  return Writer()
      .then([&] { return read(kWeights, layout, tensors.weights); })
      .then([&] { return read(kFirstMoments, layout, tensors.m); })
      .then([&] { return read(kSecondMoments, v_layout_of(layout, tensors), tensors.v); })
      .result();
}

Result<std::string> find_checkpoint(const std::string& run_or_file, bool last) {
  std::error_code error;
  const auto status = std::filesystem::status(run_or_file, error);
  if (!std::filesystem::exists(status)) {
    return bad_input(fmt::format("{}: expected a run folder or a checkpoint file, found nothing", run_or_file));
  }
  if (!std::filesystem::is_directory(status)) return run_or_file;
  return last ? newest_checkpoint(run_or_file) : best_checkpoint(run_or_file);
}

}  // namespace quern
