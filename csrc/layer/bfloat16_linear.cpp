#include "layer/bfloat16_linear.h"

#include <algorithm>
#include <stdexcept>

#include "layer/block_products.h"
#include "layer/block_stores.h"
#include "simd/aligned_buffer.h"

namespace instsel {

#if defined(__x86_64__)
namespace {

// Rows of a chunk, a unit of parallel work: short, as cores are not equally fast; longer with a large cache where the
// depth is taken in several passes, each of which fetches its weights again.
constexpr std::int64_t chunk_rows = 128;
constexpr std::int64_t deep_chunk_bytes = 8192;  // of the second-level cache, a row
constexpr std::int64_t tasks_a_thread = 8;
constexpr std::int64_t sums_bytes = block_sums * std::int64_t(sizeof(float));

// Of weights that are packed at a time, so that memory does not grow with them: those of a gate and its twin can be
// hundreds of megabytes. Where the C library gives large memory back after each call, touching it anew took a fifth of
// the time of such a product.
constexpr std::int64_t slab_bytes = 24 << 20;

struct PackedWeights {
    std::uint8_t* data;  // [blocks][depth tiles][2][tile]
    std::int64_t first;  // block
    std::int64_t tiles;

    std::uint8_t* block(std::int64_t index) const { return data + (index - first) * 2 * tiles * tile_bytes; }
};

// What a thread needs beside the packed weights.
struct Scratch {
    std::uint8_t* rows;  // 32 packed rows of some of the depth
    float* sums;         // of all blocks of a task, or of two where the depth is taken at once
};

// Whether 32 rows stay in the first-level cache where they are: not if they are so far apart that all share its few lines
// of the same address bits. Packing them takes a tenth of the time, more where few blocks of weights meet them.
bool stays_in_cache(const Matrix<bfloat16>& x) {
    return x.row_stride % tile_depth == 0 && 2 * x.row_stride % 2048 != 0;
}

// Rows [first, last) of x times a panel of weights.
template <class Products, class Store>
INSTSEL_AMX_BF16 void multiply_panel(const Matrix<bfloat16>& x, std::int64_t first, std::int64_t last,
                                     const PackedWeights& weights, std::int64_t first_block, std::int64_t last_block,
                                     const Store& store, const Scratch& scratch) {
    const std::int64_t passes = depth_passes(weights.tiles);
    const bool is_cached = 2 * x.rows * x.columns <= Products::second_level_cache / 2;
    Block before{scratch.sums, 0, 0, 0};
    for (std::int64_t pass = 0; pass < passes; ++pass) {
        const std::int64_t tile = weights.tiles * pass / passes;
        const std::int64_t tiles = weights.tiles * (pass + 1) / passes - tile;
        std::int64_t place = 0;
        for (std::int64_t row = first; row < last; row += block_rows) {
            const int count = int(std::min(block_rows, last - row));
            const bfloat16* from = x.data + row * x.row_stride + tile * tile_depth;
            const bool in_place = count == block_rows && stays_in_cache(x);
            for (int half = 0; half < 2 && !in_place; ++half) {
                pack_left(reinterpret_cast<const std::uint16_t*>(from) + 16 * half * x.row_stride, x.row_stride,
                          std::clamp(count - 16 * half, 0, 16), tiles * tile_depth, 2 * tile_bytes,
                          scratch.rows + half * tile_bytes);
            }
            const MatrixRows rows{reinterpret_cast<const std::uint8_t*>(from), 2 * x.row_stride, 32 * x.row_stride};
            NextRows next{};
            if (row + block_rows < last && !is_cached) {
                next = {rows.first + block_rows * rows.row_bytes, rows.row_bytes,
                        std::min(block_rows, last - row - block_rows), tiles,
                        (tiles - 1) / (last_block - first_block) + 1, 0};
            }
            for (std::int64_t block = first_block; block < last_block; ++block) {
                const std::uint8_t* right = weights.block(block) + 2 * tile * tile_bytes;
                const Block now{scratch.sums + place * block_sums, row, block, pass + 1 == passes ? count : 0};
                if (in_place) {
                    multiply_block<Products>(rows, right, tiles, pass == 0, now, before, store, next);
                } else {
                    multiply_block<Products>(ConsecutiveTiles{scratch.rows}, right, tiles, pass == 0, now, before,
                                             store, next);
                }
                before = now;
                place = passes > 1 ? place + 1 : 1 - place;
            }
        }
    }
    for (int row = 0; row < before.rows; ++row) store(before, row);
}

// One half of every block of `weights` from consecutive 16 rows of a matrix, `step` rows apart.
struct WeightHalf {
    Matrix<bfloat16> matrix;
    std::int64_t first_row;
    std::int64_t step;
};

template <class Products, class Store>
INSTSEL_AMX_BF16 void multiply(const Matrix<bfloat16>& x, const WeightHalf (&halves)[2], std::int64_t blocks,
                               const Store& store, int threads) {
    const std::int64_t tiles = x.columns / tile_depth, block_bytes = 2 * tiles * tile_bytes;
    const std::int64_t slab = std::clamp<std::int64_t>(slab_bytes / block_bytes, 1, blocks);
    const AlignedBuffer packed = allocate_aligned(slab * block_bytes);
    const std::int64_t rows_bytes = 2 * std::min(tiles, largest_depth) * tile_bytes;
    constexpr std::int64_t cache = Products::second_level_cache;
    const std::int64_t chunk = tiles > largest_depth ? cache / deep_chunk_bytes : chunk_rows;
    const std::int64_t chunks = (x.rows + chunk - 1) / chunk;
    const std::int64_t sums_a_block = depth_passes(tiles) > 1 ? chunk / block_rows * sums_bytes : 0;
    // Panels of weights that stay in half of the cache with their sums while a chunk of rows passes by, or smaller ones,
    // so that threads with few rows to share do not wait for the last of them; as equal as they can be.
    const std::int64_t largest = std::clamp<std::int64_t>(slab * chunks / (tasks_a_thread * threads), 1,
                                                          cache / 2 / (rows_bytes + sums_a_block));
    const std::int64_t panel = (slab - 1) / ((slab + largest - 1) / largest) + 1;
    const std::int64_t scratch_bytes = rows_bytes + std::max(panel * sums_a_block, 2 * sums_bytes);
    const ThreadMemory scratch(threads, scratch_bytes);
#pragma omp parallel num_threads(threads)
    {
        Products::begin();
        for (std::int64_t first = 0; first < blocks; first += slab) {
            const std::int64_t count = std::min(slab, blocks - first);
            const PackedWeights weights{packed.get(), first, tiles};
#pragma omp for schedule(static)
            for (std::int64_t half = 2 * first; half < 2 * (first + count); ++half) {
                const WeightHalf& from = halves[half % 2];
                const std::int64_t row = from.first_row + half / 2 * from.step;
                pack_right(reinterpret_cast<const std::uint16_t*>(from.matrix.data) + row * from.matrix.row_stride,
                           from.matrix.row_stride, std::clamp<std::int64_t>(from.matrix.rows - row, 0, 16), x.columns,
                           2 * tile_bytes, weights.block(half / 2) + half % 2 * tile_bytes);
            }
            const std::int64_t panels = (count + panel - 1) / panel;
#pragma omp for schedule(dynamic, 1)
            for (std::int64_t task = 0; task < panels * chunks; ++task) {
                const std::int64_t block = first + task / chunks * panel, row = task % chunks * chunk;
                auto* own = scratch.own<std::uint8_t>();
                multiply_panel<Products>(x, row, std::min(x.rows, row + chunk), weights, block,
                                         std::min(first + count, block + panel), store,
                                         {own, reinterpret_cast<float*>(own + rows_bytes)});
            }
        }
        Products::end();
    }
}

template <class Store>
void multiply_by(InstructionSet instructions, const Matrix<bfloat16>& x, const WeightHalf (&halves)[2],
                 std::int64_t blocks, const Store& store, int threads) {
    if (instructions < InstructionSet::avx512_bf16) throw std::invalid_argument(no_bfloat16_products);
    if (x.columns == 0 || x.columns % tile_depth != 0) {
        throw std::invalid_argument("x: expected a multiple of 32 columns, not 0");
    }
    if (x.rows == 0 || blocks == 0) return;
    const auto run = instructions == InstructionSet::amx ? multiply<AmxProducts, Store> : multiply<DotProducts, Store>;
    run(x, halves, blocks, store, threads);
}

}  // namespace

void bfloat16_linear(const Matrix<bfloat16>& x, const Matrix<bfloat16>& weight, const bfloat16* bias, bool add,
                     bfloat16* out, int threads, InstructionSet instructions) {
    multiply_by(instructions, x, {{weight, 0, 32}, {weight, 16, 32}}, (weight.rows + 31) / 32,
                StoreLinear{out, bias, weight.rows, add}, threads);
}

void bfloat16_gated_linear(const Matrix<bfloat16>& x, const Matrix<bfloat16>& gate, const Matrix<bfloat16>& up,
                           Activation activation, bfloat16* out, int threads, InstructionSet instructions) {
    const WeightHalf halves[2] = {{gate, 0, 16}, {up, 0, 16}};
    const std::int64_t blocks = (gate.rows + 15) / 16;
    if (activation == Activation::silu) {
        multiply_by(instructions, x, halves, blocks, StoreGated<Activation::silu>{out, gate.rows}, threads);
    } else {
        multiply_by(instructions, x, halves, blocks, StoreGated<Activation::gelu_tanh>{out, gate.rows}, threads);
    }
}

#else

void bfloat16_linear(const Matrix<bfloat16>&, const Matrix<bfloat16>&, const bfloat16*, bool, bfloat16*, int,
                     InstructionSet) {
    throw std::invalid_argument(no_bfloat16_products);
}

void bfloat16_gated_linear(const Matrix<bfloat16>&, const Matrix<bfloat16>&, const Matrix<bfloat16>&, Activation,
                           bfloat16*, int, InstructionSet) {
    throw std::invalid_argument(no_bfloat16_products);
}

#endif

}  // namespace instsel
