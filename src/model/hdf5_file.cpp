#include "model/hdf5_file.hpp"

#include <fmt/format.h>
#include <hdf5.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <mutex>
#include <system_error>

namespace quern {
namespace {

static_assert(std::is_same_v<hid_t, std::int64_t>, "handles are kept as int64");

constexpr int kMaxRank = 4;
constexpr std::size_t kMaxAttributeBytes = 60'000;  // object headers hold messages below 64 KiB

// The one lock around the library, and the switch that keeps it from printing its error stack.
class Lock {
 public:
  Lock() : guard_(mutex()) {
    // Without H5dont_atexit, a file that could not be written out (disk full) crashes the process when it ends.
    static const bool quiet = (H5dont_atexit(), H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr), true);
    (void)quiet;
  }

 private:
  // Never destroyed: handles in static objects are given back after main.
  static std::recursive_mutex& mutex() {
    static auto* const instance = new std::recursive_mutex;
    return *instance;
  }
  std::lock_guard<std::recursive_mutex> guard_;
};

// The innermost sentence of HDF5's error stack, for messages.
std::string reason() {
  std::string text = "unknown error";
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned, const H5E_error2_t* error, void* data) -> herr_t {
        if (error->desc != nullptr && error->desc[0] != 0) *static_cast<std::string*>(data) = error->desc;
        return 1;  // the first is enough
      },
      &text);
  H5Eclear2(H5E_DEFAULT);
  return text;
}

struct TypeRow {
  Hdf5Type type;
  std::string_view name;
  std::size_t bytes;
};
constexpr std::array<TypeRow, 10> kTypes = {{{Hdf5Type::u8, "uint8", 1},
                                             {Hdf5Type::i8, "int8", 1},
                                             {Hdf5Type::u16, "uint16", 2},
                                             {Hdf5Type::i16, "int16", 2},
                                             {Hdf5Type::u32, "uint32", 4},
                                             {Hdf5Type::i32, "int32", 4},
                                             {Hdf5Type::u64, "uint64", 8},
                                             {Hdf5Type::i64, "int64", 8},
                                             {Hdf5Type::f32, "float32", 4},
                                             {Hdf5Type::f64, "float64", 8}}};

const TypeRow& row_of(Hdf5Type type) { return kTypes[static_cast<std::size_t>(type)]; }

hid_t file_type(Hdf5Type type) {
  switch (type) {
    case Hdf5Type::u8:
      return H5T_STD_U8LE;
    case Hdf5Type::i8:
      return H5T_STD_I8LE;
    case Hdf5Type::u16:
      return H5T_STD_U16LE;
    case Hdf5Type::i16:
      return H5T_STD_I16LE;
    case Hdf5Type::u32:
      return H5T_STD_U32LE;
    case Hdf5Type::i32:
      return H5T_STD_I32LE;
    case Hdf5Type::u64:
      return H5T_STD_U64LE;
    case Hdf5Type::i64:
      return H5T_STD_I64LE;
    case Hdf5Type::f32:
      return H5T_IEEE_F32LE;
    case Hdf5Type::f64:
      return H5T_IEEE_F64LE;
  }
  return -1;
}

hid_t memory_type(Hdf5Type type) {
  switch (type) {
    case Hdf5Type::u8:
      return H5T_NATIVE_UINT8;
    case Hdf5Type::i8:
      return H5T_NATIVE_INT8;
    case Hdf5Type::u16:
      return H5T_NATIVE_UINT16;
    case Hdf5Type::i16:
      return H5T_NATIVE_INT16;
    case Hdf5Type::u32:
      return H5T_NATIVE_UINT32;
    case Hdf5Type::i32:
      return H5T_NATIVE_INT32;
    case Hdf5Type::u64:
      return H5T_NATIVE_UINT64;
    case Hdf5Type::i64:
      return H5T_NATIVE_INT64;
    case Hdf5Type::f32:
      return H5T_NATIVE_FLOAT;
    case Hdf5Type::f64:
      return H5T_NATIVE_DOUBLE;
  }
  return -1;
}

