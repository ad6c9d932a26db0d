// One body of portable code, compiled for several instruction sets and chosen at run time.
#pragma once

#include <string>

namespace instsel {

// Each has all that those before it have: avx512 with its byte, word, double word and vector length extensions,
// avx512_bf16 the dot products of bfloat16, amx its tile products. `plain` is what every processor of the kind has (SSE2
// on x86-64, NEON on Arm).
enum class InstructionSet { plain, avx2, avx512, avx512_bf16, amx };

// The best that this processor has, unless `name` (as above) asks for a lesser one. "" is the best.
// Throws std::invalid_argument if the name is unknown or the processor lacks it, or the operating system keeps its
// registers from this process.
InstructionSet choose_instruction_set(const std::string& name);
const char* name_of(InstructionSet instructions);

constexpr const char* no_bfloat16_products = "instruction_set: expected avx512_bf16 or amx for products in bfloat16";

// Of one body's variants, that for these instructions.
template <class Function>
Function pick(Function plain, Function avx2, Function avx512, InstructionSet instructions) {
    return instructions >= InstructionSet::avx512 ? avx512 : instructions == InstructionSet::avx2 ? avx2 : plain;
}

}  // namespace instsel

// A function that must be inlined into its callers, so that each caller compiles it for its own instruction set.
#define INSTSEL_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__)
#define INSTSEL_AVX2 __attribute__((target("avx2,fma")))
#define INSTSEL_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")))
#define INSTSEL_AMX \
    __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")))
#define INSTSEL_AMX_BF16                                                                                       \
    __attribute__((target("amx-tile,amx-bf16,avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,"          \
                          "prefer-vector-width=512")))
#else
#define INSTSEL_AVX2
#define INSTSEL_AVX512
#endif

// A body, which calls inlined functions, once per instruction set, whose vectors have `lanes` floats; `header` is the
// template's, or nothing. INSTSEL_PICK(name, instructions) is the function for these, `name` with the template's
// arguments.
#define INSTSEL_VARIANTS(header, name, parameters, body)                  \
    header void plain_##name parameters {                                 \
        [[maybe_unused]] constexpr int lanes = 4;                         \
        body;                                                             \
    }                                                                     \
    header INSTSEL_AVX2 void avx2_##name parameters {                     \
        [[maybe_unused]] constexpr int lanes = 8;                         \
        body;                                                             \
    }                                                                     \
    header INSTSEL_AVX512 void avx512_##name parameters {                 \
        [[maybe_unused]] constexpr int lanes = 16;                        \
        body;                                                             \
    }
#define INSTSEL_PICK(name, instructions) pick(plain_##name, avx2_##name, avx512_##name, instructions)
