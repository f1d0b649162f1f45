// HDF5's types, names and errors.
#include "model/hdf5_library_internal.hpp"

#include <fmt/format.h>

#include <array>
#include <string_view>
#include <utility>

namespace quern {
namespace {

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

}  // namespace

std::string_view hdf5_type_name(Hdf5Type type) { return row_of(type).name; }
std::size_t hdf5_type_bytes(Hdf5Type type) { return row_of(type).bytes; }

namespace internal {

std::string hdf5_reason() {
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

hid_t hdf5_file_type(Hdf5Type type) {
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

hid_t hdf5_memory_type(Hdf5Type type) {
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

bool hdf5_find_type(hid_t stored, Hdf5Type& out) {
  for (const TypeRow& row : kTypes) {
    if (H5Tequal(stored, hdf5_file_type(row.type)) > 0) {
      out = row.type;
      return true;
    }
  }
  return false;
}

void Hdf5Handle::reset() {
  if (id_ < 0) return;
  const Hdf5Lock lock;
  H5Idec_ref(std::exchange(id_, -1));
}

std::string hdf5_shape_text(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += shape[i] < 0 ? "any" : fmt::to_string(shape[i]);
  }
  return text + "]";
}

}  // namespace internal
}  // namespace quern
