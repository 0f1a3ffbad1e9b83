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

/// The factors that a row or a column brings to a product: signed mantissas of 11 bits, and the exponents of their first bit.
template <int DEPTH>
struct Factors {
    int32_t mantissa[DEPTH], exponent[DEPTH];
    bool finite = true;

    /// Far below that of every number.
    static constexpr int32_t OF_ZERO = -5000;

    explicit Factors(const float* values) {
        for (int k = 0; k < DEPTH; k++) {
            uint32_t bits = __float_as_uint(values[k]);
            int32_t exponent = bits >> 23 & 255, mantissa = (bits >> 13 & 1023) | (exponent ? 1024 : 0);
            finite &= exponent != 255;
            this->mantissa[k] = bits >> 31 ? -mantissa : mantissa;
            this->exponent[k] = mantissa ? std::max(exponent, 1) - 127 : OF_ZERO;
        }
    }
};

/// `sum` plus the products of a row and a column as an H100 adds them: all are cut two bits below the last place of the
/// largest, and the total is rounded towards zero (arXiv 2512.07004).
template <int DEPTH>
inline float tensor_core_sum(float sum, const Factors<DEPTH>& row, const Factors<DEPTH>& column) {
    constexpr int EXTRA = 2;
    uint32_t bits = __float_as_uint(sum);
    int32_t exponent = std::max(int32_t(bits >> 23 & 255), 1) - 127;
    int32_t mantissa = int32_t(bits & 0x7fffff) | (bits >> 23 & 255 ? 1 << 23 : 0);
    int32_t largest = std::max(-133, mantissa ? exponent : Factors<DEPTH>::OF_ZERO);
    for (int k = 0; k < DEPTH; k++) largest = std::max(largest, row.exponent[k] + column.exponent[k]);
    int32_t products = 0;  // 16 of 27 bits each fit.
    for (int k = 0; k < DEPTH; k++) {
        int32_t product = row.mantissa[k] * column.mantissa[k];
        int32_t cut = std::min(31, largest - row.exponent[k] - column.exponent[k]);
        int32_t size = std::abs(product) << (3 + EXTRA) >> cut;
        products += product < 0 ? -size : size;
    }
    int64_t before = int64_t(mantissa) << EXTRA >> std::min(62, largest - exponent);
    int64_t total = products + (bits >> 31 ? -before : before);
    uint64_t size = uint64_t(std::abs(total)), cut = 0;
    while (size >> cut >> 24) cut++;
    float rounded = std::ldexp(float(size >> cut), int(cut) + largest - 23 - EXTRA);
    return total < 0 ? -rounded : rounded;
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
        std::vector<Factors<DEPTH>> rows(left, left + 16), columns(right, right + 8);
        for (int lane = 0; lane < WARP_SIZE; lane++) {
            Fragments& f = *reinterpret_cast<Fragments*>(slots[lane]);
            for (int i = 0; i < 4; i++) {
                int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
                if (!settings().hopper_sums) {
                    float product = 0.0f;
                    for (int k = 0; k < DEPTH; k++) product += left[row][k] * right[column][k];
                    f.sum[i] += product;
                } else if (rows[row].finite && columns[column].finite && std::isfinite(f.sum[i])) {
                    f.sum[i] = tensor_core_sum(f.sum[i], rows[row], columns[column]);
                } else {
                    // An infinity or NaN, which stays.
                    float odd = 0.0f;
                    for (int k = 0; k < DEPTH && std::isfinite(odd); k++) odd = left[row][k] * right[column][k];
                    if (!std::isfinite(odd)) f.sum[i] += odd;
                }
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
