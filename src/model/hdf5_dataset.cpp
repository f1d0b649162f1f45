// Datasets: what a file says of them is checked before it is believed; rows in and out.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>

#include "model/hdf5_file.hpp"
#include "model/hdf5_library_internal.hpp"

namespace quern {
namespace {

using internal::hdf5_find_type;
using internal::hdf5_memory_type;
using internal::hdf5_reason;
using internal::hdf5_shape_text;
using internal::Hdf5Handle;
using internal::Hdf5Lock;
using internal::kHdf5MaxRank;

// a * b for values that are not negative; false on overflow of int64.
bool multiply(std::int64_t a, std::int64_t b, std::int64_t& product) { return !__builtin_mul_overflow(a, b, &product); }

}  // namespace

Result<void> Hdf5Dataset::load() {
  const Hdf5Handle stored(H5Dget_type(id()));
  if (!stored.valid() || !hdf5_find_type(stored.id(), type_)) {
    return bad_input(fmt::format("{}: expected integers or floats of 1 to 8 bytes, found another type", where()));
  }
  const Hdf5Handle space(H5Dget_space(id()));
  const int rank = space.valid() ? H5Sget_simple_extent_ndims(space.id()) : -1;
  if (rank < 1 || rank > kHdf5MaxRank || H5Sget_simple_extent_type(space.id()) != H5S_SIMPLE) {
    return bad_input(fmt::format("{}: expected an array of 1 to {} dimensions, found {}", where(), kHdf5MaxRank, rank));
  }
  std::array<hsize_t, kHdf5MaxRank> extents{};
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
  if (!fits) return bad_input(fmt::format("{}: the shape {} has too many elements", where(), hdf5_shape_text(shape_)));

  const Hdf5Handle plan(H5Dget_create_plist(id()));
  if (!plan.valid()) return bad_input(fmt::format("{}: cannot read its properties: {}", where(), hdf5_reason()));
  const H5D_layout_t layout = H5Pget_layout(plan.id());
  if (layout == H5D_VIRTUAL || layout < 0 || H5Pget_external_count(plan.id()) > 0) {
    return bad_input(fmt::format("{}: expected data in this file, found a virtual or external dataset", where()));
  }
  if (layout == H5D_CHUNKED) {
    std::array<hsize_t, kHdf5MaxRank> chunk{};
    if (H5Pget_chunk(plan.id(), rank, chunk.data()) != rank) {
      return bad_input(fmt::format("{}: cannot read its chunk shape: {}", where(), hdf5_reason()));
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
  const Hdf5Lock lock;
  return static_cast<std::int64_t>(H5Dget_storage_size(id()));
}

Result<void> Hdf5Dataset::expect(Hdf5Type type, std::span<const std::int64_t> shape) const {
  if (type_ != type) {
    return bad_input(fmt::format("{}: expected {}, found {}", where(), hdf5_type_name(type), hdf5_type_name(type_)));
  }
  bool same = shape.size() == shape_.size();
  for (std::size_t i = 0; same && i < shape.size(); ++i) same = shape[i] < 0 || shape[i] == shape_[i];
  if (!same) {
    return bad_input(
        fmt::format("{}: expected shape {}, found {}", where(), hdf5_shape_text(shape), hdf5_shape_text(shape_)));
  }
  return {};
}

Result<void> Hdf5Dataset::transfer_rows(std::int64_t first, std::int64_t rows, Hdf5Type type, void* memory,
                                        std::size_t memory_elements, bool write) const {
  const Hdf5Lock lock;
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
  std::array<hsize_t, kHdf5MaxRank> start{};
  std::array<hsize_t, kHdf5MaxRank> count{};
  start[0] = static_cast<hsize_t>(first);
  count[0] = static_cast<hsize_t>(rows);
  for (std::size_t i = 1; i < shape_.size(); ++i) count[i] = static_cast<hsize_t>(shape_[i]);
  const auto dense = static_cast<hsize_t>(elements);
  const Hdf5Handle flat(H5Screate_simple(1, &dense, nullptr));
  if (!space.valid() || !flat.valid() ||
      H5Sselect_hyperslab(space.id(), H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr) < 0) {
    return io_error(fmt::format("{}: cannot select rows: {}", where(), hdf5_reason()));
  }
  const herr_t status = write ? H5Dwrite(id(), hdf5_memory_type(type), flat.id(), space.id(), H5P_DEFAULT, memory)
                              : H5Dread(id(), hdf5_memory_type(type), flat.id(), space.id(), H5P_DEFAULT, memory);
  if (status < 0) {
    const std::string why = hdf5_reason();
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
  const Hdf5Lock lock;
  std::array<hsize_t, kHdf5MaxRank> extents{};
  for (std::size_t i = 0; i < shape_.size(); ++i) extents[i] = static_cast<hsize_t>(i == 0 ? rows : shape_[i]);
  if (rows < 0 || H5Dset_extent(id(), extents.data()) < 0) {
    return io_error(fmt::format("{}: cannot resize to {} rows: {}", where(), rows, hdf5_reason()));
  }
  shape_[0] = rows;
  return {};
}

}  // namespace quern
