// Text from a model that Quern trained: example RUN_FOLDER PROMPT
#include <algorithm>
#include <cstdio>
#include <string>

#include "infer/decoder.hpp"
#include "infer/generator.hpp"
#include "infer/loaded_model.hpp"
#include "infer/sampler.hpp"
#include "math/dispatch.hpp"
#include "math/thread_team.hpp"

int fail(const quern::Error& error) { return std::fprintf(stderr, "example: %s\n", error.message.c_str()), 1; }

int main(int argc, char** argv) {
  using namespace quern;
  if (argc != 3) return fail({ErrorCode::bad_input, "usage: example RUN_FOLDER PROMPT"});

  // The fastest kernels that this machine can run, and threads that share the work.
  const auto kernels = chosen_kernels();
  if (!kernels) return fail(kernels.error());
  const Backend backend{.kernels = *kernels};
  ThreadTeam team(default_thread_count());

  // The run's best checkpoint holds the weights, what the model is, and the tokenizer.
  const auto model = LoadedModel::load(argv[1], backend, team);
  if (!model) return fail(model.error());
  const std::int64_t context = (*model)->context_tokens();
  const auto decoder = Decoder::create(backend, (*model)->weights(), team, {.context_tokens = context});
  if (!decoder) return fail(decoder.error());
  const auto prompt = (*model)->tokenizer().encode(argv[2]);
  if (!prompt) return fail(prompt.error());

  Sampler sampler((*model)->weights().config.vocab, {.temperature = 0.8F, .top_k = 40, .seed = 7});
  StreamingDecoder text((*model)->tokenizer());
  const auto done = generate(**decoder, *prompt, sampler, {.max_tokens = 30},
                             [&](std::int32_t token) { return std::fputs(text.push(token).c_str(), stdout) >= 0; });
  if (!done) return fail(done.error());
  std::printf("%s\n(%td tokens, %s)\n", text.finish().c_str(), std::ssize(done->tokens), isa_name((*kernels)->isa).data());
}
