// K-quant quantizers in AVX-512.
#include "math/block_quantize_k_table-inl.hpp"

static_assert(HWY_STATIC_TARGET == HWY_AVX3, "needs the flags of AVX2 and of AVX-512 F, CD, BW, DQ and VL, and no more");

namespace quern {

BlockQuantizer block_quantizer_k_avx512() { return kq::quantize; }

}  // namespace quern
