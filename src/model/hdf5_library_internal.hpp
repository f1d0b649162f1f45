// The HDF5 library behind hdf5_file.hpp: its lock, its errors and its types. Internal to hdf5_*.cpp.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <type_traits>

#include "model/hdf5_file.hpp"

namespace quern::internal {

static_assert(std::is_same_v<hid_t, std::int64_t>, "handles are kept as int64");

constexpr int kHdf5MaxRank = 4;

/// The one lock around the library, and the switch that keeps it from printing its error stack.
class Hdf5Lock {
 public:
  Hdf5Lock() : guard_(mutex()) {
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

/// The innermost sentence of HDF5's error stack, for messages.
[[nodiscard]] std::string hdf5_reason();

[[nodiscard]] hid_t hdf5_file_type(Hdf5Type type);
[[nodiscard]] hid_t hdf5_memory_type(Hdf5Type type);
/// Which of our types a stored type is; false for strings, compounds, odd bit layouts and the like.
[[nodiscard]] bool hdf5_find_type(hid_t stored, Hdf5Type& out);

/// "[3, any]": negative sizes stand for any.
[[nodiscard]] std::string hdf5_shape_text(std::span<const std::int64_t> shape);

}  // namespace quern::internal