// Which of our types a stored type is; false for strings, compounds, odd bit layouts and the like.
bool find_type(hid_t stored, Hdf5Type& out) {
  for (const TypeRow& row : kTypes) {
    if (H5Tequal(stored, file_type(row.type)) > 0) {
      out = row.type;
      return true;
    }
  }
  return false;
}

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += shape[i] < 0 ? "any" : fmt::to_string(shape[i]);
  }
  return text + "]";
}

// a * b for values that are not negative; false on overflow of int64.
bool multiply(std::int64_t a, std::int64_t b, std::int64_t& product) { return !__builtin_mul_overflow(a, b, &product); }

using internal::Hdf5Handle;

Result<Hdf5Handle> open_scalar_attribute(hid_t object, const std::string& where, const std::string& name) {
  if (H5Aexists(object, name.c_str()) <= 0) {
    H5Eclear2(H5E_DEFAULT);
    return bad_input(fmt::format("{}: attribute \"{}\" is missing", where, name));
  }
  Hdf5Handle attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT));
  if (!attribute.valid()) return bad_input(fmt::format("{}: cannot open attribute \"{}\": {}", where, name, reason()));
  const Hdf5Handle space(H5Aget_space(attribute.id()));
  if (!space.valid() || H5Sget_simple_extent_type(space.id()) != H5S_SCALAR) {
    return bad_input(fmt::format("{}: attribute \"{}\": expected a single value, found an array or nothing", where, name));
  }
  return attribute;
}

Result<void> read_number(hid_t object, const std::string& where, const std::string& name, Hdf5Type type, void* out) {
  auto attribute = open_scalar_attribute(object, where, name);
  if (!attribute) return tl::make_unexpected(attribute.error());
  const Hdf5Handle stored(H5Aget_type(attribute->id()));
  if (!stored.valid() || H5Tequal(stored.id(), file_type(type)) <= 0) {
    Hdf5Type found{};
    return bad_input(fmt::format("{}: attribute \"{}\": expected {}, found {}", where, name, row_of(type).name,
                                 stored.valid() && find_type(stored.id(), found) ? row_of(found).name : "another type"));
  }
  if (H5Aread(attribute->id(), memory_type(type), out) < 0) {
    return bad_input(fmt::format("{}: cannot read attribute \"{}\": {}", where, name, reason()));
  }
  return {};
}

Result<void> write_attribute(hid_t object, const std::string& where, const std::string& name, hid_t stored, hid_t memory,
                             const void* value) {
  if (H5Aexists(object, name.c_str()) > 0) H5Adelete(object, name.c_str());
  const Hdf5Handle space(H5Screate(H5S_SCALAR));
  const Hdf5Handle attribute(H5Acreate2(object, name.c_str(), stored, space.id(), H5P_DEFAULT, H5P_DEFAULT));
  if (!attribute.valid() || H5Awrite(attribute.id(), memory, value) < 0) {
    return io_error(fmt::format("{}: cannot write attribute \"{}\": {}", where, name, reason()));
  }
  return {};
}

// Times are not recorded anywhere, so that the same content gives the same bytes.
hid_t new_group(hid_t parent, const std::string& name) {
  const Hdf5Handle plan(H5Pcreate(H5P_GROUP_CREATE));
  H5Pset_obj_track_times(plan.id(), false);
  return H5Gcreate2(parent, name.c_str(), H5P_DEFAULT, plan.id(), H5P_DEFAULT);
}

}  // namespace

std::string_view hdf5_type_name(Hdf5Type type) { return row_of(type).name; }
std::size_t hdf5_type_bytes(Hdf5Type type) { return row_of(type).bytes; }

void internal::Hdf5Handle::reset() {
  if (id_ < 0) return;
  const Lock lock;
  H5Idec_ref(std::exchange(id_, -1));
}

// ---- attributes

bool Hdf5Object::has_attribute(const std::string& name) const {
  const Lock lock;
  const bool exists = H5Aexists(id(), name.c_str()) > 0;
  H5Eclear2(H5E_DEFAULT);
  return exists;
}

