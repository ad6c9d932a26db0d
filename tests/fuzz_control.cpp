// Faults on purpose: what `make fuzz` must report before it may be believed. Compiled with the flags of the fuzzed module.
#include <cstdint>

extern "C" {

float read_past(const float* values, std::int64_t count) { return values[count]; }

// As tile loads and masked loads are: no instrumentation sees it, only the page behind the buffer.
__attribute__((no_sanitize("address"))) float read_past_unseen(const float* values, std::int64_t count) {
    return *const_cast<const volatile float*>(values + count);
}

float read_misaligned(const std::uint8_t* bytes) { return *reinterpret_cast<const float*>(bytes + 1); }

std::int64_t overflow(std::int64_t value) { return value + 1; }
}
