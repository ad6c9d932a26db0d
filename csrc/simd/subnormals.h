// Numbers below 1e-38 as zero: an x86 processor takes a hundred times as long for a product with one of them.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace instsel {

// For the thread that has one, as long as it has.
class SubnormalsAreZero {
#if defined(__x86_64__)
  public:
    SubnormalsAreZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | flush_results | zero_operands); }
    ~SubnormalsAreZero() { _mm_setcsr(before_); }
    SubnormalsAreZero(const SubnormalsAreZero&) = delete;
    SubnormalsAreZero& operator=(const SubnormalsAreZero&) = delete;

  private:
    static constexpr unsigned flush_results = 0x8000, zero_operands = 0x0040;
    unsigned before_;
#endif
};

}  // namespace instsel