Result<void> Hdf5Object::set_attribute(const std::string& name, std::int64_t value) {
  const Lock lock;
  return write_attribute(id(), where(), name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

Result<void> Hdf5Object::set_attribute(const std::string& name, double value) {
  const Lock lock;
  return write_attribute(id(), where(), name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
}

Result<void> Hdf5Object::set_attribute(const std::string& name, std::string_view value) {
  const Lock lock;
  if (value.size() > kMaxAttributeBytes || value.find('\0') != std::string_view::npos) {
    return bad_input(fmt::format("{}: attribute \"{}\": expected at most {} bytes without NUL, found {} bytes", where(),
                                 name, kMaxAttributeBytes, value.size()));
  }
  const Hdf5Handle type(H5Tcopy(H5T_C_S1));
  H5Tset_size(type.id(), std::max<std::size_t>(value.size(), 1));  // an empty string is one padding NUL
  H5Tset_strpad(type.id(), H5T_STR_NULLPAD);
  H5Tset_cset(type.id(), H5T_CSET_UTF8);
  const std::string padded = value.empty() ? std::string(1, '\0') : std::string(value);
  return write_attribute(id(), where(), name, type.id(), type.id(), padded.data());
}

Result<std::int64_t> Hdf5Object::int64_attribute(const std::string& name) const {
  const Lock lock;
  std::int64_t value = 0;
  if (auto read = read_number(id(), where(), name, Hdf5Type::i64, &value); !read) return tl::make_unexpected(read.error());
  return value;
}

Result<double> Hdf5Object::double_attribute(const std::string& name) const {
  const Lock lock;
  double value = 0;
  if (auto read = read_number(id(), where(), name, Hdf5Type::f64, &value); !read) return tl::make_unexpected(read.error());
  return value;
}

Result<std::string> Hdf5Object::string_attribute(const std::string& name) const {
  const Lock lock;
  auto attribute = open_scalar_attribute(id(), where(), name);
  if (!attribute) return tl::make_unexpected(attribute.error());
  const Hdf5Handle type(H5Aget_type(attribute->id()));
  if (!type.valid() || H5Tget_class(type.id()) != H5T_STRING || H5Tis_variable_str(type.id()) != 0) {
    return bad_input(
        fmt::format("{}: attribute \"{}\": expected a string of fixed length, found another type", where(), name));
  }
  const std::size_t bytes = H5Tget_size(type.id());
  if (bytes > kMaxAttributeBytes) {
    return bad_input(
        fmt::format("{}: attribute \"{}\": expected at most {} bytes, found {}", where(), name, kMaxAttributeBytes, bytes));
  }
  std::string value(bytes, '\0');
  if (H5Aread(attribute->id(), type.id(), value.data()) < 0) {
    return bad_input(fmt::format("{}: cannot read attribute \"{}\": {}", where(), name, reason()));
  }
  value.resize(std::min(value.find('\0'), value.size()));
  return value;
}

// ---- datasets

Result<void> Hdf5Dataset::load() {
  const Hdf5Handle stored(H5Dget_type(id()));
  if (!stored.valid() || !find_type(stored.id(), type_)) {
    return bad_input(fmt::format("{}: expected integers or floats of 1 to 8 bytes, found another type", where()));
  }
  const Hdf5Handle space(H5Dget_space(id()));
  const int rank = space.valid() ? H5Sget_simple_extent_ndims(space.id()) : -1;
  if (rank < 1 || rank > kMaxRank || H5Sget_simple_extent_type(space.id()) != H5S_SIMPLE) {
    return bad_input(fmt::format("{}: expected an array of 1 to {} dimensions, found {}", where(), kMaxRank, rank));
  }
  std::array<hsize_t, kMaxRank> extents{};
  H5Sget_simple_extent_dims(space.id(), extents.data(), nullptr);
  shape_.clear();
  for (int i = 0; i < rank; ++i) {
    shape_.push_back(static_cast<std::int64_t>(std::min<hsize_t>(extents[i], std::numeric_limits<std::int64_t>::max())));
  }
  row_elements_ = 1;
  bool fits = true;
  for (int i = 1; i < rank; ++i) fits = fits && multiply(row_elements_, shape_[i], row_elements_);
  std::int64_t bytes = 0;
  fits = fits && multiply(row_elements_, shape_[0], bytes) &&
         multiply(bytes, static_cast<std::int64_t>(hdf5_type_bytes(type_)), bytes);
  if (!fits) return bad_input(fmt::format("{}: the shape {} has too many elements", where(), shape_text(shape_)));

  const Hdf5Handle plan(H5Dget_create_plist(id()));
  if (!plan.valid()) return bad_input(fmt::format("{}: cannot read its properties: {}", where(), reason()));
  const H5D_layout_t layout = H5Pget_layout(plan.id());
  if (layout == H5D_VIRTUAL || layout < 0 || H5Pget_external_count(plan.id()) > 0) {
    return bad_input(fmt::format("{}: expected data in this file, found a virtual or external dataset", where()));
  }
  if (layout == H5D_CHUNKED) {
    std::array<hsize_t, kMaxRank> chunk{};
    if (H5Pget_chunk(plan.id(), rank, chunk.data()) != rank) {
      return bad_input(fmt::format("{}: cannot read its chunk shape: {}", where(), reason()));
    }
    chunk_rows_ = static_cast<std::int64_t>(chunk[0]);  // HDF5 holds chunk extents below 2^32
    chunk_bytes_ = static_cast<std::int64_t>(hdf5_type_bytes(type_));
    for (int i = 0; i < rank; ++i) {
      if (!multiply(chunk_bytes_, static_cast<std::int64_t>(chunk[i]), chunk_bytes_)) {
        return bad_input(fmt::format("{}: its chunks have too many elements", where()));
      }
    }
    const int filters = H5Pget_nfilters(plan.id());
    for (int i = 0; i < filters; ++i) {
      unsigned flags = 0;
      std::size_t values = 0;
      const H5Z_filter_t filter =
          H5Pget_filter2(plan.id(), static_cast<unsigned>(i), &flags, &values, nullptr, 0, nullptr, nullptr);
      if (filter == H5Z_FILTER_DEFLATE) {
        compressed_ = true;
      } else if (filter != H5Z_FILTER_FLETCHER32 && filter != H5Z_FILTER_SHUFFLE) {
        return bad_input(fmt::format("{}: expected the filters deflate, shuffle or fletcher32, found filter {}", where(),
                                     static_cast<int>(filter)));
      }
    }
  }
  return {};
}

std::int64_t Hdf5Dataset::stored_bytes() const {
  const Lock lock;
  return static_cast<std::int64_t>(H5Dget_storage_size(id()));
}

Result<void> Hdf5Dataset::expect(Hdf5Type type, std::span<const std::int64_t> shape) const {
  if (type_ != type) {
    return bad_input(fmt::format("{}: expected {}, found {}", where(), hdf5_type_name(type), hdf5_type_name(type_)));
  }
  bool same = shape.size() == shape_.size();
  for (std::size_t i = 0; same && i < shape.size(); ++i) same = shape[i] < 0 || shape[i] == shape_[i];
  if (!same) {
    return bad_input(fmt::format("{}: expected shape {}, found {}", where(), shape_text(shape), shape_text(shape_)));
  }
  return {};
}

Result<void> Hdf5Dataset::transfer_rows(std::int64_t first, std::int64_t rows, Hdf5Type type, void* memory,
                                        std::size_t memory_elements, bool write) const {
  const Lock lock;
  if (!handle_.valid()) return bad_input("a dataset that was never opened was used");
  if (type != type_) {
    return bad_input(fmt::format("{}: expected {}, found {}", where(), hdf5_type_name(type), hdf5_type_name(type_)));
  }
  if (first < 0 || rows < 0 || first > shape_[0] - rows) {
    return bad_input(fmt::format("{}: {} rows from {} on lie outside its {} rows", where(), rows, first, shape_[0]));
  }
  const std::int64_t elements = rows * row_elements_;
  if (memory_elements != static_cast<std::size_t>(elements)) {
    return bad_input(
        fmt::format("{}: {} rows take {} elements, the buffer has {}", where(), rows, elements, memory_elements));
  }
  if (elements == 0) return {};
  const Hdf5Handle space(H5Dget_space(id()));
  std::array<hsize_t, kMaxRank> start{};
  std::array<hsize_t, kMaxRank> count{};
  start[0] = static_cast<hsize_t>(first);
  count[0] = static_cast<hsize_t>(rows);
  for (std::size_t i = 1; i < shape_.size(); ++i) count[i] = static_cast<hsize_t>(shape_[i]);
  const auto dense = static_cast<hsize_t>(elements);
  const Hdf5Handle flat(H5Screate_simple(1, &dense, nullptr));
  if (!space.valid() || !flat.valid() ||
      H5Sselect_hyperslab(space.id(), H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr) < 0) {
    return io_error(fmt::format("{}: cannot select rows: {}", where(), reason()));
  }
  const herr_t status = write ? H5Dwrite(id(), memory_type(type), flat.id(), space.id(), H5P_DEFAULT, memory)
                              : H5Dread(id(), memory_type(type), flat.id(), space.id(), H5P_DEFAULT, memory);
  if (status < 0) {
    const std::string why = reason();
    if (write) return io_error(fmt::format("{}: cannot write rows {} to {}: {}", where(), first, first + rows, why));
    return bad_input(fmt::format("{}: cannot read rows {} to {}: {}", where(), first, first + rows, why));
  }
  return {};
}

Result<void> Hdf5Dataset::read_row_bytes(std::int64_t first, std::int64_t rows, std::span<std::byte> out) const {
  return transfer_rows(first, rows, type_, out.data(), out.size() / hdf5_type_bytes(type_), false);
}

Result<void> Hdf5Dataset::write_row_bytes(std::int64_t first, std::int64_t rows, std::span<const std::byte> values) {
  return transfer_rows(first, rows, type_, const_cast<std::byte*>(values.data()), values.size() / hdf5_type_bytes(type_),
                       true);
}

Result<void> Hdf5Dataset::resize_rows(std::int64_t rows) {
  const Lock lock;
  std::array<hsize_t, kMaxRank> extents{};
  for (std::size_t i = 0; i < shape_.size(); ++i) extents[i] = static_cast<hsize_t>(i == 0 ? rows : shape_[i]);
  if (rows < 0 || H5Dset_extent(id(), extents.data()) < 0) {
    return io_error(fmt::format("{}: cannot resize to {} rows: {}", where(), rows, reason()));
  }
  shape_[0] = rows;
  return {};
}

// ---- groups

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
      return io_error(fmt::format("{}: cannot create group {}: {}", file_path_, child_name(part), reason()));
    }
  }
  return {};
}

