// What the checks of the C++ algorithms share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "simd/elements.h"

namespace instsel {

inline int failures = 0;

inline void expect(bool holds, const std::string& what) {
    if (holds) return;
    std::printf("FAILED: %s\n", what.c_str());
    ++failures;
}

inline bool close(double got, double expected, double tolerance) {
    if (std::isnan(expected)) return std::isnan(got);
    return got == expected || std::fabs(got - expected) <= tolerance * (1.0 + std::fabs(expected));
}

inline std::uint16_t bfloat16_bits(float value) {
    const auto bits = bit_cast<std::uint32_t>(value);
    return std::uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline std::uint16_t float16_bits(float value) {  // normal numbers only, truncated
    const auto bits = bit_cast<std::uint32_t>(value);
    if (std::fabs(value) < 1e-4f) return 0;
    return std::uint16_t(((bits >> 16) & 0x8000u) | ((((bits >> 23) & 0xffu) - 112u) << 10) | ((bits >> 13) & 0x3ffu));
}

template <class Element>
Element element(float value);
template <>
inline float element<float>(float value) { return value; }
template <>
inline bfloat16 element<bfloat16>(float value) { return {bfloat16_bits(value)}; }
template <>
inline float16 element<float16>(float value) { return {float16_bits(value)}; }

inline std::mt19937 generator(7);

template <class Element>
std::vector<Element> random_matrix(std::int64_t rows, std::int64_t columns, float spread) {
    std::normal_distribution<float> normal(0.0f, spread);
    std::vector<Element> values;
    for (std::int64_t i = 0; i < rows * columns; ++i) values.push_back(element<Element>(normal(generator)));
    return values;
}

inline double plain_logsumexp(const std::vector<double>& z) {
    double largest = -std::numeric_limits<double>::infinity();
    for (const double value : z) largest = std::max(largest, value);
    if (std::isinf(largest)) return largest;
    double sum = 0.0;
    for (const double value : z) sum += std::exp(value - largest);
    return largest + std::log(sum);
}

inline std::vector<InstructionSet> instruction_sets_here() {
    std::vector<InstructionSet> sets;
    for (int i = 0; i <= int(choose_instruction_set("")); ++i) sets.push_back(InstructionSet(i));
    return sets;
}

// Defined in files of their own.
void check_tree_attention();
void check_recurrences();
void check_allocations();

}  // namespace instsel
