#include "float_tree_attention.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "attention_softmax.h"
#include "instruction_sets.h"

namespace instsel {

bool has_float_tree_attention() { return choose_instruction_set("") == InstructionSet::avx512; }

#if defined(__x86_64__)
namespace {

constexpr std::int64_t largest_head = 256;

// What one row block needs; on the stack of its thread.
struct alignas(64) Scratch {
    float query[largest_head * rows_at_once];                  // [head][32 rows]
    float scores[chunk_blocks * key_block * rows_at_once];     // [key][32 rows], then probabilities
    float out[largest_head * rows_at_once];                    // [head][32 rows]
};

// c[i][32] (+)= sum over k of a[i * row_stride + k * depth_stride] * b[k][32], for `count` rows i.
template <int count>
INSTSEL_AVX512 INSTSEL_INLINE void multiply_rows(const float* a, std::int64_t row_stride, std::int64_t depth_stride,
                                                 std::int64_t depth, const float* b, float* c, bool add) {
    __m512 sums[count][2];
    for (int i = 0; i < count; ++i) {
        for (int half = 0; half < 2; ++half) {
            sums[i][half] = add ? _mm512_load_ps(c + 32 * i + 16 * half) : _mm512_setzero_ps();
        }
    }
    for (std::int64_t k = 0; k < depth; ++k) {
        const __m512 low = _mm512_load_ps(b + 32 * k);
        const __m512 high = _mm512_load_ps(b + 32 * k + 16);
        for (int i = 0; i < count; ++i) {
            const __m512 factor = _mm512_set1_ps(a[i * row_stride + k * depth_stride]);
            sums[i][0] = _mm512_fmadd_ps(factor, low, sums[i][0]);
            sums[i][1] = _mm512_fmadd_ps(factor, high, sums[i][1]);
        }
    }
    for (int i = 0; i < count; ++i) {
        for (int half = 0; half < 2; ++half) _mm512_store_ps(c + 32 * i + 16 * half, sums[i][half]);
    }
}

INSTSEL_AVX512 void multiply(const float* a, std::int64_t rows, std::int64_t row_stride, std::int64_t depth_stride,
                             std::int64_t depth, const float* b, float* c, bool add) {
    std::int64_t row = 0;
    for (; row + 8 <= rows; row += 8) {
        multiply_rows<8>(a + row * row_stride, row_stride, depth_stride, depth, b, c + 32 * row, add);
    }
    for (; row < rows; ++row) {
        multiply_rows<1>(a + row * row_stride, row_stride, depth_stride, depth, b, c + 32 * row, add);
    }
}

// Scores of a chunk into probabilities relative to the running maximum; what was added before is scaled to it.
INSTSEL_AVX512 void softmax_chunk(const PathBlock* blocks, std::int64_t count, const Sight& sight,
                                  std::int64_t last_position, const AttentionShape& shape, SoftmaxRows& rows,
                                  bool first_chunk, Scratch& scratch) {
    constexpr float log2_e = 1.44269504f;
    const bool capped = shape.softcap != 0.0f;
    const __m512 factor = _mm512_set1_ps((capped ? 1.0f : shape.scaling) * log2_e);
    const __m512 cap = _mm512_set1_ps(shape.softcap);
    __m512 largest[2];
    for (auto& vector : largest) vector = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (std::int64_t block = 0; block < count; ++block) {
        const bool whole = sight.whole(blocks[block], last_position);
        for (std::int64_t k = 0; k < blocks[block].keys; ++k) {
            const std::uint32_t seen = whole ? ~0u : sight.rows(blocks[block].position + k);
            for (int half = 0; half < 2; ++half) {
                float* place = scratch.scores + (block * key_block + k) * 32 + 16 * half;
                __m512 z = _mm512_load_ps(place);
                if (capped) {
                    z = _mm512_mul_ps(cap, tanh16(_mm512_mul_ps(z, _mm512_set1_ps(shape.scaling / shape.softcap))));
                    _mm512_store_ps(place, z);
                }
                largest[half] = _mm512_mask_max_ps(largest[half], __mmask16(seen >> (16 * half)), z, largest[half]);
            }
        }
    }
    for (int half = 0; half < 2; ++half) {
        __m512 fall;
        const __mmask16 raised = raise_maxima(rows.max[half], largest[half], factor, fall);
        if (first_chunk || raised == 0) continue;
        const __m512 shrink = exp2_16(fall, exp2_coefficients);
        rows.sum[half] = _mm512_mask_mul_ps(rows.sum[half], raised, rows.sum[half], shrink);
        for (std::int64_t d = 0; d < shape.head_size; ++d) {
            float* out = scratch.out + 32 * d + 16 * half;
            const __m512 value = _mm512_load_ps(out);
            _mm512_store_ps(out, _mm512_mask_mul_ps(value, raised, value, shrink));
        }
    }
    for (std::int64_t block = 0; block < count; ++block) {
        const bool whole = sight.whole(blocks[block], last_position);
        for (std::int64_t k = 0; k < blocks[block].keys; ++k) {
            const std::uint32_t seen = whole ? ~0u : sight.rows(blocks[block].position + k);
            for (int half = 0; half < 2; ++half) {
                float* place = scratch.scores + (block * key_block + k) * 32 + 16 * half;
                const __m512 t = _mm512_fmsub_ps(_mm512_load_ps(place), factor, rows.max[half]);
                const __m512 p = _mm512_maskz_mov_ps(__mmask16(seen >> (16 * half)), exp2_16(t, exp2_coefficients));
                rows.sum[half] = _mm512_add_ps(rows.sum[half], p);
                _mm512_store_ps(place, p);
            }
        }
    }
}

INSTSEL_AVX512 void attend(const HeadsView<const float>& query, const HeadsView<const float>& key,
                           const HeadsView<const float>& value, const HeadsView<float>& out, const TreeLayout& layout,
                           const AttentionShape& shape, const RowBlock& work, std::vector<PathBlock>& blocks,
                           Scratch& scratch, std::int64_t group) {
    const auto [rows, last_position, sight] = start_block(layout, shape, work, group, blocks);
    std::fill(scratch.query, scratch.query + shape.head_size * rows_at_once, 0.0f);
    for (std::int64_t lane = 0; lane < rows.count; ++lane) {
        const std::int64_t row = rows.first + lane;
        const float* from = query.at(rows.token + row / group, rows.head + row % group);
        for (std::int64_t d = 0; d < shape.head_size; ++d) scratch.query[32 * d + lane] = from[d];
    }
    SoftmaxRows softmax = empty_softmax();
    const std::int64_t total = std::int64_t(blocks.size());
    for (std::int64_t start = 0; start < total; start += chunk_blocks) {
        const std::int64_t count = std::min(chunk_blocks, total - start);
        for (std::int64_t i = 0; i < count; ++i) {
            const PathBlock& block = blocks[std::size_t(start + i)];
            multiply(key.at(block.first_key, work.key_head), block.keys, key.token_stride, 1, shape.head_size,
                     scratch.query, scratch.scores + i * key_block * 32, false);
        }
        softmax_chunk(blocks.data() + start, count, sight, last_position, shape, softmax, start == 0, scratch);
        for (std::int64_t i = 0; i < count; ++i) {
            const PathBlock& block = blocks[std::size_t(start + i)];
            multiply(value.at(block.first_key, work.key_head), shape.head_size, 1, value.token_stride, block.keys,
                     scratch.scores + i * key_block * 32, scratch.out, start + i > 0);
        }
    }
    alignas(64) float sums[32];
    _mm512_store_ps(sums, softmax.sum[0]);
    _mm512_store_ps(sums + 16, softmax.sum[1]);
    for (std::int64_t lane = 0; lane < rows.count; ++lane) {
        const std::int64_t row = rows.first + lane;
        float* to = out.at(rows.token + row / group, rows.head + row % group);
        for (std::int64_t d = 0; d < shape.head_size; ++d) to[d] = scratch.out[32 * d + lane] / sums[lane];
    }
}

}  // namespace

void float_tree_attention(const HeadsView<const float>& query, const HeadsView<const float>& key,
                          const HeadsView<const float>& value, const HeadsView<float>& out, const TreeLayout& layout,
                          const AttentionShape& shape, int threads) {
    if (!has_float_tree_attention()) throw std::runtime_error("this processor has no AVX-512");
    if (shape.head_size > largest_head) throw std::invalid_argument("query: expected a head size up to 256");
    const std::int64_t group = query.heads / key.heads;
    const std::vector<RowBlock> work = row_blocks(layout, group, key.heads, rows_at_once);
#pragma omp parallel num_threads(threads)
    {
        Scratch scratch;
        std::vector<PathBlock> blocks;
#pragma omp for schedule(dynamic, 4)
        for (std::int64_t item = 0; item < std::int64_t(work.size()); ++item) {
            attend(query, key, value, out, layout, shape, work[std::size_t(item)], blocks, scratch, group);
        }
    }
}

#else

void float_tree_attention(const HeadsView<const float>&, const HeadsView<const float>&, const HeadsView<const float>&,
                          const HeadsView<float>&, const TreeLayout&, const AttentionShape&, int) {
    throw std::runtime_error("this processor has no AVX-512");
}

#endif

}  // namespace instsel