bool Hdf5Group::has(const std::string& name) const {
  const Lock lock;
  return check_links(name).has_value();
}

Result<std::vector<std::string>> Hdf5Group::names() const {
  const Lock lock;
  std::vector<std::string> found;
  const herr_t status = H5Literate(
      id(), H5_INDEX_NAME, H5_ITER_INC, nullptr,
      [](hid_t, const char* name, const H5L_info_t*, void* data) -> herr_t {
        static_cast<std::vector<std::string>*>(data)->emplace_back(name);
        return 0;
      },
      &found);
  if (status < 0) return bad_input(fmt::format("{}: cannot list its members: {}", where(), reason()));
  std::sort(found.begin(), found.end());
  return found;
}

Result<Hdf5Group> Hdf5Group::create_group(const std::string& name) {
  const Lock lock;
  if (auto made = make_parents(name); !made) return tl::make_unexpected(made.error());
  Hdf5Handle handle(new_group(id(), name));
  if (!handle.valid()) {
    return io_error(fmt::format("{}: cannot create group {}: {}", file_path_, child_name(name), reason()));
  }
  return Hdf5Group(std::move(handle), file_path_, child_name(name));
}

Result<Hdf5Group> Hdf5Group::open_group(const std::string& name) const {
  const Lock lock;
  if (auto plain = check_links(name); !plain) return tl::make_unexpected(plain.error());
  Hdf5Handle handle(H5Oopen(id(), name.c_str(), H5P_DEFAULT));
  if (!handle.valid()) return bad_input(fmt::format("{}: cannot open {}: {}", file_path_, child_name(name), reason()));
  if (H5Iget_type(handle.id()) != H5I_GROUP) {
    return bad_input(fmt::format("{}: {}: expected a group, found another object", file_path_, child_name(name)));
  }
  return Hdf5Group(std::move(handle), file_path_, child_name(name));
}

