// Groups and files.
#include "model/hdf5_file.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <system_error>

#include "model/hdf5_library_internal.hpp"

namespace quern {
namespace {

using internal::hdf5_file_type;
using internal::hdf5_reason;
using internal::hdf5_shape_text;
using internal::Hdf5Handle;
using internal::Hdf5Lock;
using internal::kHdf5MaxRank;

// Times are not recorded anywhere, so that the same content gives the same bytes.
hid_t new_group(hid_t parent, const std::string& name) {
  const Hdf5Handle plan(H5Pcreate(H5P_GROUP_CREATE));
  H5Pset_obj_track_times(plan.id(), false);
  return H5Gcreate2(parent, name.c_str(), H5P_DEFAULT, plan.id(), H5P_DEFAULT);
}

}  // namespace

std::string Hdf5Group::child_name(const std::string& name) const { return name_ == "/" ? name_ + name : name_ + "/" + name; }

// Every part of the path exists and is a hard link: others could lead out of the file, or round in circles.
Result<void> Hdf5Group::check_links(const std::string& name) const {
  for (std::size_t end = name.find('/');; end = name.find('/', end + 1)) {
    const std::string part = name.substr(0, end);
    H5L_info_t info{};
    if (part.empty() || H5Lexists(id(), part.c_str(), H5P_DEFAULT) <= 0 ||
        H5Lget_info(id(), part.c_str(), &info, H5P_DEFAULT) < 0) {
      H5Eclear2(H5E_DEFAULT);
      return bad_input(fmt::format("{}: {} is missing", file_path_, child_name(part)));
    }
    if (info.type != H5L_TYPE_HARD) {
      return bad_input(fmt::format("{}: {}: expected an object in this file, found a link", file_path_, child_name(part)));
    }
    if (end == std::string::npos) return {};
  }
}

// Creates the groups of a path that do not exist yet.
Result<void> Hdf5Group::make_parents(const std::string& name) {
  for (std::size_t end = name.find('/'); end != std::string::npos; end = name.find('/', end + 1)) {
    const std::string part = name.substr(0, end);
    if (H5Lexists(id(), part.c_str(), H5P_DEFAULT) > 0) continue;
    if (!Hdf5Handle(new_group(id(), part)).valid()) {
      return io_error(fmt::format("{}: cannot create group {}: {}", file_path_, child_name(part), hdf5_reason()));
    }
  }
  return {};
}

bool Hdf5Group::has(const std::string& name) const {
  const Hdf5Lock lock;
  return check_links(name).has_value();
}

Result<std::vector<std::string>> Hdf5Group::names() const {
  const Hdf5Lock lock;
  std::vector<std::string> found;
  const herr_t status = H5Literate(
      id(), H5_INDEX_NAME, H5_ITER_INC, nullptr,
      [](hid_t, const char* name, const H5L_info_t*, void* data) -> herr_t {
        static_cast<std::vector<std::string>*>(data)->emplace_back(name);
        return 0;
      },
      &found);
  if (status < 0) return bad_input(fmt::format("{}: cannot list its members: {}", where(), hdf5_reason()));
  std::sort(found.begin(), found.end());
  return found;
}

Result<Hdf5Group> Hdf5Group::create_group(const std::string& name) {
  const Hdf5Lock lock;
  if (auto made = make_parents(name); !made) return tl::make_unexpected(made.error());
  Hdf5Handle handle(new_group(id(), name));
  if (!handle.valid()) {
    return io_error(fmt::format("{}: cannot create group {}: {}", file_path_, child_name(name), hdf5_reason()));
  }
  return Hdf5Group(std::move(handle), file_path_, child_name(name));
}

Result<Hdf5Group> Hdf5Group::open_group(const std::string& name) const {
  const Hdf5Lock lock;
  if (auto plain = check_links(name); !plain) return tl::make_unexpected(plain.error());
  Hdf5Handle handle(H5Oopen(id(), name.c_str(), H5P_DEFAULT));
  if (!handle.valid()) return bad_input(fmt::format("{}: cannot open {}: {}", file_path_, child_name(name), hdf5_reason()));
  if (H5Iget_type(handle.id()) != H5I_GROUP) {
    return bad_input(fmt::format("{}: {}: expected a group, found another object", file_path_, child_name(name)));
  }
  return Hdf5Group(std::move(handle), file_path_, child_name(name));
}

Result<Hdf5Dataset> Hdf5Group::create_dataset(const std::string& name, const Hdf5DatasetOptions& options) {
  const Hdf5Lock lock;
  const std::string where = file_path_ + ": " + child_name(name);
  const auto rank = static_cast<int>(options.shape.size());
  const bool chunked = options.chunk_rows > 0;
  if (rank < 1 || rank > kHdf5MaxRank || *std::min_element(options.shape.begin(), options.shape.end()) < 0 ||
      (!chunked && (options.growable || options.checksum || options.deflate != 0))) {
    return bad_input(fmt::format("{}: cannot create a dataset of shape {} with {} rows per chunk", where,
                                 hdf5_shape_text(options.shape), options.chunk_rows));
  }
  std::array<hsize_t, kHdf5MaxRank> extents{};
  std::array<hsize_t, kHdf5MaxRank> limits{};
  std::array<hsize_t, kHdf5MaxRank> chunk{};
  for (int i = 0; i < rank; ++i) {
    extents[i] = limits[i] = static_cast<hsize_t>(options.shape[i]);
    chunk[i] = std::max<hsize_t>(extents[i], 1);
  }
  if (options.growable) limits[0] = H5S_UNLIMITED;
  chunk[0] = static_cast<hsize_t>(options.chunk_rows);
  if (!options.growable) chunk[0] = std::min(chunk[0], std::max<hsize_t>(extents[0], 1));
  const Hdf5Handle space(H5Screate_simple(rank, extents.data(), limits.data()));
  const Hdf5Handle plan(H5Pcreate(H5P_DATASET_CREATE));
  if (auto made = make_parents(name); !made) return tl::make_unexpected(made.error());
  H5Pset_obj_track_times(plan.id(), false);
  bool planned = true;
  if (chunked) planned = H5Pset_chunk(plan.id(), rank, chunk.data()) >= 0;
  if (options.deflate != 0) {
    planned =
        planned && H5Pset_shuffle(plan.id()) >= 0 && H5Pset_deflate(plan.id(), static_cast<unsigned>(options.deflate)) >= 0;
  }
  if (options.checksum) planned = planned && H5Pset_fletcher32(plan.id()) >= 0;
  Hdf5Handle handle;
  if (planned && space.valid()) {
    handle = Hdf5Handle(
        H5Dcreate2(id(), name.c_str(), hdf5_file_type(options.type), space.id(), H5P_DEFAULT, plan.id(), H5P_DEFAULT));
  }
  if (!handle.valid()) return io_error(fmt::format("{}: cannot create the dataset: {}", where, hdf5_reason()));
  Hdf5Dataset dataset(std::move(handle), file_path_, child_name(name));
  if (auto loaded = dataset.load(); !loaded) return tl::make_unexpected(loaded.error());
  return dataset;
}

Result<Hdf5Dataset> Hdf5Group::open_dataset(const std::string& name) const {
  const Hdf5Lock lock;
  if (auto plain = check_links(name); !plain) return tl::make_unexpected(plain.error());
  Hdf5Handle handle(H5Oopen(id(), name.c_str(), H5P_DEFAULT));
  if (!handle.valid()) return bad_input(fmt::format("{}: cannot open {}: {}", file_path_, child_name(name), hdf5_reason()));
  if (H5Iget_type(handle.id()) != H5I_DATASET) {
    return bad_input(fmt::format("{}: {}: expected a dataset, found another object", file_path_, child_name(name)));
  }
  Hdf5Dataset dataset(std::move(handle), file_path_, child_name(name));
  if (auto loaded = dataset.load(); !loaded) return tl::make_unexpected(loaded.error());
  return dataset;
}

Result<void> Hdf5Group::write_text(const std::string& name, std::string_view text) {
  auto dataset = create_dataset(name, {.type = Hdf5Type::u8, .shape = {static_cast<std::int64_t>(text.size())}});
  if (!dataset) return tl::make_unexpected(dataset.error());
  return dataset->write_row_bytes(0, dataset->rows(), std::as_bytes(std::span(text)));
}

Result<std::string> Hdf5Group::read_text(const std::string& name, std::size_t max_bytes) const {
  auto dataset = open_dataset(name);
  if (!dataset) return tl::make_unexpected(dataset.error());
  const std::array<std::int64_t, 1> any = {-1};
  if (auto right = dataset->expect(Hdf5Type::u8, any); !right) return tl::make_unexpected(right.error());
  if (static_cast<std::uint64_t>(dataset->rows()) > max_bytes) {
    return bad_input(fmt::format("{}: expected at most {} bytes, found {}", dataset->where(), max_bytes, dataset->rows()));
  }
  std::string text(static_cast<std::size_t>(dataset->rows()), '\0');
  if (auto read = dataset->read_row_bytes(0, dataset->rows(), std::as_writable_bytes(std::span(text))); !read) {
    return tl::make_unexpected(read.error());
  }
  return text;
}

Result<Hdf5File> Hdf5File::create(const std::string& path, std::int64_t user_block_bytes) {
  const Hdf5Lock lock;
  const Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS));
  const Hdf5Handle plan(H5Pcreate(H5P_FILE_CREATE));
  H5Pset_libver_bounds(access.id(), H5F_LIBVER_V110, H5F_LIBVER_V110);
  H5Pset_file_locking(access.id(), false, true);  // files are written beside and renamed; some file systems cannot lock
  H5Pset_obj_track_times(plan.id(), false);
  if (user_block_bytes != 0 && H5Pset_userblock(plan.id(), static_cast<hsize_t>(user_block_bytes)) < 0) {
    return bad_input(fmt::format("{}: cannot reserve a user block of {} bytes: {}", path, user_block_bytes, hdf5_reason()));
  }
  Hdf5File file;
  file.file_ = Hdf5Handle(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, plan.id(), access.id()));
  if (!file.file_.valid()) return io_error(fmt::format("{}: cannot create: {}", path, hdf5_reason()));
  file.root_ = Hdf5Group(Hdf5Handle(H5Gopen2(file.file_.id(), "/", H5P_DEFAULT)), path, "/");
  return file;
}

