// Memory at multiples of a cache line, which vector and tile loads want.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace instsel {

struct FreeAligned {
    void operator()(std::uint8_t* pointer) const { ::operator delete(pointer, std::align_val_t(64)); }
};
using AlignedBuffer = std::unique_ptr<std::uint8_t, FreeAligned>;

inline AlignedBuffer allocate_aligned(std::int64_t bytes) {
    return AlignedBuffer(static_cast<std::uint8_t*>(::operator new(std::size_t(bytes), std::align_val_t(64))));
}

}  // namespace instsel
