// The three products beside other libraries, at the training shapes of five models and at squares. All contenders take
// turns in one process (A B C A B C ...), because speeds of shared machines drift; the median and the best call count.
//
//   tools/setup.sh bench peers
//   matmul_peers_bench [--type f32,bf16,avx2] [--threads 1,2] [--rounds 7] [--shapes REGEX] [--products y,dx,dw] [--json]
//
// f32: Quern's best path, OpenBLAS, BLIS and oneDNN (plain weights, and packed beforehand). bf16: Quern and oneDNN, results
// in bf16 or f32. avx2: Quern's AVX2 path beside Eigen compiled for AVX2. Quern's weights are packed beforehand too; dW
// packs on the way everywhere. With OMP_PROC_BIND and friends unset all share one OpenMP runtime and its threads. QUERN_ISA
// chooses another path; OPENBLAS_CORETYPE and BLIS_ARCH_TYPE are set to their AVX-512 kernels unless they are given.
//
// `peak` is the register peak at that thread count, measured once in every round; the share is of the rounds' medians.
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "math/aligned_buffer.hpp"
#include "math/dispatch.hpp"
#include "math/matmul.hpp"
#include "math/peak.hpp"
#include "math/thread_team.hpp"
#include "matmul_peers.hpp"

namespace quern {
namespace {

struct Shape {
  std::string name;
  std::int64_t m = 0, n = 0, k = 0;
};

struct Options {
  std::vector<std::string> types = {"f32", "bf16", "avx2"};
  std::vector<int> threads = {1, 2};
  std::vector<std::string> products = {"y", "dx", "dw"};
  std::string shapes = ".*";
  int rounds = 7;
  double milliseconds = 4;
  bool json = false;
};

std::vector<Shape> all_shapes() {
  struct Model {
    const char* name;
    std::int64_t tokens, width, vocabulary;
  };
  std::vector<Shape> shapes;
  for (const Model& model : {Model{"shakespeare_char_cpu", 12 * 64, 128, 65}, Model{"loop_small", 32 * 128, 256, 10000},
                             Model{"loop_base", 16 * 256, 384, 16000}, Model{"shakespeare_char", 64 * 256, 384, 65},
                             Model{"gpt2_124m", 4 * 256, 768, 50304}}) {
    const auto add = [&](const char* layer, std::int64_t n, std::int64_t k) {
      shapes.push_back({fmt::format("{} {}", model.name, layer), model.tokens, n, k});
    };
    add("qkv", 3 * model.width, model.width);
    add("out", model.width, model.width);
    add("up", 4 * model.width, model.width);
    add("down", model.width, 4 * model.width);
    add("head", model.vocabulary, model.width);
  }
  for (const std::int64_t n : {384, 512, 768, 1024, 2048}) shapes.push_back({fmt::format("square {}", n), n, n, n});
  return shapes;
}

AlignedBuffer filled(std::int64_t count, ElementType type) {
  AlignedBuffer made = AlignedBuffer::allocate(static_cast<std::size_t>(count * 4)).value();
  std::uint32_t state = 1;
  for (std::int64_t i = 0; i < count; ++i) {
    state = state * 1664525U + 1013904223U;
    const float v = (static_cast<float>(state >> 8) - 8388608.0F) / 8388608.0F;
    if (type == ElementType::bf16) {
      std::uint32_t bits = 0;
      std::memcpy(&bits, &v, 4);
      made.as<bf16>()[i].bits = static_cast<std::uint16_t>(bits >> 16);
    } else {
      made.as<float>()[i] = v;
    }
  }
  return made;
}

/// Quern's product, with the weight packed for it.
class Ours {
 public:
  Ours(const Problem& p, const KernelTable& kernels)
      : p_(p), backend_{.kernels = &kernels, .eigen = false}, team_(p.threads) {
    const std::size_t bytes = matmul_scratch_bytes(backend_, std::max(p.m, p.n), std::max({p.m, p.n, p.k}));
    for (int i = 0; i < p.threads; ++i) scratch_.push_back(AlignedBuffer::allocate(bytes).value());
    if (p.product == Product::backward_weight) return;
    const ComputeType compute = p.operand == ElementType::bf16 ? ComputeType::bf16 : ComputeType::f32;
    const PackedWeightBytes sizes = packed_weight_bytes(backend_, compute, p.n, p.k);
    const bool forward = p.product == Product::forward;
    pack_ = AlignedBuffer::allocate(forward ? sizes.forward : sizes.backward).value();
    const AlignedBuffer w = filled(p.n * p.k, ElementType::f32);
    run([&](Exec& exec) {
      const Weight made = pack_weight(exec, compute, w.as<float>(), p.n, p.k, forward ? pack_.data() : nullptr,
                                      forward ? nullptr : pack_.data());
      if (exec.member.index() == 0) weight_ = made;
    });
  }
  void compute() {
    run([&](Exec& exec) {
      const MutableMatrix out{p_.result, p_.out, p_.rows(), p_.cols(), p_.cols()};
      switch (p_.product) {
        case Product::forward:
          matmul_forward(exec, {p_.left, p_.operand, p_.m, p_.k, p_.k}, weight_, out);
          break;
        case Product::backward_input:
          matmul_backward_input(exec, {p_.left, p_.operand, p_.m, p_.n, p_.n}, weight_, out);
          break;
        case Product::backward_weight:
          matmul_backward_weight(exec, {p_.left, p_.operand, p_.m, p_.n, p_.n}, {p_.right, p_.operand, p_.m, p_.k, p_.k},
                                 static_cast<float*>(p_.result), nullptr, false);
          break;
      }
    });
  }

