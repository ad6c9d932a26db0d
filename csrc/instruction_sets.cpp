#include "instruction_sets.h"

#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace instsel {

InstructionSet choose_instruction_set(const std::string& name) {
    bool avx2 = false;
    bool avx512 = false;
#if defined(__x86_64__)
    avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    if (name.empty()) {
        return avx512 ? InstructionSet::avx512 : avx2 ? InstructionSet::avx2 : InstructionSet::plain;
    }
    if (name == "plain") return InstructionSet::plain;
    if (name == "avx2" && avx2) return InstructionSet::avx2;
    if (name == "avx512" && avx512) return InstructionSet::avx512;
    if (name == "avx2" || name == "avx512") {
        throw std::invalid_argument("instruction_set: this processor has no " + name);
    }
    throw std::invalid_argument("instruction_set: expected \"\", \"plain\", \"avx2\" or \"avx512\", got \"" + name +
                                "\"");
}

#if defined(__x86_64__) && defined(__linux__) && defined(SYS_arch_prctl)
static bool request_amx() {
    unsigned eax = 0;
    unsigned ebx = 0;
    unsigned ecx = 0;
    unsigned edx = 0;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
    const bool amx_bf16 = (edx >> 22) & 1;
    const bool amx_tile = (edx >> 24) & 1;
    // Every processor with AMX so far has these conversions too; the attention kernel needs them.
    if (!__builtin_cpu_supports("avx512bf16")) return false;
    if (!amx_bf16 || !amx_tile || choose_instruction_set("") != InstructionSet::avx512) return false;
    // The tile registers are large, so Linux gives them to a process only when it asks (Documentation/arch/x86/xstate).
    constexpr long request_permission = 0x1023;
    constexpr long tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#else
static bool request_amx() { return false; }
#endif

bool has_amx_bfloat16() {
    static const bool granted = request_amx();
    return granted;
}

}  // namespace instsel
