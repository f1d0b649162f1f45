// OpenBLAS and BLIS. Both define cblas_sgemm, so each is loaded by itself with its symbols kept local.
#include <dlfcn.h>

#include <cstdlib>

#include "math/dispatch.hpp"
#include "matmul_peers.hpp"

namespace quern {
namespace {

constexpr int kRowMajor = 101;
constexpr int kNoTranspose = 111;
constexpr int kTranspose = 112;
using Sgemm = void (*)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float* a, int lda,
                       const float* b, int ldb, float beta, float* c, int ldc);

struct Blas {
  const char* name = nullptr;
  Sgemm sgemm = nullptr;
  void (*set_threads)(std::int64_t threads) = nullptr;  // the libraries take int or long: the same register
};

Blas load(const char* name, std::vector<const char*> files, const char* set_threads) {
  for (const char* file : files) {
    void* library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) continue;
    Blas blas{.name = name};
    blas.sgemm = reinterpret_cast<Sgemm>(dlsym(library, "cblas_sgemm"));
    blas.set_threads = reinterpret_cast<void (*)(std::int64_t)>(dlsym(library, set_threads));
    if (blas.sgemm != nullptr && blas.set_threads != nullptr) return blas;
  }
  return {.name = name};
}

const std::vector<Blas>& libraries() {
  static const std::vector<Blas> loaded = [] {
    if (kernels_named("avx512").has_value()) {
      setenv("OPENBLAS_CORETYPE", "SkylakeX", 0);
      setenv("BLIS_ARCH_TYPE", "0", 0);  // skx
    }
    return std::vector<Blas>{
        load("openblas", {"/usr/lib/x86_64-linux-gnu/openblas-openmp/libopenblas.so.0", "libopenblas.so.0"},
             "openblas_set_num_threads"),
        load("blis", {"/usr/lib/x86_64-linux-gnu/blis-openmp/libblis.so.4", "libblis.so.4"}, "bli_thread_set_num_threads")};
  }();
  return loaded;
}

}  // namespace

void add_blas_peers(const Problem& problem, std::vector<Contender>& contenders) {
  if (problem.operand != ElementType::f32 || problem.out != ElementType::f32) return;
  for (const Blas& blas : libraries()) {
    if (blas.sgemm == nullptr) continue;
    contenders.push_back({blas.name, [&blas, p = problem] {
                            const bool gradient = p.product == Product::backward_weight;
                            blas.set_threads(p.threads);
                            blas.sgemm(kRowMajor, gradient ? kTranspose : kNoTranspose,
                                       p.product == Product::forward ? kTranspose : kNoTranspose, static_cast<int>(p.rows()),
                                       static_cast<int>(p.cols()), static_cast<int>(p.sums()), 1.0F,
                                       static_cast<const float*>(p.left), static_cast<int>(gradient ? p.rows() : p.sums()),
                                       static_cast<const float*>(p.right),
                                       static_cast<int>(p.product == Product::forward ? p.sums() : p.cols()), 0.0F,
                                       static_cast<float*>(p.result), static_cast<int>(p.cols()));
                          }});
  }
}

}  // namespace quern
