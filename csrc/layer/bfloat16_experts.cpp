#include "layer/bfloat16_experts.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "layer/block_products.h"
#include "layer/expert_packing.h"
#include "simd/aligned_buffer.h"

namespace instsel {
namespace {

constexpr std::int64_t group_rows = 32;

std::int64_t most_groups(const ChosenExperts& chosen, std::int64_t experts) {
    const std::int64_t rows = chosen.count * chosen.chosen;
    return std::min(rows, rows / group_rows + experts);
}

}  // namespace

std::int64_t experts_bytes(const ChosenExperts& chosen, const ExpertWeights& gate) {
    // Rows of x, whose place the experts' results take, and gated rows.
    return most_groups(chosen, gate.experts) * group_rows * 2 * (gate.depth + gate.outputs);
}

#if defined(__x86_64__)
namespace {

// Blocks of weights of a panel, of which some of the depth is packed at a time, and groups of rows that pass by before the
// next part is: their sums stay in the second-level cache with the weights.
constexpr std::int64_t panel_blocks = 8;
constexpr std::int64_t chunk_groups = 16;

// Rows sorted by expert, each expert's in groups of 32.
struct SortedRows {
    std::vector<std::int64_t> first_group;  // of each expert, and behind the last
    std::vector<std::int64_t> rows;         // of each expert
    std::vector<std::int64_t> source;       // by sorted place: the row of x, -1 for none
    std::vector<std::int64_t> place;        // [count, chosen], -1 for none

