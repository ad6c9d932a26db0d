// The number of the thread that asks, also where OpenMP is absent.
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace instsel {

inline int thread_number() {
#if defined(_OPENMP)
    return omp_get_thread_num();
#else
    return 0;
#endif
}

}  // namespace instsel
