// K-quant quantizers in AVX2.
#include "math/block_quantize_k_table-inl.hpp"

static_assert(HWY_STATIC_TARGET == HWY_AVX2, "needs the flags of AVX2, FMA, F16C, BMI, BMI2, AES and PCLMUL, and no more");

namespace quern {

BlockQuantizer block_quantizer_k_avx2() { return kq::quantize; }

}  // namespace quern
