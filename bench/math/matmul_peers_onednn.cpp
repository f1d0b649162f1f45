// oneDNN, where the build found it.
#include "matmul_peers.hpp"

#ifdef QUERN_HAVE_DNNL
#include <omp.h>

#include <dnnl.hpp>
#include <memory>
#include <unordered_map>
#include <utility>

namespace quern {
namespace {

using dnnl::memory;

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

memory::data_type type_of(ElementType type) {
  return type == ElementType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

memory view(const memory::desc& shape, const void* data) { return {shape, engine(), const_cast<void*>(data)}; }

Contender contender(std::string name, int threads, dnnl::primitive primitive, std::unordered_map<int, memory> arguments) {
  auto stream = std::make_shared<dnnl::stream>(engine());
  return {std::move(name), [threads, primitive = std::move(primitive), arguments = std::move(arguments), stream] {
            omp_set_num_threads(threads);
            primitive.execute(*stream, arguments);
            stream->wait();
          }};
}

void add_matmul(const Problem& p, bool packed, std::vector<Contender>& contenders) {
  const memory::data_type type = type_of(p.operand);
  const memory::dims left_strides = p.product == Product::backward_weight ? memory::dims{1, p.n} : memory::dims{p.sums(), 1};
  const memory::dims right_strides = p.product == Product::forward ? memory::dims{1, p.sums()} : memory::dims{p.cols(), 1};
  const memory::desc left({p.rows(), p.sums()}, type, left_strides);
  const memory::desc right({p.sums(), p.cols()}, type, right_strides);
  const memory::desc right_any({p.sums(), p.cols()}, type, memory::format_tag::any);
  const memory::desc out({p.rows(), p.cols()}, type_of(p.out), memory::format_tag::ab);
  const dnnl::matmul::primitive_desc chosen(dnnl::matmul::desc(left, packed ? right_any : right, out), engine(), true);
  if (!chosen) return;
  memory weights = view(right, p.right);
  if (packed) {
    memory copy(chosen.weights_desc(), engine());
    dnnl::stream stream(engine());
    dnnl::reorder(weights, copy).execute(stream, weights, copy);
    stream.wait();
    weights = copy;
  }
  contenders.push_back(
      contender(packed ? "onednn packed" : "onednn", p.threads, dnnl::matmul(chosen),
                {{DNNL_ARG_SRC, view(left, p.left)}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, view(out, p.result)}}));
}

/// dW as the gradient of a fully connected layer, with plain activations.
void add_inner_product(const Problem& p, std::vector<Contender>& contenders) {
  const memory::data_type type = type_of(p.operand);
  const memory::desc x({p.m, p.k}, type, memory::format_tag::ab);
  const memory::desc dy({p.m, p.n}, type, memory::format_tag::ab);
  const memory::desc w({p.n, p.k}, type, memory::format_tag::ab);
  const memory::desc dw({p.n, p.k}, type_of(p.out), memory::format_tag::ab);
  using Forward = dnnl::inner_product_forward;
  using Backward = dnnl::inner_product_backward_weights;
  const Forward::primitive_desc hint(Forward::desc(dnnl::prop_kind::forward_training, x, w, dy), engine(), true);
  if (!hint) return;
  const Backward::primitive_desc chosen(Backward::desc(x, dw, dy), engine(), hint, true);
  if (!chosen) return;
  contenders.push_back(contender("onednn ip", p.threads, Backward(chosen),
                                 {{DNNL_ARG_SRC, view(x, p.right)},
                                  {DNNL_ARG_DIFF_DST, view(dy, p.left)},
                                  {DNNL_ARG_DIFF_WEIGHTS, view(dw, p.result)}}));
}

}  // namespace

void add_onednn_peers(const Problem& problem, std::vector<Contender>& contenders) {
  omp_set_num_threads(problem.threads);  // a primitive is made for the thread count of its making
  add_matmul(problem, false, contenders);
  if (problem.product == Product::backward_weight) {
    add_inner_product(problem, contenders);
  } else {
    add_matmul(problem, true, contenders);
  }
}

}  // namespace quern

#else
namespace quern {
void add_onednn_peers(const Problem& /*problem*/, std::vector<Contender>& /*contenders*/) {}
}  // namespace quern
#endif