 private:
  template <class Body>
  void run(const Body& body) {
    team_.run([&](TeamMember& member) {
      AlignedBuffer& scratch = scratch_[static_cast<std::size_t>(member.index())];
      Exec exec{.member = member, .backend = backend_, .scratch = {scratch.data(), scratch.bytes()}};
      body(exec);
    });
  }
  Problem p_;
  Backend backend_;
  ThreadTeam team_;
  std::vector<AlignedBuffer> scratch_;
  AlignedBuffer pack_;
  Weight weight_;
};

Contender ours(const char* name, const Problem& problem, const KernelTable& kernels) {
  auto product = std::make_shared<Ours>(problem, kernels);
  return {name, [product] { product->compute(); }};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double seconds_of(const Contender& contender) {
  const auto start = std::chrono::steady_clock::now();
  contender.compute();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Largest difference from the first contender's result over the largest absolute value: a wrong call shows at once.
double disagreement(const Problem& p, const std::vector<Contender>& contenders) {
  const auto value = [&](std::int64_t i) {
    if (p.out == ElementType::f32) return static_cast<const float*>(p.result)[i];
    const std::uint32_t bits = std::uint32_t{static_cast<const bf16*>(p.result)[i].bits} << 16;
    float v = 0;
    std::memcpy(&v, &bits, 4);
    return v;
  };
  const std::int64_t count = p.rows() * p.cols();
  const std::int64_t stride = std::max<std::int64_t>(1, count / 4099);
  std::vector<float> expected;
  double worst = 0.0, largest = 1e-30;
  for (const Contender& contender : contenders) {
    contender.compute();
    const bool first = expected.empty();
    std::size_t next = 0;
    for (std::int64_t i = 0; i < count; i += stride) {
      if (first) {
        expected.push_back(value(i));
        largest = std::max(largest, std::abs(static_cast<double>(value(i))));
      } else {
        worst = std::max(worst, std::abs(static_cast<double>(value(i)) - static_cast<double>(expected[next])));
      }
      ++next;
    }
  }
  return worst / largest;
}

/// One row of the table: every contender at one product of one shape.
void measure(const Options& options, const Shape& shape, const std::string& type, Product product, ElementType out,
             int threads) {
  const bool narrow = type == "bf16";
  Problem p{.product = product,
            .m = shape.m,
            .n = shape.n,
            .k = shape.k,
            .operand = narrow ? ElementType::bf16 : ElementType::f32,
            .out = out,
            .threads = threads};
  const AlignedBuffer left = filled(p.rows() * p.sums(), p.operand);
  const AlignedBuffer right = filled(p.sums() * p.cols(), p.operand);
  AlignedBuffer result = filled(p.rows() * p.cols(), ElementType::f32);
  p.left = left.data();
  p.right = right.data();
  p.result = result.data();

  const KernelTable& kernels = type == "avx2" ? *kernels_named("avx2").value() : *chosen_kernels().value();
  std::vector<Contender> contenders;
  contenders.push_back(ours("quern", p, kernels));
  if (type == "avx2") {
    add_eigen_avx2_peer(p, contenders);
  } else {
    add_blas_peers(p, contenders);
    add_onednn_peers(p, contenders);
  }
  const double apart = disagreement(p, contenders);
  const int calls = std::clamp(static_cast<int>(options.milliseconds * 1e-3 / seconds_of(contenders[0])), 1, 1000);
  const Backend backend{.kernels = &kernels, .eigen = false};
  ThreadTeam team(threads);
  std::vector<double> peaks;
  std::vector<std::vector<double>> rates(contenders.size());
  const double flops = 2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k);
  for (int round = 0; round < options.rounds; ++round) {
    peaks.push_back(register_peak_flops(team, backend, narrow ? ComputeType::bf16 : ComputeType::f32, 0.004) * 1e-9);
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      for (int call = 0; call < calls; ++call) rates[i].push_back(flops / seconds_of(contenders[i]) * 1e-9);
    }
  }

  static const std::map<Product, const char*> kNames = {
      {Product::forward, "y"}, {Product::backward_input, "dx"}, {Product::backward_weight, "dw"}};
  const double mine = median(rates[0]);
  double best_peer = 0.0;
  for (std::size_t i = 1; i < rates.size(); ++i) best_peer = std::max(best_peer, median(rates[i]));
  const char* out_name = out == ElementType::bf16 ? "bf16" : "f32";
  if (options.json) {
    nlohmann::json line{{"shape", shape.name},
                        {"m", p.m},
                        {"n", p.n},
                        {"k", p.k},
                        {"type", type},
                        {"out", out_name},
                        {"product", kNames.at(product)},
                        {"threads", threads},
                        {"peak_gflops", median(peaks)},
                        {"largest_difference", apart}};
    for (std::size_t i = 0; i < rates.size(); ++i) {
      line["gflops"][contenders[i].name] = {{"median", median(rates[i])}, {"best", std::ranges::max(rates[i])}};
    }
    fmt::print("{}\n", line.dump());
  } else {
    fmt::print("{:26} {:>5}x{:>5}x{:>5} {:4}>{:4} {:2} {}t | peak {:6.0f} |", shape.name, p.m, p.n, p.k, type, out_name,
               kNames.at(product), threads, median(peaks));
    for (std::size_t i = 0; i < rates.size(); ++i) {
      fmt::print(" {} {:.0f} ({:.0f})", contenders[i].name, median(rates[i]), std::ranges::max(rates[i]));
    }
    fmt::print(" | ratio {:.2f} share {:.2f}{}\n", best_peer > 0.0 ? mine / best_peer : 0.0, mine / median(peaks),
               apart > (narrow ? 2e-2 : 1e-4) ? fmt::format(" DIFFER by {:.1e}", apart) : "");
  }
  std::fflush(stdout);
}

void measure_all(const Options& options) {
  const std::regex wanted(options.shapes);
  const std::set<std::string> products(options.products.begin(), options.products.end());
  for (const std::string& type : options.types) {
    for (const int threads : options.threads) {
      for (const Shape& shape : all_shapes()) {
        if (!std::regex_search(shape.name, wanted)) continue;
        for (const auto& [name, product] : {std::pair{"y", Product::forward}, std::pair{"dx", Product::backward_input},
                                            std::pair{"dw", Product::backward_weight}}) {
          if (!products.contains(name)) continue;
          const bool narrow_out = type == "bf16" && product != Product::backward_weight;
          if (narrow_out) measure(options, shape, type, product, ElementType::bf16, threads);
          measure(options, shape, type, product, ElementType::f32, threads);
        }
      }
    }
  }
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  quern::Options options;
  CLI::App app("Matrix products beside other libraries, taking turns");
  app.add_option("--type", options.types, "f32, bf16, avx2")
      ->delimiter(',')
      ->check(CLI::IsMember({"f32", "bf16", "avx2"}))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "thread counts")->delimiter(',')->check(CLI::PositiveNumber);
  app.add_option("--products", options.products, "y, dx, dw")->delimiter(',')->check(CLI::IsMember({"y", "dx", "dw"}));
  app.add_option("--shapes", options.shapes, "regular expression over shape names, such as 'gpt2.*head|square'");
  app.add_option("--rounds", options.rounds, "turns of each")->check(CLI::PositiveNumber);
  app.add_option("--milliseconds", options.milliseconds, "least duration of one turn");
  app.add_flag("--json", options.json, "one JSON object a line");
  CLI11_PARSE(app, argc, argv);
  if (!quern::chosen_kernels().has_value()) {
    fmt::print(stderr, "{}\n", quern::chosen_kernels().error().message);
    return 2;
  }
  try {
    quern::measure_all(options);
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 2;
  }
  return 0;
}
