// The C++ algorithms against plain double-precision loops, with buffers of exactly the size that they are said to have:
// run under AddressSanitizer and UndefinedBehaviorSanitizer by `make sanitize`.

#include <cmath>
#include <cstdio>
#include <exception>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "checks.h"
#include "head/bfloat16_linear_logsumexp.h"
#include "head/float_linear_logsumexp.h"
#include "head/online_logsumexp.h"
#include "head/pair_logprobs.h"
#include "layer/bfloat16_experts.h"
#include "layer/bfloat16_linear.h"
#include "layer/layer_operations.h"
#include "simd/aligned_buffer.h"

using namespace instsel;

namespace {

double head(double z, double bias, const HeadTransform& transform) {
    z = (z + bias) * double(transform.scale);
    return transform.softcap == 0.0f ? z : transform.softcap * std::tanh(z / transform.softcap);
}

struct States {
    std::vector<float> max;
    std::vector<double> sum;
    std::vector<std::int64_t> argmax;

    explicit States(std::int64_t rows)
        : max(std::size_t(rows), -std::numeric_limits<float>::infinity()), sum(std::size_t(rows), 0.0),
          argmax(std::size_t(rows), -1) {}
    RowStates view() { return {max.data(), sum.data(), argmax.data()}; }
};

template <class Element>
void check_rows(std::int64_t rows, std::int64_t columns, const HeadTransform& transform, const std::string& name) {
    for (const InstructionSet instructions : instruction_sets_here()) {
        const auto logits = random_matrix<Element>(rows, columns, 6.0f);
        States states(rows);
        // Two chunks, so that states are carried on.
        const std::int64_t first = columns / 3;
        for (const auto& [start, stop] : {std::pair(std::int64_t(0), first), std::pair(first, columns)}) {
            HeadTransform part = transform;
            if (part.bias != nullptr) part.bias += start;
            accumulate<Element>({logits.data() + start, rows, stop - start, columns, start}, part, nullptr,
                                states.view(), 2, instructions);
        }
        for (std::int64_t row = 0; row < rows; ++row) {
            std::vector<double> z;
            for (std::int64_t j = 0; j < columns; ++j) {
                const double bias = transform.bias == nullptr ? 0.0 : double(transform.bias[j]);
                z.push_back(head(double(to_float(logits[std::size_t(row * columns + j)])), bias, transform));
            }
            const double got = logsumexp(states.max[std::size_t(row)], states.sum[std::size_t(row)]);
            expect(close(got, plain_logsumexp(z), 2e-6), name + " " + name_of(instructions));
        }
    }
}

template <class Element>
void check_pairs(const std::string& name) {
    const std::int64_t rows = 3, size = 21, vocabulary = 5;
    const auto hidden = random_matrix<Element>(rows, size, 1.0f);
    const auto weight = random_matrix<Element>(vocabulary, size, 0.3f);  // logits far below max + log(sum)
    States states(rows);
    for (std::int64_t row = 0; row < rows; ++row) {
        states.max[std::size_t(row)] = 1.0f;
        states.sum[std::size_t(row)] = 1e6;
    }
    const std::vector<std::int64_t> row_of{0, 2, 9}, target_of{4, 0, 0};
    const std::vector<std::uint8_t> mask{1, 1, 0};
    const Pairs pairs{row_of.data(), target_of.data(), mask.data(), 3};
    expect(first_out_of_range(pairs, rows, vocabulary) == -1, name + ": masked pairs may be anything");
    expect(first_out_of_range({row_of.data(), target_of.data(), nullptr, 3}, rows, vocabulary) == 2, name + ": range");
    std::vector<float> out(3);
    pair_logprobs_from_hidden<Element>({hidden.data(), rows, size, size}, {weight.data(), vocabulary, size, size}, pairs,
                                       {}, states.view(), out.data(), 2, choose_instruction_set(""));
    for (std::size_t pair = 0; pair < 2; ++pair) {
        double dot = 0.0;
        for (std::int64_t k = 0; k < size; ++k) {
            dot += double(to_float(hidden[std::size_t(row_of[pair] * size + k)])) *
                   double(to_float(weight[std::size_t(target_of[pair] * size + k)]));
        }
        expect(close(out[pair], dot - 1.0 - std::log(1e6), 1e-5), name);
    }
    expect(std::isnan(out[2]), name + ": masked pairs are no numbers");
}

template <class Element>
using HeadProduct = void (*)(const Matrix<Element>&, const Matrix<Element>&, const HeadTransform&, const RowStates&, int,
                             InstructionSet);

template <class Element>
void check_head(HeadProduct<Element> product, std::int64_t rows, std::int64_t size, std::int64_t vocabulary,
                const HeadTransform& transform, InstructionSet instructions) {
    const auto hidden = random_matrix<Element>(rows, size, 1.0f);
    const auto weight = random_matrix<Element>(vocabulary, size, 0.3f);
    States states(rows);
    product({hidden.data(), rows, size, size}, {weight.data(), vocabulary, size, size}, transform, states.view(), 2,
            instructions);
    for (std::int64_t row = 0; row < rows; ++row) {
        std::vector<double> z;
        for (std::int64_t v = 0; v < vocabulary; ++v) {
            double dot = 0.0;
            for (std::int64_t k = 0; k < size; ++k) {
                dot += double(to_float(hidden[std::size_t(row * size + k)])) *
                       double(to_float(weight[std::size_t(v * size + k)]));
            }
            z.push_back(head(dot, transform.bias == nullptr ? 0.0 : double(transform.bias[v]), transform));
        }
        const double got = logsumexp(states.max[std::size_t(row)], states.sum[std::size_t(row)]);
        expect(close(got, plain_logsumexp(z), 1e-5), std::string("head by ") + name_of(instructions));
        expect(states.argmax[std::size_t(row)] >= 0 && states.argmax[std::size_t(row)] < vocabulary, "arg max of the head");
    }
}

// Products with and without a gate, over depths that are and are not multiplied at once, and added to what was there.
void check_bfloat16_linear(std::int64_t rows, std::int64_t size, std::int64_t outputs, InstructionSet instructions) {
    const auto x = random_matrix<bfloat16>(rows, size, 1.0f);
    const auto gate = random_matrix<bfloat16>(outputs, size, 0.1f), up = random_matrix<bfloat16>(outputs, size, 0.3f);
    const auto bias = random_matrix<bfloat16>(1, outputs, 1.0f);
    const auto product = [&](const std::vector<bfloat16>& weight, std::int64_t row, std::int64_t output) {
        double sum = 0.0;
        for (std::int64_t k = 0; k < size; ++k) {
            sum += double(to_float(x[std::size_t(row * size + k)])) *
                   double(to_float(weight[std::size_t(output * size + k)]));
        }
        return sum;
    };
    std::vector<bfloat16> plain(x.size() / std::size_t(size) * std::size_t(outputs)), gated(plain.size());
    const Matrix<bfloat16> view{x.data(), rows, size, size}, gates{gate.data(), outputs, size, size};
    bfloat16_linear(view, gates, bias.data(), false, plain.data(), 2, instructions);
    std::vector<bfloat16> added = plain;
    bfloat16_linear(view, gates, nullptr, true, added.data(), 2, instructions);
    bfloat16_gated_linear(view, gates, {up.data(), outputs, size, size}, Activation::silu, gated.data(), 2, instructions);
    const std::string name = std::string(" by ") + name_of(instructions) + ", depth " + std::to_string(size);
    for (std::int64_t row = 0; row < rows; ++row) {
        for (std::int64_t output = 0; output < outputs; ++output) {
            const std::size_t i = std::size_t(row * outputs + output);
            const double g = product(gate, row, output);
            const double biased = g + double(to_float(bias[std::size_t(output)]));  // what is rounded
            expect(std::fabs(to_float(plain[i]) - biased) <= 0.01 * (1 + std::fabs(biased)), "linear" + name);
            const double twice = g + to_float(plain[i]);
            expect(std::fabs(to_float(added[i]) - twice) <= 0.01 * (1 + std::fabs(twice)), "added linear" + name);
            const double exact = g / (1.0 + std::exp(-g)) * product(up, row, output);
            expect(std::fabs(to_float(gated[i]) - exact) <= 0.01 * (1 + std::fabs(exact)),
                   "gated linear" + name);
        }
    }
}

// Experts whose outputs stand in every other place, with the last one's bias at the end of its buffer.
void check_experts(std::int64_t rows, std::int64_t hidden, std::int64_t inner, InstructionSet instructions) {
    const std::int64_t experts = 3;
    const auto x = random_matrix<bfloat16>(rows, hidden, 1.0f);
    const auto gate_up = random_matrix<bfloat16>(experts * hidden, 2 * inner, 0.1f);
    const auto down = random_matrix<bfloat16>(experts * hidden, inner, 0.1f);
    const auto bias = random_matrix<bfloat16>(experts, 2 * inner, 1.0f);
    std::vector<std::int64_t> chosen(std::size_t(rows), 2);
    chosen.front() = 0;
    std::vector<float> weights(std::size_t(rows), 0.5f);
    const ChosenExperts choice{chosen.data(), weights.data(), rows, 1};
    const std::int64_t both = 2 * inner;
    const ExpertWeights gates{gate_up.data(), experts, inner, hidden, hidden * both, 2, both, bias.data(), both, 2};
    const ExpertWeights ups{gate_up.data() + 1, experts, inner, hidden, hidden * both, 2, both, bias.data() + 1, both, 2};
    const ExpertWeights downs{down.data(), experts, hidden, inner, hidden * inner, inner, 1, nullptr, 0, 0};
    const AlignedBuffer memory = allocate_aligned(experts_bytes(choice, gates));
    std::vector<bfloat16> out(x.size());
    bfloat16_experts({x.data(), rows, hidden, hidden}, choice, gates, ups, downs, {false, 1.0f, 3.0f, 1.0f},
                     memory.get(), out.data(), 2, instructions);
    for (std::int64_t row = 0; row < rows; ++row) {
        const std::int64_t expert = chosen[std::size_t(row)];
        std::vector<double> gated;
        for (std::int64_t i = 0; i < both; i += 2) {
            double sums[2];
            for (int half = 0; half < 2; ++half) {
                sums[half] = to_float(bias[std::size_t(expert * both + i + half)]);
                for (std::int64_t k = 0; k < hidden; ++k) {
                    sums[half] += double(to_float(x[std::size_t(row * hidden + k)])) *
                                  to_float(gate_up[std::size_t((expert * hidden + k) * both + i + half)]);
                }
            }
            const double g = std::min(sums[0], 3.0), u = std::clamp(sums[1], -3.0, 3.0);
            gated.push_back(g / (1.0 + std::exp(-g)) * (u + 1.0));
        }
        for (std::int64_t j = 0; j < hidden; ++j) {
            double exact = 0.0, size = 0.0;
            for (std::int64_t k = 0; k < inner; ++k) {
                const double term = gated[std::size_t(k)] * to_float(down[std::size_t((expert * hidden + j) * inner + k)]);
                exact += 0.5 * term;
                size += std::fabs(term);
            }
            expect(std::fabs(to_float(out[std::size_t(row * hidden + j)]) - exact) <= 0.01 * (0.1 + size),
                   std::string("experts by ") + name_of(instructions));
        }
    }
}

}  // namespace

