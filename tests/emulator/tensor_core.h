// Tensor-core products, ldmatrix and asynchronous copies, with the fragment layouts of the PTX manual.
#pragma once

namespace emulator {

/// To nearest, ties away from zero: cvt.rna.tf32.f32.
inline uint32_t round_to_tf32(float value) {
    uint32_t bits = __float_as_uint(value);
    if ((bits & 0x7f800000) == 0x7f800000) return bits;
    return (bits + 0x1000) & ~0x1fffu;
}

/// To nearest, ties to even: cvt.rn.bf16.f32.
inline uint16_t round_to_bf16(float value) {
    uint32_t bits = __float_as_uint(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/// To nearest, ties to even, infinite beyond the largest: cvt.rn.f16.f32.
inline uint16_t round_to_f16(float value) {
    uint32_t bits = __float_as_uint(value), size = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;
    if (size > 0x7f800000) return 0x7fff;
    if (size >= 0x477ff000) return uint16_t(sign | 0x7c00);
    // Below 2^-14 the numbers are the multiples of 2^-24.
    if (size < 0x38800000) return uint16_t(sign | uint32_t(std::nearbyint(std::fabs(value) * 16777216.0f)));
    return uint16_t(sign | (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13);
}

inline float f16_value(uint16_t bits) {
    uint32_t exponent = bits >> 10 & 31, fraction = bits & 1023;
    float size = exponent == 0    ? float(fraction) / 16777216.0f
                 : exponent == 31 ? (fraction ? NAN : INFINITY)
                                  : __uint_as_float((exponent + 112) << 23 | fraction << 13);
    return bits & 0x8000 ? -size : size;
}

/// The exponent of a value; far below all others for zero.
inline int exponent(float value) { return value == 0.0f ? -10000 : std::ilogb(value); }

/// `sum` and the products of a row and a column as an H100 adds them: each cut two bits below the last place of the
/// largest, the total rounded towards zero (arXiv 2512.07004).
template <int DEPTH>
inline float hopper_sum(float sum, const float* row, const float* column) {
    int largest = std::max(exponent(sum), -133);
    for (int k = 0; k < DEPTH; k++) {
        if (!std::isfinite(row[k] * column[k])) return sum + row[k] * column[k];
        largest = std::max(largest, exponent(row[k]) + exponent(column[k]));
    }
    if (!std::isfinite(sum)) return sum;
    double units = std::ldexp(1.0, 23 + 2 - largest), total = std::trunc(double(sum) * units);
    for (int k = 0; k < DEPTH; k++) total += std::trunc(double(row[k]) * double(column[k]) * units);
    total /= units;
    float nearest = float(total);
    return std::fabs(double(nearest)) > std::fabs(total) ? std::nextafter(nearest, 0.0f) : nearest;
}

/// What a lane brings to a product: fragments of a and b, and its sums.
struct Fragments {
    uint32_t a[4], b[2];
    float sum[4];
};

/// A product of the warp: `DEPTH` values deep, `PER_WORD` of them in a register, unpacked by `value`.
template <int DEPTH, int PER_WORD, class F>
inline void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], F value) {
    Hidden hidden;
    Fragments mine;
    memcpy(mine.a, a, sizeof a);
    memcpy(mine.b, b, sizeof b);
    memcpy(mine.sum, sum, sizeof sum);
    auto slots = exchange(~0u, &mine, sizeof mine, [&](Exchange& e, unsigned char (*slots)[Exchange::BYTES]) {
        if (e.arrived != ~0u) fail("a tensor-core product needs all 32 lanes");
        static thread_local float left[16][DEPTH], right[8][DEPTH];
        for (int lane = 0; lane < WARP_SIZE; lane++) {
            Fragments& f = *reinterpret_cast<Fragments*>(slots[lane]);
            int group = lane / 4, first = lane % 4 * PER_WORD;
            for (int part = 0; part < PER_WORD; part++) {
                for (int r = 0; r < 4; r++) {
                    left[group + 8 * (r % 2)][first + part + DEPTH / 2 * (r / 2)] = value(f.a[r], part);
                }
                for (int r = 0; r < 2; r++) right[group][first + part + DEPTH / 2 * r] = value(f.b[r], part);
            }
        }
        for (int lane = 0; lane < WARP_SIZE; lane++) {
            Fragments& f = *reinterpret_cast<Fragments*>(slots[lane]);
            for (int i = 0; i < 4; i++) {
                const float *row = left[lane / 4 + 8 * (i / 2)], *column = right[lane % 4 * 2 + i % 2];
                if (settings().hopper_sums) {
                    f.sum[i] = hopper_sum<DEPTH>(f.sum[i], row, column);
                    continue;
                }
                float product = 0.0f;
                for (int k = 0; k < DEPTH; k++) product += row[k] * column[k];
                f.sum[i] += product;
            }
        }
    });
    memcpy(sum, reinterpret_cast<Fragments*>(slots[fiber().lane])->sum, sizeof sum);
}

/// The hardware ignores the 13 lower bits: a kernel that forgets to round loses precision here as there.
inline void multiply_tf32(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    multiply<8, 1>(sum, a, b, [](uint32_t bits, int) { return __uint_as_float(bits & ~0x1fffu); });
}

inline void multiply_bf16(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    multiply<16, 2>(sum, a, b, [](uint32_t bits, int part) { return __uint_as_float(bits >> 16 * part << 16); });
}

inline void multiply_f16(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    multiply<16, 2>(sum, a, b, [](uint32_t bits, int part) { return f16_value(uint16_t(bits >> 16 * part)); });
}

inline void load_matrices(uint32_t (&fragment)[4], const void* row, bool transposed) {
    if (reinterpret_cast<uintptr_t>(row) % 16) fail("ldmatrix: a row does not start on 16 bytes");
    auto nothing = [](Exchange&, unsigned char (*)[Exchange::BYTES]) {};
    const uint16_t* rows[WARP_SIZE];
    int lane;
    {
        Hidden hidden;
        auto slots = exchange(~0u, &row, sizeof row, nothing);
        lane = fiber().lane;
        for (int i = 0; i < WARP_SIZE; i++) memcpy(&rows[i], slots[i], sizeof rows[i]);
    }
    for (int m = 0; m < 4; m++) {
        uint16_t halves[2];
        for (int e = 0; e < 2; e++) {
            int other = lane % 4 * 2 + e;
            halves[e] = transposed ? rows[m * 8 + other][lane / 4] : rows[m * 8 + lane / 4][other];
        }
        fragment[m] = halves[0] | uint32_t(halves[1]) << 16;
    }
    exchange(~0u, nullptr, 0, nothing);  // Nobody goes on before all have read.
}

/// Only notes the copy: the data is NaN until the thread waits for it.
inline void copy_async(void* to, const void* from, int bytes, bool inside) {
    uintptr_t addresses = reinterpret_cast<uintptr_t>(to) | (inside ? reinterpret_cast<uintptr_t>(from) : 0);
    if (addresses % bytes) fail("cp.async: an address is not aligned to the size of the copy");
    for (int i = 0; i < bytes / 4; i++) static_cast<uint32_t*>(to)[i] = NEVER_WRITTEN;
    Hidden hidden;
    fiber().open_group.push_back({to, from, bytes / 4, inside});
}

inline void copy_async_commit() {
    Hidden hidden;
    Fiber& f = fiber();
    f.groups.push_back(std::move(f.open_group));
    f.open_group.clear();
}

inline void copy_async_wait(int pending) {
    auto& groups = fiber().groups;
    while (int(groups.size()) > pending) {
        for (const AsyncCopy& copy : groups.front()) {
            for (int i = 0; i < copy.words; i++) {
                uint32_t word = copy.inside ? static_cast<const uint32_t*>(copy.from)[i] : 0;
                static_cast<uint32_t*>(copy.to)[i] = word;
            }
        }
        groups.erase(groups.begin());
    }
}

}  // namespace emulator
