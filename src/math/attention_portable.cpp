// Attention for any processor: the compiler's baseline vectors.
#include "math/attention_tasks-inl.hpp"

namespace quern {

const AttentionKernels* attention_kernels_portable() {
  static constexpr AttentionKernels kKernels = {"portable", forward_task<F32Products<float>>,
                                                forward_task<F32Products<bf16>>, backward_task<F32Products<float>>,
                                                backward_task<F32Products<bf16>>};
  return &kKernels;
}

}  // namespace quern