Result<Hdf5Dataset> Hdf5Group::create_dataset(const std::string& name, const Hdf5DatasetOptions& options) {
  const Lock lock;
  const std::string where = file_path_ + ": " + child_name(name);
  const auto rank = static_cast<int>(options.shape.size());
  const bool chunked = options.chunk_rows > 0;
  if (rank < 1 || rank > kMaxRank || *std::min_element(options.shape.begin(), options.shape.end()) < 0 ||
      (!chunked && (options.growable || options.checksum || options.deflate != 0))) {
    return bad_input(fmt::format("{}: cannot create a dataset of shape {} with {} rows per chunk", where,
                                 shape_text(options.shape), options.chunk_rows));
  }
  std::array<hsize_t, kMaxRank> extents{};
  std::array<hsize_t, kMaxRank> limits{};
  std::array<hsize_t, kMaxRank> chunk{};
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
    handle =
        Hdf5Handle(H5Dcreate2(id(), name.c_str(), file_type(options.type), space.id(), H5P_DEFAULT, plan.id(), H5P_DEFAULT));
  }
  if (!handle.valid()) return io_error(fmt::format("{}: cannot create the dataset: {}", where, reason()));
  Hdf5Dataset dataset(std::move(handle), file_path_, child_name(name));
  if (auto loaded = dataset.load(); !loaded) return tl::make_unexpected(loaded.error());
  return dataset;
}