// The last column of the last row is the last element of each buffer: a step too far is seen.
void check_layers(std::int64_t rows, std::int64_t columns, InstructionSet instructions) {
    std::vector<float> x(rows * columns), update(x.size()), weight(columns), out(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
        x[i] = float(i % 13) - 6.0f;
        update[i] = 0.25f * float(i % 7);
    }
    for (std::int64_t j = 0; j < columns; ++j) weight[j] = 1.0f + 0.125f * float(j % 5);
    const float* none = nullptr;
    for (const bool centred : {false, true}) {
        const float* bias = centred ? update.data() : none;
        layer_norm(x.data(), weight.data(), bias, {1.0f, 1e-5f, centred, false}, rows, columns, out.data(), 2, instructions);
        std::vector<float> added(update);
        layer_norm(x.data(), weight.data(), bias, {1.0f, 1e-5f, centred, true}, rows, columns, added.data(), 2, instructions);
        for (std::int64_t row = 0; row < rows; ++row) {
            double mean = 0.0, squares = 0.0;
            for (std::int64_t j = 0; j < columns; ++j) mean += x[row * columns + j] / double(columns);
            if (!centred) mean = 0.0;
            for (std::int64_t j = 0; j < columns; ++j) squares += std::pow(x[row * columns + j] - mean, 2.0);
            const double scale = 1.0 / std::sqrt(squares / double(columns) + 1e-5);
            for (std::int64_t j = 0; j < columns; ++j) {
                const std::int64_t i = row * columns + j;
                const double exact = (x[i] - mean) * scale * (double(weight[j]) + 1.0) + (centred ? update[j] : 0.0f);
                expect(close(out[i], exact, 2e-5), "layer_norm");
                expect(close(added[i], exact + update[i], 2e-5), "added layer_norm");
            }
        }
    }
    std::vector<float> gate(update), turned(x), paired(x);
    gate_in_place(gate.data(), x.data(), std::int64_t(gate.size()), Activation::silu, 2, instructions);
    for (std::size_t i = 0; i < gate.size(); ++i) {
        expect(close(gate[i], update[i] / (1.0 + std::exp(-double(update[i]))) * x[i], 1e-5), "gate_in_place");
    }
    if (columns % 2 != 0) return;
    rotate_in_place(turned.data(), out.data(), update.data(), rows, 1, columns, columns, false, 2, instructions);
    rotate_in_place(paired.data(), out.data(), update.data(), rows, 1, columns, columns, true, 2, instructions);
    for (std::int64_t row = 0; row < rows; ++row) {
        for (std::int64_t j = 0; j < columns; ++j) {
            const std::int64_t i = row * columns + j, half = columns / 2;
            const double partner = j < half ? -double(x[i + half]) : double(x[i - half]);
            expect(close(turned[i], double(x[i]) * out[i] + partner * update[i], 1e-5), "rotate_in_place");
            const double neighbor = j % 2 == 0 ? -double(x[i + 1]) : double(x[i - 1]);
            expect(close(paired[i], double(x[i]) * out[i] + neighbor * update[i], 1e-5), "interleaved rotate_in_place");
        }
    }
}

