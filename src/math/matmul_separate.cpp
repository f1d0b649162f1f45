#include "math/matmul_separate_internal.hpp"

#include <algorithm>
#include <array>

namespace quern::internal {

namespace {

/// Columns that a pass holds in f32 at a time.
constexpr std::int64_t kPieceCols = 1024;
/// Rows that a thread takes at a time.
constexpr std::int64_t kPassRows = 8;

template <class T>
const ElementwiseKernelsFor<T>& kernels_of(const Exec& exec) {
  if constexpr (std::is_same_v<T, float>) {
    return exec.backend.kernels->elementwise->f32;
  } else {
    return exec.backend.kernels->elementwise->b16;
  }
}

/// One piece of a row of the output.
template <class T>
struct RowPiece {
  std::int64_t row, col, cols;
  T* out;
};

/// Calls `work(const RowPiece<T>&)` on every piece of `out`; rows are shared among the team, which waits at the end.
template <class T, class Work>
void for_pieces(Exec& exec, const MutableMatrix& out, Work&& work) {
  exec.member.for_each((out.rows + kPassRows - 1) / kPassRows, [&](std::int64_t block) {
    for (std::int64_t row = block * kPassRows; row < std::min((block + 1) * kPassRows, out.rows); ++row) {
      for (std::int64_t col = 0; col < out.cols; col += kPieceCols) {
        work(RowPiece<T>{row, col, std::min(kPieceCols, out.cols - col),
                         static_cast<T*>(out.data) + row * out.row_stride + col});
      }
    }
  });
}

/// One pass: each element as f32 through `change(const RowPiece<T>&, float*)`.
template <class T, class Change>
void change_all(Exec& exec, const MutableMatrix& out, Change&& change) {
  const ElementwiseKernelsFor<T>& kernels = kernels_of<T>(exec);
  for_pieces<T>(exec, out, [&](const RowPiece<T>& piece) {
    alignas(64) std::array<float, kPieceCols> values;
    kernels.to_f32(piece.out, piece.cols, values.data(), piece.cols, 1, piece.cols);
    change(piece, values.data());
    kernels.from_f32(values.data(), piece.cols, piece.out, piece.cols, 1, piece.cols);
  });
}

template <class T>
void forward_passes(Exec& exec, const MutableMatrix& out, const Epilogue& e) {
  const ElementwiseKernels& kernels = *exec.backend.kernels->elementwise;
  if (e.bias != nullptr) {
    change_all<T>(exec, out, [&](const RowPiece<T>& piece, float* x) { kernels.add(e.bias + piece.col, x, piece.cols); });
  }
  if (e.pre_activation != nullptr) {
    T* const kept = static_cast<T*>(e.pre_activation);
    for_pieces<T>(exec, out, [&](const RowPiece<T>& piece) {
      std::copy_n(piece.out, piece.cols, kept + piece.row * e.pre_activation_stride + piece.col);
    });
  }
  if (e.activation != Activation::none) {
    change_all<T>(exec, out, [&](const RowPiece<T>& piece, float* x) {
      kernels.f32.activation_forward(e.activation, x, piece.cols, x, piece.cols, 1, piece.cols);
    });
  }
  if (e.residual != nullptr) {
    change_all<T>(exec, out, [&](const RowPiece<T>& piece, float* x) {
      kernels.add(e.residual + piece.row * e.residual_stride + piece.col, x, piece.cols);
    });
  }
}

template <class T>
void backward_passes(Exec& exec, const MutableMatrix& out, const Epilogue& e) {
  const ElementwiseKernelsFor<T>& kernels = kernels_of<T>(exec);
  for_pieces<T>(exec, out, [&](const RowPiece<T>& piece) {
    alignas(64) std::array<float, kPieceCols> gradient;
    kernels.to_f32(piece.out, piece.cols, gradient.data(), piece.cols, 1, piece.cols);
    ActivationBackward<T> to{.activation = e.activation, .dout = gradient.data(), .dout_stride = piece.cols};
    to.pre = static_cast<const T*>(e.activation_input) + piece.row * e.activation_input_stride + piece.col;
    to.dpre = piece.out;
    if (e.activation_output != nullptr) {
      to.act = static_cast<T*>(e.activation_output) + piece.row * e.activation_output_stride + piece.col;
    }
    to.rows = 1;
    to.cols = piece.cols;
    to.pre_stride = to.dpre_stride = to.act_stride = piece.cols;
    kernels.activation_backward(to);
  });
  if (e.kept_output == nullptr) return;
  T* const kept = static_cast<T*>(e.kept_output);
  for_pieces<T>(exec, out, [&](const RowPiece<T>& piece) {
    std::copy_n(piece.out, piece.cols, kept + piece.row * out.row_stride + piece.col);
  });
}

template <class T>
void all_passes(Exec& exec, const MutableMatrix& out, const Epilogue& epilogue) {
  if (epilogue.activation_input != nullptr) {
    backward_passes<T>(exec, out, epilogue);
  } else {
    forward_passes<T>(exec, out, epilogue);
  }
}

}  // namespace

bool ends_apart(const Backend& backend, const MutableMatrix& out, const Epilogue& epilogue) {
  const bool accumulates = epilogue.residual != nullptr && static_cast<const void*>(epilogue.residual) == out.data;
  if (backend.fused || accumulates) return false;
  return epilogue.bias != nullptr || epilogue.activation != Activation::none || epilogue.pre_activation != nullptr ||
         epilogue.residual != nullptr || epilogue.activation_input != nullptr;
}

void separate_epilogue(Exec& exec, const MutableMatrix& out, const Epilogue& epilogue) {
  if (out.type == ElementType::bf16) {
    all_passes<bf16>(exec, out, epilogue);
  } else {
    all_passes<float>(exec, out, epilogue);
  }
}

}  // namespace quern::internal
