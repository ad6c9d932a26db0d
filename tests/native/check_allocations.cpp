// Every kernel with its n-th allocation failing, for each n: what is thrown arrives with the caller, from whatever
// thread. An exception that left a thread of a parallel region would end the process.

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <new>

#include "attention/bfloat16_tree_attention.h"
#include "attention/float_tree_attention.h"
#include "checks.h"
#include "head/bfloat16_linear_logsumexp.h"
#include "head/float_linear_logsumexp.h"
#include "head/online_logsumexp.h"
#include "head/pair_logprobs.h"
#include "layer/bfloat16_experts.h"
#include "layer/bfloat16_linear.h"
#include "layer/layer_operations.h"
#include "simd/aligned_buffer.h"

namespace {

// Allocations that succeed before one fails; below 0 all do.
std::atomic<long> allocations_left{-1};

void* allocate(std::size_t bytes, std::size_t alignment) {
    if (allocations_left.load() >= 0 && allocations_left.fetch_sub(1) == 0) throw std::bad_alloc();
    void* memory = std::aligned_alloc(alignment, (bytes / alignment + 1) * alignment);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}

}  // namespace

__attribute__((noinline)) void* operator new(std::size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
__attribute__((noinline)) void* operator new(std::size_t bytes, std::align_val_t alignment) {
    return allocate(bytes, std::size_t(alignment));
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace instsel {
namespace {

// `run` until none of its allocations fails; `least` is how many it must have had.
void fail_each(const std::function<void()>& run, long least, const std::string& name) {
    for (long count = 0;; ++count) {
        bool failed = false;
        allocations_left = count;
        try {
            run();
        } catch (const std::bad_alloc&) {
            failed = true;
        }
        allocations_left = -1;
        if (!failed) return expect(count >= least, name + ": expected more allocations");
    }
}

template <class Element>
void fail_element(const std::string& name, InstructionSet instructions) {
    const std::int64_t rows = 40, columns = 64;
    const auto x = random_matrix<Element>(rows, columns, 1.0f), weight = random_matrix<Element>(rows, columns, 1.0f);
    std::vector<float> max(rows), logprobs(rows);
    std::vector<double> sum(rows);
    const RowStates states{max.data(), sum.data(), nullptr};
    const Matrix<Element> view{x.data(), rows, columns, columns}, weights{weight.data(), rows, columns, columns};
    const std::vector<std::int64_t> zeros(rows);
    fail_each([&] { float_linear_logsumexp<Element>(view, weights, {}, states, 2, instructions); }, 2, name + " head");
    fail_each([&] { accumulate<Element>({x.data(), rows, columns, columns, 0}, {}, nullptr, states, 2, instructions); },
              0, name + " logits");
    const Pairs pairs{zeros.data(), zeros.data(), nullptr, rows};
    fail_each([&] { pair_logprobs_from_hidden<Element>(view, weights, pairs, {}, states, logprobs.data(), 2, instructions); },
              0, name + " pairs");
}

template <class Element>
void fail_layers(const std::string& name, InstructionSet instructions) {
    const std::int64_t rows = 8, columns = 64;
    auto x = random_matrix<Element>(rows, columns, 1.0f), out = x;
    const auto y = x, weight = x;
    const NormSettings settings{0.0f, 1e-5f, true, true};
    fail_each([&] { layer_norm<Element>(x.data(), weight.data(), y.data(), settings, rows, columns, out.data(), 2, instructions); },
              3, name + " norm");
    fail_each([&] { gate_in_place<Element>(x.data(), y.data(), rows * columns, Activation::silu, 2, instructions); }, 0,
              name + " gate");
    const auto table = random_matrix<float>(rows, columns, 1.0f);
    fail_each([&] { rotate_in_place<Element>(x.data(), table.data(), table.data(), rows, 1, columns, columns, false, 2, instructions); },
              0, name + " rotation");
}

// Forty tokens and two children of four: paths of several blocks.
void fail_attention(InstructionSet instructions) {
    const std::int64_t tokens = 48, size = 32;
    const std::vector<std::int32_t> queries{0, 40, 44, 48}, start{0, 40, 44}, stop{40, 44, 48}, block{0, 2, 3, 4},
        paths{0, 1, 3, 5}, path_ranges{0, 0, 1, 0, 2};
    const TreeLayout layout{queries.data(), start.data(), stop.data(), block.data(), paths.data(), path_ranges.data(), 3, 3};
    const AttentionShape shape{size, 0.2f, 0.0f, 0};
    const auto x = random_matrix<float>(tokens, size, 1.0f);
    auto out = x;
    const HeadsView<const float> view{x.data(), tokens, 1, size, size};
    fail_each([&] { float_tree_attention({view, view, view, {out.data(), tokens, 1, size, size}}, layout, shape, 2, instructions); },
              4, "float attention");
    if (instructions < InstructionSet::avx512_bf16) return;
    const std::vector<std::uint16_t> bits(tokens * size, 0x3f80);
    auto rounded = bits;
    const HeadsView<const std::uint16_t> words{bits.data(), tokens, 1, size, size};
    const std::size_t bytes = std::size_t(bfloat16_tree_attention_workspace(4, 1, size));
    auto* workspace = static_cast<std::uint8_t*>(::operator new(bytes, std::align_val_t(64)));
    fail_each([&] { bfloat16_tree_attention({words, words, words, {rounded.data(), tokens, 1, size, size}}, layout, shape,
                                            workspace, 2, instructions); },
              4, "bfloat16 attention");
    ::operator delete(workspace, std::align_val_t(64));
}

}  // namespace

void check_allocations() {
    for (const InstructionSet instructions : instruction_sets_here()) {
        fail_element<float>("float32", instructions);
        fail_element<bfloat16>("bfloat16", instructions);
        fail_element<float16>("float16", instructions);
        fail_layers<float>("float32", instructions);
        fail_layers<bfloat16>("bfloat16", instructions);
        fail_attention(instructions);
        if (instructions < InstructionSet::avx512_bf16) continue;
        const auto x = random_matrix<bfloat16>(40, 64, 1.0f);
        std::vector<bfloat16> out(40 * 40);
        std::vector<float> max(40);
        std::vector<double> sum(40);
        const Matrix<bfloat16> view{x.data(), 40, 64, 64};
        fail_each([&] { bfloat16_linear(view, view, nullptr, false, out.data(), 2, instructions); }, 2, "linear");
        fail_each([&] { bfloat16_gated_linear(view, view, view, Activation::silu, out.data(), 2, instructions); }, 2,
                  "gated linear");
        const ExpertWeights square{x.data(), 1, 32, 32, 1024, 32, 1, nullptr, 0, 0};
        const std::int64_t expert = 0;
        const float factor = 1.0f;
        const ChosenExperts choice{&expert, &factor, 1, 1};
        const AlignedBuffer memory = allocate_aligned(experts_bytes(choice, square));
        const ExpertGate function{false, 1.0f, 1.0f, 0.0f};
        fail_each([&] { bfloat16_experts({x.data(), 1, 32, 32}, choice, square, square, square, function, memory.get(),
                                         out.data(), 2, instructions); }, 8, "experts");
        fail_each([&] { bfloat16_linear_logsumexp(view, view, {}, {max.data(), sum.data(), nullptr}, 2, instructions); },
                  3, "bfloat16 head");
    }
}

}  // namespace instsel
