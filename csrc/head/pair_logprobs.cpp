#include "head/pair_logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace instsel {
namespace {

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

template <class Element>
INSTSEL_INLINE void add_products(const Element* a, const Element* b, std::int64_t count, float& product) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t k = 0; k < count; ++k) sum += to_float(a[k]) * to_float(b[k]);
    product = sum;
}

INSTSEL_VARIANTS(template <class Element>, dot,
                 (const Element* a, const Element* b, std::int64_t count, float& product),
                 add_products(a, b, count, product))

float transform_one(float product, std::int64_t column, const HeadTransform& head) {
    return apply_head(product, head.bias == nullptr ? 0.0f : head.bias[column], head.scale, head.softcap);
}

bool counts(const Pairs& pairs, std::int64_t pair) { return pairs.mask == nullptr || pairs.mask[pair] != 0; }

}  // namespace

std::int64_t first_out_of_range(const Pairs& pairs, std::int64_t num_rows, std::int64_t vocabulary) {
    for (std::int64_t pair = 0; pair < pairs.count; ++pair) {
        const std::int64_t row = pairs.rows[pair];
        const std::int64_t target = pairs.targets[pair];
        if (counts(pairs, pair) && (row < 0 || row >= num_rows || target < 0 || target >= vocabulary)) return pair;
    }
    return -1;
}

void mark_needed_rows(const Pairs& pairs, std::int64_t num_rows, std::uint8_t* needed) {
    std::fill(needed, needed + num_rows, std::uint8_t(0));
    for (std::int64_t pair = 0; pair < pairs.count; ++pair) {
        if (counts(pairs, pair)) needed[pairs.rows[pair]] = 1;
    }
}

template <class Element>
void pair_logprobs_from_logits(const Matrix<Element>& logits, const Pairs& pairs, const HeadTransform& head,
                               const RowStates& states, float* logprobs) {
    for (std::int64_t pair = 0; pair < pairs.count; ++pair) {
        if (!counts(pairs, pair)) {
            logprobs[pair] = not_a_number;
            continue;
        }
        const std::int64_t row = pairs.rows[pair];
        const std::int64_t target = pairs.targets[pair];
        const float z = transform_one(to_float(logits.data[row * logits.row_stride + target]), target, head);
        logprobs[pair] = logprob(z, states.max[row], states.sum[row]);
    }
}

template <class Element>
void pair_logprobs_from_hidden(const Matrix<Element>& hidden, const Matrix<Element>& weight, const Pairs& pairs,
                               const HeadTransform& head, const RowStates& states, float* logprobs, int threads,
                               InstructionSet instructions) {
    const auto multiply = INSTSEL_PICK(dot<Element>, instructions);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (std::int64_t pair = 0; pair < pairs.count; ++pair) {
        if (!counts(pairs, pair)) {
            logprobs[pair] = not_a_number;
            continue;
        }
        const std::int64_t row = pairs.rows[pair];
        const std::int64_t target = pairs.targets[pair];
        float z;
        multiply(hidden.data + row * hidden.row_stride, weight.data + target * weight.row_stride, hidden.columns, z);
        logprobs[pair] = logprob(transform_one(z, target, head), states.max[row], states.sum[row]);
    }
}

void finish_rows(const RowStates& states, std::int64_t num_rows, const std::uint8_t* needed, float* logsumexps) {
    for (std::int64_t row = 0; row < num_rows; ++row) {
        const bool wanted = needed == nullptr || needed[row] != 0;
        logsumexps[row] = wanted ? float(logsumexp(states.max[row], states.sum[row])) : not_a_number;
        if (states.argmax != nullptr && !std::isfinite(logsumexps[row])) states.argmax[row] = -1;
    }
}

#define INSTSEL_INSTANTIATE(Element)                                                                              \
    template void pair_logprobs_from_logits(const Matrix<Element>&, const Pairs&, const HeadTransform&,           \
                                            const RowStates&, float*);                                            \
    template void pair_logprobs_from_hidden(const Matrix<Element>&, const Matrix<Element>&, const Pairs&,         \
                                            const HeadTransform&, const RowStates&, float*, int, InstructionSet);
INSTSEL_INSTANTIATE(float)
INSTSEL_INSTANTIATE(bfloat16)
INSTSEL_INSTANTIATE(float16)
#undef INSTSEL_INSTANTIATE

}  // namespace instsel