int main() {
    std::vector<float> bias;
    for (int i = 0; i < 5000; ++i) bias.push_back(float(i % 7) - 3.0f);
    const HeadTransform whole{bias.data(), 0.5f, 9.0f};
    for (const std::int64_t columns : {1, 2, 17, 511, 2048, 2049, 4999}) {
        for (const HeadTransform& transform : {HeadTransform{}, HeadTransform{nullptr, 2.0f, 0.0f}, whole}) {
            check_rows<float>(3, columns, transform, "float32");
            check_rows<bfloat16>(2, columns, transform, "bfloat16");
            check_rows<float16>(2, columns, transform, "float16");
        }
    }
    check_pairs<float>("pairs float32");
    check_pairs<bfloat16>("pairs bfloat16");
    check_pairs<float16>("pairs float16");
    expect(std::isnan(logprob(1.0f, -std::numeric_limits<float>::infinity(), 0.0)), "a row of -inf has no probability");
    expect(logprob(2.0f, 2.0f, 0.9999999) <= 0.0f, "no probability above 1");
    for (const InstructionSet instructions : instruction_sets_here()) {
        std::printf("%s\n", name_of(instructions));
        for (const std::int64_t columns : {1, 2, 254, 256, 258, 1030}) check_layers(3, columns, instructions);
        for (const std::int64_t size : {1, 31, 33, 64}) {
            check_head<float>(float_linear_logsumexp<float>, 33, 4 * size, 257, {}, instructions);
            check_head<float>(float_linear_logsumexp<float>, 1, size, 4099, whole, instructions);
            check_head<bfloat16>(float_linear_logsumexp<bfloat16>, 3, size, 107, whole, instructions);
            check_head<float16>(float_linear_logsumexp<float16>, 33, size, 107, {}, instructions);
            if (instructions < InstructionSet::avx512_bf16) continue;
            check_head<bfloat16>(bfloat16_linear_logsumexp, 33, size, 257, {}, instructions);
            check_head<bfloat16>(bfloat16_linear_logsumexp, 1, size, 4099, whole, instructions);
            check_bfloat16_linear(33, 32 * size, 17, instructions);
            check_bfloat16_linear(150, 64, size + 32, instructions);
            check_bfloat16_linear(64, 1024, size, instructions);
            check_experts(10 * size, 64, 32, instructions);
            check_experts(1 + size, 704, 96, instructions);
        }
        if (instructions >= InstructionSet::avx512_bf16) {
            check_bfloat16_linear(2, 4096, 3100, instructions);  // more weights than are packed at a time
        }
    }
    check_tree_attention();
    check_recurrences();
    check_allocations();
    std::printf(failures == 0 ? "all checks passed\n" : "%d checks failed\n", failures);
    return failures == 0 ? 0 : 1;
}