Result<Hdf5File> Hdf5File::open(const std::string& path) {
  const Hdf5Lock lock;
  if (::access(path.c_str(), R_OK) != 0) {
    return io_error(fmt::format("{}: cannot open: {}", path, std::generic_category().message(errno)));
  }
  const Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS));
  H5Pset_file_locking(access.id(), false, true);
  Hdf5File file;
  file.file_ = Hdf5Handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.id()));
  if (!file.file_.valid()) return bad_input(fmt::format("{}: not a whole HDF5 file: {}", path, hdf5_reason()));
  file.root_ = Hdf5Group(Hdf5Handle(H5Gopen2(file.file_.id(), "/", H5P_DEFAULT)), path, "/");
  if (!file.root_.handle_.valid()) return bad_input(fmt::format("{}: cannot open its root group: {}", path, hdf5_reason()));
  return file;
}

Result<void> Hdf5File::close() {
  const Hdf5Lock lock;
  if (!file_.valid()) return {};
  const std::string path = root_.file_path();
  const bool flushed = H5Fflush(file_.id(), H5F_SCOPE_GLOBAL) >= 0;
  const std::string why = flushed ? "" : hdf5_reason();
  root_ = Hdf5Group();
  const bool closed = H5Fclose(file_.release()) >= 0;
  if (!flushed || !closed) return io_error(fmt::format("{}: cannot write it out: {}", path, flushed ? hdf5_reason() : why));
  return {};
}

}  // namespace quern
