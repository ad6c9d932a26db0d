// What OpenMP says of threads, also where it is absent.
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace instsel {

// The number of the thread that asks.
inline int thread_number() {
#if defined(_OPENMP)
    return omp_get_thread_num();
#else
    return 0;
#endif
}

// How many threads a parallel loop that does not say takes, where it is begun by this thread; and what that was before.
inline int set_openmp_threads([[maybe_unused]] int count) {
#if defined(_OPENMP)
    const int before = omp_get_max_threads();
    omp_set_num_threads(count);
    return before;
#else
    return 1;
#endif
}

// Gives the calling thread a team of so many threads, itself one of them, which stays until the thread ends or begins
// a loop with fewer; how many it has become.
inline int form_team([[maybe_unused]] int count) {
    int formed = 0;
#if defined(_OPENMP)
#pragma omp parallel num_threads(count) reduction(+ : formed)
#endif
    formed += 1;
    return formed;
}

}  // namespace instsel