    SortedRows(const ChosenExperts& chosen, std::int64_t experts)
        : first_group(std::size_t(experts + 1)), rows(std::size_t(experts)) {
        const std::int64_t count = chosen.count * chosen.chosen;
        place.assign(std::size_t(count), -1);
        for (std::int64_t i = 0; i < count; ++i) {
            const std::int64_t expert = chosen.experts[i];
            if (expert >= 0 && expert < experts) place[std::size_t(i)] = rows[std::size_t(expert)]++;
        }
        for (std::size_t e = 0; e < rows.size(); ++e) {
            first_group[e + 1] = first_group[e] + (rows[e] + group_rows - 1) / group_rows;
        }
        source.assign(std::size_t(first_group.back() * group_rows), -1);
        for (std::int64_t i = 0; i < count; ++i) {
            std::int64_t& own = place[std::size_t(i)];
            if (own < 0) continue;
            own += first_group[std::size_t(chosen.experts[i])] * group_rows;
            source[std::size_t(own)] = i / chosen.chosen;
        }
    }
};

// A panel of one expert's outputs.
struct ExpertPanel {
    std::int64_t expert, block, blocks;
};

// Of all experts with rows, those with the most first, so that threads end together.
std::vector<ExpertPanel> panels_of(const SortedRows& sorted, std::int64_t blocks) {
    std::vector<std::int64_t> order;
    for (std::int64_t e = 0; e < std::int64_t(sorted.rows.size()); ++e) {
        if (sorted.rows[std::size_t(e)] > 0) order.push_back(e);
    }
    std::sort(order.begin(), order.end(), [&](std::int64_t one, std::int64_t other) {
        const std::int64_t more = sorted.rows[std::size_t(one)] - sorted.rows[std::size_t(other)];
        return more != 0 ? more > 0 : one < other;
    });
    const std::int64_t panels = (blocks + panel_blocks - 1) / panel_blocks;
    std::vector<ExpertPanel> found;
    for (const std::int64_t expert : order) {
        for (std::int64_t panel = 0; panel < panels; ++panel) {
            const std::int64_t first = blocks * panel / panels;
            found.push_back({expert, first, blocks * (panel + 1) / panels - first});
        }
    }
    return found;
}

// Packed groups of rows times a panel of weights, of which `pack(part)` packs a part of the depth.
template <class Products, class Store, class Pack>
INSTSEL_AMX_BF16 void multiply_groups(const std::uint8_t* rows, std::int64_t count, const std::uint8_t* weights,
                                      std::int64_t blocks, std::int64_t tiles, float* sums, const Pack& pack,
                                      const Store& store) {
    const std::int64_t groups = (count + group_rows - 1) / group_rows, passes = depth_passes(tiles);
    const std::int64_t group_bytes = 2 * tiles * tile_bytes;
    Block before{sums, 0, 0, 0};
    for (std::int64_t chunk = 0; chunk < groups; chunk += chunk_groups) {
        const std::int64_t end = std::min(groups, chunk + chunk_groups);
        std::int64_t place = 0;
        for (std::int64_t pass = 0; pass < passes; ++pass) {
            const std::int64_t tile = tiles * pass / passes;
            const DepthPart part{tile, tiles * (pass + 1) / passes - tile};
            const std::int64_t lines = part.block_bytes() / 64;
            if (passes > 1 || chunk == 0) pack(part);
            place = passes > 1 ? 0 : place;
            for (std::int64_t group = chunk; group < end; ++group) {
                const std::uint8_t* left = rows + group * group_bytes + 2 * tile * tile_bytes;
                NextRows next{left + group_bytes, 0, group + 1 < end ? 1 : 0, lines, lines / (32 * blocks) + 1, 0};
                const int left_rows = int(std::min(group_rows, count - group * group_rows));
                for (std::int64_t block = 0; block < blocks; ++block) {
                    const Block now{sums + place * block_sums, group * group_rows, block,
                                    pass + 1 == passes ? left_rows : 0};
                    multiply_block<Products>(ConsecutiveTiles{left}, weights + block * part.block_bytes(), part.tiles,
                                             pass == 0, now, before, store, next);
                    before = now;
                    place = passes > 1 ? place + 1 : 1 - place;
                }
            }
        }
        // The next chunk's sums may take the place of the last block's.
        for (int row = 0; row < before.rows; ++row) store(before, row);
        before.rows = 0;
    }
}

// A row's sum over its experts.
INSTSEL_AMX_BF16 void add_experts(const bfloat16* results, const std::int64_t* places, const float* weights,
                                  std::int64_t chosen, std::int64_t columns, bfloat16* out) {
    for (std::int64_t column = 0; column < columns; column += 16) {
        __m512 sum = _mm512_setzero_ps();
        for (std::int64_t k = 0; k < chosen; ++k) {
            if (places[k] < 0) continue;
            const auto* from = results + places[k] * columns + column;
            const __m512 numbers = StoreLinear::widen(_mm256_loadu_si256((const __m256i*)from));
            sum = _mm512_fmadd_ps(_mm512_set1_ps(weights[k]), numbers, sum);
        }
        _mm256_storeu_si256((__m256i*)(out + column), (__m256i)_mm512_cvtneps_pbh(sum));
    }
}

template <class Products>
INSTSEL_AMX_BF16 void run(const Matrix<bfloat16>& x, const ChosenExperts& chosen, const ExpertWeights& gate,
                          const ExpertWeights& up, const ExpertWeights& down, const ExpertGate& function,
                          std::uint8_t* memory, bfloat16* out, int threads) {
    const SortedRows sorted(chosen, gate.experts);
    const std::int64_t hidden = gate.depth, inner = gate.outputs, groups = sorted.first_group.back();
    const std::int64_t tiles = hidden / tile_depth, inner_tiles = inner / tile_depth;
    const std::int64_t bytes = 2 * tiles * tile_bytes, inner_bytes = 2 * inner_tiles * tile_bytes;
    std::uint8_t* gated = memory + groups * bytes;
    auto* results = reinterpret_cast<bfloat16*>(memory);  // once x is multiplied
    const auto gate_panels = panels_of(sorted, inner / 16), down_panels = panels_of(sorted, hidden / 32);
    const std::int64_t weight_bytes = panel_blocks * 2 * tile_bytes * std::min(std::max(tiles, inner_tiles), largest_depth);
    constexpr std::int64_t sum_count = panel_blocks * chunk_groups * block_sums;
    const ThreadMemory scratch(
        threads, weight_bytes + (sum_count + 32 * panel_blocks) * std::int64_t(sizeof(float)));
#pragma omp parallel num_threads(threads)
    {
        auto* packed = scratch.own<std::uint8_t>();
        auto* sums = reinterpret_cast<float*>(packed + weight_bytes);
        float* bias = sums + sum_count;
#pragma omp for schedule(static)
        for (std::int64_t group = 0; group < groups; ++group) {
            for (std::int64_t row = 0; row < group_rows; ++row) {
                const std::int64_t from = sorted.source[std::size_t(group * group_rows + row)];
                std::uint8_t* to = memory + group * bytes + row / 16 * tile_bytes + row % 16 * 64;
                for (std::int64_t tile = 0; tile < tiles; ++tile, to += 2 * tile_bytes) {
                    if (from < 0) {
                        std::memset(to, 0, 64);
                    } else {
                        std::memcpy(to, x.data + from * x.row_stride + tile * tile_depth, 64);
                    }
                }
            }
        }
        Products::begin();
#pragma omp for schedule(dynamic, 1)
        for (std::int64_t i = 0; i < std::int64_t(gate_panels.size()); ++i) {
            const std::int64_t expert = gate_panels[std::size_t(i)].expert, block = gate_panels[std::size_t(i)].block;
            const std::int64_t count = gate_panels[std::size_t(i)].blocks;
            const std::int64_t group = sorted.first_group[std::size_t(expert)];
            copy_bias(gate, expert, 16 * block, 16 * count, bias);
            copy_bias(up, expert, 16 * block, 16 * count, bias + 16 * count);
            const auto pack = [&](const DepthPart& part) {
                pack_half(gate, expert, 16 * block, 16, count, part, packed);
                pack_half(up, expert, 16 * block, 16, count, part, packed + tile_bytes);
            };
            multiply_groups<Products>(
                memory + group * bytes, sorted.rows[std::size_t(expert)], packed, count, tiles, sums, pack,
                StoreExpertGate{function, bias, 16 * count, gated + group * inner_bytes, inner_bytes, 16 * block});
        }
#pragma omp for schedule(dynamic, 1)
        for (std::int64_t i = 0; i < std::int64_t(down_panels.size()); ++i) {
            const std::int64_t expert = down_panels[std::size_t(i)].expert, block = down_panels[std::size_t(i)].block;
            const std::int64_t count = down_panels[std::size_t(i)].blocks;
            const std::int64_t group = sorted.first_group[std::size_t(expert)];
            copy_bias(down, expert, 32 * block, 32 * count, bias);
            const auto pack = [&](const DepthPart& part) {
                pack_half(down, expert, 32 * block, 32, count, part, packed);
                pack_half(down, expert, 32 * block + 16, 32, count, part, packed + tile_bytes);
            };
            multiply_groups<Products>(
                gated + group * inner_bytes, sorted.rows[std::size_t(expert)], packed, count, inner_tiles, sums, pack,
                StoreExpert{bias, results + group * group_rows * hidden + 32 * block, hidden});
        }
        Products::end();
#pragma omp for schedule(static)
        for (std::int64_t row = 0; row < chosen.count; ++row) {
            const std::int64_t first = row * chosen.chosen;
            add_experts(results, sorted.place.data() + first, chosen.weights + first, chosen.chosen, hidden,
                        out + row * hidden);
        }
    }
}

}  // namespace

void bfloat16_experts(const Matrix<bfloat16>& x, const ChosenExperts& chosen, const ExpertWeights& gate,
                      const ExpertWeights& up, const ExpertWeights& down, const ExpertGate& function,
                      std::uint8_t* memory, bfloat16* out, int threads, InstructionSet instructions) {
    if (instructions < InstructionSet::avx512_bf16) throw std::invalid_argument(no_bfloat16_products);
    const auto with = instructions == InstructionSet::amx ? run<AmxProducts> : run<DotProducts>;
    with(x, chosen, gate, up, down, function, memory, out, threads);
}

#else

void bfloat16_experts(const Matrix<bfloat16>&, const ChosenExperts&, const ExpertWeights&, const ExpertWeights&,
                      const ExpertWeights&, const ExpertGate&, std::uint8_t*, bfloat16*, int, InstructionSet) {
    throw std::invalid_argument(no_bfloat16_products);
}

#endif

}  // namespace instsel
