#include "recurrence/node_states.h"

namespace instsel {

StatePlaces places_of(const PackNodes& nodes) {
    StatePlaces places;
    places.place.resize(nodes.count);
    places.goes_on.resize(nodes.count);
    std::vector<std::int64_t> children(nodes.count, 0), free;
    for (std::int64_t node = 0; node < nodes.count; ++node) {
        if (nodes.parents[node] >= 0) ++children[nodes.parents[node]];
    }
    for (std::int64_t node = 0; node < nodes.count; ++node) {
        const std::int64_t parent = nodes.parents[node];
        places.goes_on[node] = children[node] > 0 || nodes.kept[node] >= 0;
        if (parent >= 0 && --children[parent] == 0) {
            places.place[node] = places.place[parent];
        } else if (!free.empty()) {
            places.place[node] = free.back();
            free.pop_back();
        } else {
            places.place[node] = places.count++;
        }
        if (children[node] == 0) free.push_back(places.place[node]);
    }
    return places;
}

}  // namespace instsel
