#include "simd/instruction_sets.h"

#include <iterator>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace instsel {
namespace {

constexpr const char* names[] = {"plain", "avx2", "avx512", "avx512_bf16", "amx"};

#if defined(__x86_64__) && defined(__linux__) && defined(SYS_arch_prctl)
bool request_amx() {
    unsigned eax = 0;
    unsigned ebx = 0;
    unsigned ecx = 0;
    unsigned edx = 0;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
    const bool amx_bf16 = (edx >> 22) & 1;
    const bool amx_tile = (edx >> 24) & 1;
    if (!amx_bf16 || !amx_tile) return false;
    // The tile registers are large, so Linux gives them to a process only when it asks (Documentation/arch/x86/xstate).
    constexpr long request_permission = 0x1023;
    constexpr long tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#elif defined(__x86_64__)
bool request_amx() { return false; }
#endif

InstructionSet find_best() {
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return InstructionSet::plain;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
        return InstructionSet::avx2;
    }
    if (!__builtin_cpu_supports("avx512bf16")) return InstructionSet::avx512;
    // Every processor with AMX so far has the instructions above; the kernels need both.
    return request_amx() ? InstructionSet::amx : InstructionSet::avx512_bf16;
#else
    return InstructionSet::plain;
#endif
}

InstructionSet best() {
    static const InstructionSet found = find_best();
    return found;
}

}  // namespace

const char* name_of(InstructionSet instructions) { return names[int(instructions)]; }

InstructionSet choose_instruction_set(const std::string& name) {
    if (name.empty()) return best();
    for (int i = 0; i < int(std::size(names)); ++i) {
        if (name != names[i]) continue;
        if (InstructionSet(i) > best()) throw std::invalid_argument("instruction_set: this processor has no " + name);
        return InstructionSet(i);
    }
    throw std::invalid_argument("instruction_set: expected \"\", \"plain\", \"avx2\", \"avx512\", \"avx512_bf16\" or "
                                "\"amx\", got \"" + name + "\"");
}

}  // namespace instsel
