// Memory at multiples of a cache line, which vector and tile loads want.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

#include "simd/threads.h"

namespace instsel {

struct FreeAligned {
    void operator()(std::uint8_t* pointer) const { ::operator delete(pointer, std::align_val_t(64)); }
};
using AlignedBuffer = std::unique_ptr<std::uint8_t, FreeAligned>;

inline AlignedBuffer allocate_aligned(std::int64_t bytes) {
    return AlignedBuffer(static_cast<std::uint8_t*>(::operator new(std::size_t(bytes), std::align_val_t(64))));
}

// Memory for each thread of a parallel region, allocated before it begins: an exception must not leave a thread.
class ThreadMemory {
  public:
    ThreadMemory(int threads, std::int64_t bytes)
        : bytes_((bytes + 63) / 64 * 64), buffer_(allocate_aligned(threads * bytes_)) {}

    // That of the thread that asks.
    template <class Value>
    Value* own() const {
        return reinterpret_cast<Value*>(buffer_.get() + thread_number() * bytes_);
    }

  private:
    std::int64_t bytes_;
    AlignedBuffer buffer_;
};

}  // namespace instsel
