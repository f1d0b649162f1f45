// Eigen compiled for AVX2 and FMA, under a namespace of its own: the library's other files hold Eigen for other flags.
#define Eigen EigenForAvx2
#include <Eigen/Core>

#include "matmul_peers.hpp"

namespace quern {

void add_eigen_avx2_peer(const Problem& problem, std::vector<Contender>& contenders) {
  if (problem.operand != ElementType::f32 || problem.out != ElementType::f32) return;
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  contenders.push_back({"eigen avx2", [p = problem] {
                          Eigen::setNbThreads(p.threads);
                          const auto* left = static_cast<const float*>(p.left);
                          const auto* right = static_cast<const float*>(p.right);
                          Eigen::Map<Matrix> out(static_cast<float*>(p.result), p.rows(), p.cols());
                          switch (p.product) {
                            case Product::forward:
                              out.noalias() = Eigen::Map<const Matrix>(left, p.m, p.k) *
                                              Eigen::Map<const Matrix>(right, p.n, p.k).transpose();
                              break;
                            case Product::backward_input:
                              out.noalias() =
                                  Eigen::Map<const Matrix>(left, p.m, p.n) * Eigen::Map<const Matrix>(right, p.n, p.k);
                              break;
                            case Product::backward_weight:
                              out.noalias() = Eigen::Map<const Matrix>(left, p.m, p.n).transpose() *
                                              Eigen::Map<const Matrix>(right, p.m, p.k);
                              break;
                          }
                        }});
}

}  // namespace quern