Result<Hdf5Dataset> Hdf5Group::open_dataset(const std::string& name) const {
  const Lock lock;
  if (auto plain = check_links(name); !plain) return tl::make_unexpected(plain.error());
  Hdf5Handle handle(H5Oopen(id(), name.c_str(), H5P_DEFAULT));
  if (!handle.valid()) return bad_input(fmt::format("{}: cannot open {}: {}", file_path_, child_name(name), reason()));
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

// ---- files

Result<Hdf5File> Hdf5File::create(const std::string& path, std::int64_t user_block_bytes) {
  const Lock lock;
  const Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS));
  const Hdf5Handle plan(H5Pcreate(H5P_FILE_CREATE));
  H5Pset_libver_bounds(access.id(), H5F_LIBVER_V110, H5F_LIBVER_V110);
  H5Pset_file_locking(access.id(), false, true);  // files are written beside and renamed; some file systems cannot lock
  H5Pset_obj_track_times(plan.id(), false);
  if (user_block_bytes != 0 && H5Pset_userblock(plan.id(), static_cast<hsize_t>(user_block_bytes)) < 0) {
    return bad_input(fmt::format("{}: cannot reserve a user block of {} bytes: {}", path, user_block_bytes, reason()));
  }
  Hdf5File file;
  file.file_ = Hdf5Handle(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, plan.id(), access.id()));
  if (!file.file_.valid()) return io_error(fmt::format("{}: cannot create: {}", path, reason()));
  file.root_ = Hdf5Group(Hdf5Handle(H5Gopen2(file.file_.id(), "/", H5P_DEFAULT)), path, "/");
  return file;
}

Result<Hdf5File> Hdf5File::open(const std::string& path) {
  const Lock lock;
  if (::access(path.c_str(), R_OK) != 0) {
    return io_error(fmt::format("{}: cannot open: {}", path, std::generic_category().message(errno)));
  }
  const Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS));
  H5Pset_file_locking(access.id(), false, true);
  Hdf5File file;
  file.file_ = Hdf5Handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.id()));
  if (!file.file_.valid()) return bad_input(fmt::format("{}: not a whole HDF5 file: {}", path, reason()));
  file.root_ = Hdf5Group(Hdf5Handle(H5Gopen2(file.file_.id(), "/", H5P_DEFAULT)), path, "/");
  if (!file.root_.handle_.valid()) return bad_input(fmt::format("{}: cannot open its root group: {}", path, reason()));
  return file;
}

Result<void> Hdf5File::close() {
  const Lock lock;
  if (!file_.valid()) return {};
  const std::string path = root_.file_path();
  const bool flushed = H5Fflush(file_.id(), H5F_SCOPE_GLOBAL) >= 0;
  const std::string why = flushed ? "" : reason();
  root_ = Hdf5Group();
  const bool closed = H5Fclose(file_.release()) >= 0;
  if (!flushed || !closed) return io_error(fmt::format("{}: cannot write it out: {}", path, flushed ? reason() : why));
  return {};
}

}  // namespace quern
