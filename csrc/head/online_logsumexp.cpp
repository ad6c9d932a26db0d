#include "head/online_logsumexp.h"

#include <algorithm>
#include <limits>
#include <type_traits>

namespace instsel {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// Columns taken at a time: 8 KB of float32, which stay in the first-level cache should a block need a second pass. The
// float32 sum of a block is added up in double, which keeps 150 thousand terms to about 1e-7.
constexpr std::int64_t block_size = 2048;

// Blocks are walked in strips, whose independent reductions overlap in the processor.
constexpr std::int64_t strip_size = 512;

template <class Element>
INSTSEL_INLINE void transform_block(const Element* logits, std::int64_t count, std::int64_t column,
                                    const HeadTransform& head, float* z) {
    const float scale = head.scale;
    const float softcap = head.softcap;
    if (head.is_identity()) {
#pragma omp simd
        for (std::int64_t j = 0; j < count; ++j) z[j] = to_float(logits[j]);
    } else if (head.bias == nullptr) {
        if (softcap == 0.0f) {
#pragma omp simd
            for (std::int64_t j = 0; j < count; ++j) z[j] = to_float(logits[j]) * scale;
        } else {
#pragma omp simd
            for (std::int64_t j = 0; j < count; ++j) z[j] = apply_head(to_float(logits[j]), 0.0f, scale, softcap);
        }
    } else {
        const float* bias = head.bias + column;
        if (softcap == 0.0f) {
#pragma omp simd
            for (std::int64_t j = 0; j < count; ++j) z[j] = (to_float(logits[j]) + bias[j]) * scale;
        } else {
#pragma omp simd
            for (std::int64_t j = 0; j < count; ++j) z[j] = apply_head(to_float(logits[j]), bias[j], scale, softcap);
        }
    }
}

INSTSEL_INLINE float block_max(const float* z, std::int64_t count) {
    float largest = -infinity;
#pragma omp simd reduction(max : largest)
    for (std::int64_t j = 0; j < count; ++j) largest = z[j] > largest ? z[j] : largest;
    return largest;
}

struct BlockSum {
    float max;
    float sum;  // of exp(z - offset)
};

INSTSEL_INLINE BlockSum strip_sum(const float* z, std::int64_t count, float offset) {
    float largest = -infinity;
    float sum = 0.0f;
#pragma omp simd reduction(max : largest) reduction(+ : sum)
    for (std::int64_t j = 0; j < count; ++j) {
        largest = z[j] > largest ? z[j] : largest;
        sum += exp_float(z[j] - offset);
    }
    return {largest, sum};
}

// The logits behind a block, fetched into the second-level cache strip by strip while the block is summed: a core's own
// prefetcher stops at every page, and all at once they would wait for each other.
struct Following {
    const void* logits;
    std::int64_t element_bytes;
};

INSTSEL_INLINE void fetch_strip(const Following& following, std::int64_t first) {
    const char* from = static_cast<const char*>(following.logits) + first * following.element_bytes;
    for (std::int64_t byte = 0; byte < strip_size * following.element_bytes; byte += 64) {
        __builtin_prefetch(from + byte, 0, 2);
    }
}

INSTSEL_INLINE BlockSum block_sum(const float* z, std::int64_t count, float offset, const Following& following) {
    BlockSum total{-infinity, 0.0f};
    for (std::int64_t j = 0; j < count; j += strip_size) {
        fetch_strip(following, j);
        const BlockSum strip = strip_sum(z + j, std::min(strip_size, count - j), offset);
        total.max = strip.max > total.max ? strip.max : total.max;
        total.sum += strip.sum;
    }
    return total;
}

// The state of one row within a chunk.
struct RunningSum {
    float max;
    float offset;
    double sum;  // of exp(z - offset)
    std::int64_t argmax;
};

INSTSEL_INLINE void accumulate_block(const float* z, std::int64_t count, std::int64_t column,
                                     const Following& following, RunningSum& row) {
    if (row.offset == -infinity) {
        row.offset = block_max(z, count);
        if (row.offset == -infinity) {
            // exp(-inf - -inf) is no number: -inf alone adds nothing, but a NaN (which a maximum skips) must be kept.
            for (std::int64_t j = 0; j < count; ++j) {
                if (std::isnan(z[j])) row.sum = std::numeric_limits<double>::quiet_NaN();
            }
            return;
        }
    }
    BlockSum block = block_sum(z, count, row.offset, following);
    if (block.max > row.max) {
        if (block.max > row.offset + largest_lag) {
            row.sum *= std::exp(double(row.offset) - double(block.max));
            row.offset = block.max;
            block = block_sum(z, count, row.offset, following);
        }
        row.max = block.max;
        row.argmax = column + (std::find(z, z + count, block.max) - z);
    }
    row.sum += double(block.sum);
}

template <class Element>
INSTSEL_INLINE void accumulate_row(const LogitsChunk<Element>& chunk, const HeadTransform& head, std::int64_t index,
                                   const RowStates& states) {
    const Element* logits = chunk.data + index * chunk.row_stride;
    alignas(64) float converted[block_size];
    const bool in_place = std::is_same<Element, float>::value && head.is_identity();
    RunningSum row{states.max[index], states.max[index], states.sum[index], -1};
    for (std::int64_t start = 0; start < chunk.columns; start += block_size) {
        const std::int64_t count = std::min(block_size, chunk.columns - start);
        const float* z = reinterpret_cast<const float*>(logits + start);
        if (!in_place) {
            transform_block(logits + start, count, start, head, converted);
            z = converted;
        }
        const Following following{logits + start + block_size, std::int64_t(sizeof(Element))};
        accumulate_block(z, count, chunk.first_column + start, following, row);
    }
    if (row.offset != row.max) row.sum *= std::exp(double(row.offset) - double(row.max));
    states.max[index] = row.max;
    states.sum[index] = row.sum;
    if (states.argmax != nullptr && row.argmax >= 0) states.argmax[index] = row.argmax;
}

INSTSEL_VARIANTS(template <class Element>, row,
                 (const LogitsChunk<Element>& chunk, const HeadTransform& head, std::int64_t row,
                  const RowStates& states),
                 accumulate_row(chunk, head, row, states))

}  // namespace

