// Attributes of groups and datasets: single numbers and strings.
#include <fmt/format.h>

#include <limits>
#include <string>

#include "model/hdf5_file.hpp"
#include "model/hdf5_library_internal.hpp"

namespace quern {
namespace {

using internal::hdf5_file_type;
using internal::hdf5_find_type;
using internal::hdf5_memory_type;
using internal::hdf5_reason;
using internal::Hdf5Handle;
using internal::Hdf5Lock;

constexpr std::size_t kMaxAttributeBytes = 60'000;  // object headers hold messages below 64 KiB

Result<Hdf5Handle> open_scalar_attribute(hid_t object, const std::string& where, const std::string& name) {
  if (H5Aexists(object, name.c_str()) <= 0) {
    H5Eclear2(H5E_DEFAULT);
    return bad_input(fmt::format("{}: attribute \"{}\" is missing", where, name));
  }
  Hdf5Handle attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT));
  if (!attribute.valid()) return bad_input(fmt::format("{}: cannot open attribute \"{}\": {}", where, name, hdf5_reason()));
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
  if (!stored.valid() || H5Tequal(stored.id(), hdf5_file_type(type)) <= 0) {
    Hdf5Type found{};
    return bad_input(
        fmt::format("{}: attribute \"{}\": expected {}, found {}", where, name, hdf5_type_name(type),
                    stored.valid() && hdf5_find_type(stored.id(), found) ? hdf5_type_name(found) : "another type"));
  }
  if (H5Aread(attribute->id(), hdf5_memory_type(type), out) < 0) {
    return bad_input(fmt::format("{}: cannot read attribute \"{}\": {}", where, name, hdf5_reason()));
  }
  return {};
}

Result<void> write_attribute(hid_t object, const std::string& where, const std::string& name, hid_t stored, hid_t memory,
                             const void* value) {
  if (H5Aexists(object, name.c_str()) > 0) H5Adelete(object, name.c_str());
  const Hdf5Handle space(H5Screate(H5S_SCALAR));
  const Hdf5Handle attribute(H5Acreate2(object, name.c_str(), stored, space.id(), H5P_DEFAULT, H5P_DEFAULT));
  if (!attribute.valid() || H5Awrite(attribute.id(), memory, value) < 0) {
    return io_error(fmt::format("{}: cannot write attribute \"{}\": {}", where, name, hdf5_reason()));
  }
  return {};
}

}  // namespace

bool Hdf5Object::has_attribute(const std::string& name) const {
  const Hdf5Lock lock;
  const bool exists = H5Aexists(id(), name.c_str()) > 0;
  H5Eclear2(H5E_DEFAULT);
  return exists;
}

Result<void> Hdf5Object::set_attribute(const std::string& name, std::int64_t value) {
  const Hdf5Lock lock;
  return write_attribute(id(), where(), name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

Result<void> Hdf5Object::set_attribute(const std::string& name, double value) {
  const Hdf5Lock lock;
  return write_attribute(id(), where(), name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
}

Result<void> Hdf5Object::set_attribute(const std::string& name, std::string_view value) {
  const Hdf5Lock lock;
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
  const Hdf5Lock lock;
  std::int64_t value = 0;
  if (auto read = read_number(id(), where(), name, Hdf5Type::i64, &value); !read) return tl::make_unexpected(read.error());
  return value;
}

Result<double> Hdf5Object::double_attribute(const std::string& name) const {
  const Hdf5Lock lock;
  double value = 0;
  if (auto read = read_number(id(), where(), name, Hdf5Type::f64, &value); !read) return tl::make_unexpected(read.error());
  return value;
}

Result<std::string> Hdf5Object::string_attribute(const std::string& name) const {
  const Hdf5Lock lock;
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
    return bad_input(fmt::format("{}: cannot read attribute \"{}\": {}", where(), name, hdf5_reason()));
  }
  value.resize(std::min(value.find('\0'), value.size()));
  return value;
}

}  // namespace quern