template <class Element>
void accumulate(const LogitsChunk<Element>& chunk, const HeadTransform& head, const std::uint8_t* needed,
                const RowStates& states, int threads, InstructionSet instructions) {
    const auto function = INSTSEL_PICK(row<Element>, instructions);
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads)
    for (std::int64_t row = 0; row < chunk.rows; ++row) {
        if (needed == nullptr || needed[row] != 0) function(chunk, head, row, states);
    }
}

template void accumulate(const LogitsChunk<float>&, const HeadTransform&, const std::uint8_t*, const RowStates&, int,
                         InstructionSet);
template void accumulate(const LogitsChunk<bfloat16>&, const HeadTransform&, const std::uint8_t*, const RowStates&,
                         int, InstructionSet);
template void accumulate(const LogitsChunk<float16>&, const HeadTransform&, const std::uint8_t*, const RowStates&, int,
                         InstructionSet);

double logsumexp(float max, double sum) {
    // The sum is checked too: a row of nothing but NaN has no maximum.
    return max == -infinity ? (std::isnan(sum) ? sum : double(max)) : double(max) + std::log(sum);
}

float logprob(float z, float max, double sum) {
    if (max == -infinity) return std::numeric_limits<float>::quiet_NaN();
    const double value = (double(z) - double(max)) - std::log(sum);
    // The target's logit may come from a dot product of its own, whose rounding differs from the row's by an ulp.
    return value > 0.0 ? 0.0f : float(value);
}

}  // namespace instsel
